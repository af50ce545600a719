"""Where a class activation map can look: the tensors of a graph that still have height and width, and how to read them.

A *candidate* is a tensor through which everything passes that the score knows of the picture (a cut of the graph), such as
the output of a residual block, and whose axes can be read as channels, height and width: `[n, c, h, w]`, `[n, h, w, c]`,
or a sequence of patches `[n, t, c]` (any order of axes), perhaps with a class token and others in front of the patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxplain.model.graphs.graph import BATCH, Graph, reads
from onnxplain.model.meaning.scores import FLOATS

Array = NDArray[Any]
Shape = tuple[int | str | None, ...]
Grid = tuple[int, int]

_PICTURE_LIKE = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "LpPool",
        "Resize",
        "Upsample",
        "BatchNormalization",
        "ConvInteger",
    }
    | {"DepthToSpace", "SpaceToDepth", "InstanceNormalization", "GroupNormalization", "LRN"}
)
_SAME_AS_BEFORE = frozenset({"Identity", "Cast", "Dropout"})
_MOST_PREFIX_TOKENS = 8  # class token, distillation token, registers
_FEWEST_CHANNELS = 4  # a tensor of three channels or fewer is still the picture


@dataclass(frozen=True)
class Layout:
    """How to read a tensor as maps `[n, c, u, v]`.

    Attributes:
        batch, channel: these axes of the tensor.
        places: the axes of height and width, or the one axis of the sequence of patches.
        grid: u and v.
        prefix: how many tokens stand before the patches.
    """

    batch: int
    channel: int
    places: tuple[int, ...]
    grid: Grid
    prefix: int = 0

    @property
    def _order(self) -> tuple[int, ...]:
        return (self.batch, self.channel, *self.places)

    def to_maps(self, tensor: Array) -> Array:
        """The maps of a tensor, `[n, c, u, v]`; tokens before the patches are left out."""
        ordered = tensor.transpose(self._order)
        if len(self.places) == 2:
            return ordered
        return ordered[:, :, self.prefix :].reshape(*ordered.shape[:2], *self.grid)

    def from_maps(self, maps: Array, like: Array) -> Array:
        """The tensor whose maps these are; tokens before the patches are those of `like` (one picture)."""
        ordered = maps
        if len(self.places) == 1:
            tokens = like.transpose(self._order)[:, :, : self.prefix]
            tokens = np.broadcast_to(tokens, (len(maps), *tokens.shape[1:]))
            ordered = np.concatenate([tokens, maps.reshape(*maps.shape[:2], -1)], axis=2)
        return np.ascontiguousarray(ordered.transpose(np.argsort(self._order)))


@dataclass(frozen=True)
class Candidate:
    """A tensor that can be explained, and how to read it."""

    name: str
    layout: Layout
    channels: int
    operator: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (self.channels, *self.layout.grid)


class SpatialLayers:
    """Finds the tensors of a graph that have height and width.

    Args:
        graph: the model, with the shapes of its tensors.
        source: the input tensor.
        score: the explained tensor.
        size: height and width of the input.
    """

    def __init__(self, graph: Graph, source: str, score: str, size: Grid) -> None:
        self._graph = graph
        self._size = size
        self._path = graph.between(source, score)
        self._source, self._score = source, score
        self._grids = self._grids_of_convolutions()

    def candidates(self) -> list[Candidate]:
        """The cuts of the graph that have height and width above one, in the graph's order."""
        found = []
        for name in self._cuts():
            if self._graph.producer[name].op_type in _SAME_AS_BEFORE:
                continue
            candidate = self.candidate(name)
            if candidate is not None:
                found.append(candidate)
        return found

    def all(self) -> list[Candidate]:
        """Every tensor with height and width, cut or not, in the graph's order."""
        names = [name for node in self._graph.model.graph.node for name in node.output]
        return [candidate for name in names if (candidate := self.candidate(name)) is not None]

    def candidate(self, name: str) -> Candidate | None:
        """The tensor of this name as something to explain, cut or not; None where it has no height and width."""
        return next(iter(self.readings(name)), None)

    def readings(self, name: str) -> list[Candidate]:
        """All ways to read a tensor as maps, the likeliest first: of `[n, 64, 256]` either number may be that of the patches."""
        if name not in self._path or name in {self._source, self._score}:
            return []
        if self._graph.element_type(name) not in FLOATS | {TensorProto.UNDEFINED}:
            return []  # quantised: whole numbers that count from some zero point
        shape = self._graph.shape(name)
        batch = None if shape is None else _batch_axis(shape)
        if shape is None or batch is None:
            return []
        lengths = tuple(length if isinstance(length, int) else 0 for length in shape)
        operator = self._graph.producer[name].op_type
        return [
            Candidate(name, layout, lengths[layout.channel], operator)
            for layout in self._layouts(operator, lengths, batch)
            if lengths[layout.channel] >= _FEWEST_CHANNELS
        ]

    def is_sure(self, name: str) -> bool:
        """Whether the graph alone tells how to read the tensor: maps are what they are, sequences could be several things."""
        readings = self.readings(name)
        return [len(reading.layout.places) for reading in readings] == [2] and readings[0].layout.grid in self._grids

    def _cuts(self) -> list[str]:
        """Tensors that every way from input to score passes: right after one is made, nothing else waits to be read."""
        readers = {
            name: sum(1 for node in self._graph.consumers.get(name, ()) if self._path.intersection(node.output))
            for name in self._path
        }
        waiting = {self._source}
        cuts = []
        for node in self._graph.model.graph.node:
            made = self._path.intersection(node.output)
            if not made:
                continue
            for name in self._path.intersection(reads(node)):
                readers[name] -= 1
                if readers[name] == 0:
                    waiting.discard(name)
            waiting |= made
            if len(waiting) == 1:
                cuts.append(next(iter(waiting)))
        return cuts

    def _grids_of_convolutions(self) -> set[Grid]:
        """Height and width of the tensors whose layout is sure, because their operator works on `[n, c, h, w]` only."""
        grids = set()
        for node in self._graph.model.graph.node:
            shape = self._graph.shape(node.output[0]) if node.op_type in _PICTURE_LIKE else None
            if shape is not None and len(shape) == 4 and isinstance(shape[2], int) and isinstance(shape[3], int):
                grids.add((shape[2], shape[3]))
        return grids

    def _layouts(self, operator: str, lengths: tuple[int, ...], batch: int) -> Iterator[Layout]:
        others = [axis for axis in range(len(lengths)) if axis != batch]
        if len(lengths) == 4:
            readings = [others] if operator in _PICTURE_LIKE else [others, [others[2], *others[:2]]]
            for channel, *places in readings:
                grid = (lengths[places[0]], lengths[places[1]])
                if min(grid) > 1 and (len(readings) == 1 or self._is_grid(grid)):
                    yield Layout(batch, channel, tuple(places), grid)
        if len(lengths) == 3:
            for surely in (True, False):
                for tokens, channel in (others, others[::-1]):
                    for prefix in range(_MOST_PREFIX_TOKENS + 1):
                        for grid in self._grids_of(lengths[tokens] - prefix):
                            if (grid in self._grids) == surely:
                                yield Layout(batch, channel, (tokens,), grid, prefix)

    def _grids_of(self, count: int) -> list[Grid]:
        """Heights and widths of so many patches: a convolution's, or of the picture's proportions."""
        grids = {grid for grid in self._grids if grid[0] * grid[1] == count}
        height = round((max(count, 0) * self._size[0] / self._size[1]) ** 0.5)
        if height and count % height == 0 and self._is_grid((height, count // height)):
            grids.add((height, count // height))
        return sorted(grid for grid in grids if min(grid) > 1)

    def _is_grid(self, grid: Grid) -> bool:
        """Whether these can be height and width: a convolution's, or the picture's divided by one whole number."""
        if grid in self._grids:
            return True
        steps = {full / part for full, part in zip(self._size, grid, strict=True)}
        return len(steps) == 1 and steps.pop().is_integer()


def _batch_axis(shape: Shape) -> int | None:
    """The axis that is as long as the batch; where the batch is fixed, the first of length one. None if another is unknown."""
    unknown = [axis for axis, length in enumerate(shape) if not isinstance(length, int)]
    if unknown:
        return unknown[0] if len(unknown) == 1 and shape[unknown[0]] == BATCH else None
    return shape.index(1) if 1 in shape else None
