"""A table as a model takes it: blocks of columns, one block for each input of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """n rows of features, numbered through the blocks from left to right.

    Attributes:
        blocks: arrays [n, width], each in the dtype of its input; strings as objects.
    """

    blocks: tuple[NDArray[Any], ...]

    @property
    def n_rows(self) -> int:
        """How many rows."""
        return len(self.blocks[0])

    @property
    def n_features(self) -> int:
        """How many columns, over all blocks."""
        return len(self.places)

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Where each feature lies: (block, column within it)."""
        return tuple((b, c) for b, block in enumerate(self.blocks) for c in range(block.shape[1]))

    def column(self, feature: int) -> NDArray[Any]:
        """The values of a feature, [n], a view."""
        block, column = self.places[feature]
        return self.blocks[block][:, column]

    def take(self, rows: NDArray[np.intp]) -> Table:
        """The rows of these numbers, in this order."""
        return Table(tuple(block[rows] for block in self.blocks))

    def tile(self, copies: int) -> Table:
        """The whole table again and again, in memory of its own."""
        return Table(tuple(np.tile(block, (copies, 1)) for block in self.blocks))

    def slice(self, start: int, stop: int) -> Table:
        """Consecutive rows, a view."""
        return Table(tuple(block[start:stop] for block in self.blocks))

    def codes(self, features: Sequence[int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which rows agree in all of these features.

        Floats agree if their bits do, so that 0.0 and -0.0 differ, and a missing value agrees with itself.

        Returns:
            int[n], the number of each row's value, and int[u], a row that has the value of each number.
        """
        codes = np.zeros(self.n_rows, dtype=np.intp)
        representatives = np.zeros(1, dtype=np.intp)
        for feature in features:
            column = np.ascontiguousarray(self.column(feature))
            if column.dtype.kind == "f":
                column = column.view(f"i{column.itemsize}")
            values, single = np.unique(column, return_inverse=True)
            joint = codes * len(values) + single
            _, representatives, codes = np.unique(joint, return_index=True, return_inverse=True)
        return codes, representatives
