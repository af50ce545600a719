"""Noise for trial runs, the same every time. `numpy.random` would cost every worker 3 MB for it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Noise:
    """A source of numbers that start anew with every object."""

    def __init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311 - nothing secret

    def uniform(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """float32 of the shape, from 0 up to but without 1."""
        bits = np.frombuffer(self._random.randbytes(4 * math.prod(shape)), np.uint32) >> 8
        return (bits.astype(np.float32) * np.float32(2**-24)).reshape(shape)

    def standard(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """float32 of the shape with mean 0 and deviation 1, as normalised pictures have them."""
        return (self.uniform(shape) - np.float32(0.5)) * np.float32(math.sqrt(12))
