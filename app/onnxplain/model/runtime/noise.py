"""Noise for trial runs, the same every time. `numpy.random` would cost every worker 3 MB for it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxplain.facts.errors import ModelRefused

MOST = 1 << 26  # numbers in one tensor; a picture of 4,700 x 4,700 pixels has as many


class Noise:
    """A source of numbers that start anew with every object."""

    def __init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311 - nothing secret

    def uniform(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """float32 of the shape, from 0 up to but without 1.

        Raises:
            ModelRefused: that would be too many.
        """
        if math.prod(shape) > MOST:
            raise ModelRefused(
                f"The model takes tensors of {' x '.join(map(str, shape))} numbers, and at most {MOST:,} are tried; "
                "use one for smaller pictures."
            )
        bits = np.frombuffer(self._random.randbytes(4 * math.prod(shape)), np.uint32) >> 8
        return (bits.astype(np.float32) * np.float32(2**-24)).reshape(shape)

    def standard(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """float32 of the shape with mean 0 and deviation 1, as normalised pictures have them."""
        return (self.uniform(shape) - np.float32(0.5)) * np.float32(math.sqrt(12))
