"""What a model says of rows, and what is known of them: the two sides that every metric compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Classes = NDArray[np.intp]
Weights = NDArray[np.float64] | None


@dataclass(frozen=True)
class Predicted:
    """What a model says of n rows.

    Attributes:
        values: float[n, k]: probabilities of k classes, or k regression targets.
        classes: int[n]: index of the predicted class; None for a regression.
    """

    values: Floats
    classes: Classes | None = None

    def __getitem__(self, index: Any) -> Predicted:
        return Predicted(self.values[index], None if self.classes is None else self.classes[index])

    @property
    def positive(self) -> NDArray[np.float64]:
        """Probability of the second of two classes, float64[n]."""
        return np.ascontiguousarray(self.values[:, -1], dtype=np.float64)


@dataclass(frozen=True)
class Truth:
    """What is known of n rows.

    Attributes:
        values: int[n] class indices, or float64[n, k] regression targets.
        n_classes: how many classes the model knows; 0 for a regression.
        weights: float64[n], or None where every row counts the same.
    """

    values: NDArray[Any]
    n_classes: int = 0
    weights: Weights = None

    def __getitem__(self, index: Any) -> Truth:
        return Truth(self.values[index], self.n_classes, None if self.weights is None else self.weights[index])

    @property
    def relative_weights(self) -> NDArray[np.float64]:
        """The weights with a mean of 1, float64[n]."""
        return np.ones(len(self.values)) if self.weights is None else self.weights / self.weights.mean()
