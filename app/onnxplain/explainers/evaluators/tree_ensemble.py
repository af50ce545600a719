"""A tree ensemble as arrays, with ONNX's semantics: which way a value goes at a node, and what becomes of the leaves' sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Post = Literal["NONE", "LOGISTIC", "SOFTMAX"]
Codes = NDArray[np.unsignedinteger[Any]]

_MEMBERS = 1 << 25  # most bytes of the table that says which rows are in which sets


@dataclass(frozen=True)
class Tree:
    """One tree; node 0 is the root, and a leaf is its own child.

    Attributes:
        feature: intp[v], the column that a node tests, as `TreeEnsemble.origin` numbers them.
        threshold: float32[v]; a value goes left if it is not greater (see `TreeEnsemble.sets` for another kind of test).
        left, right: intp[v], children.
        is_leaf: bool[v].
        missing_left: bool[v], where a missing value goes.
        weights: output plane -> float32[v], what a leaf adds to it.
    """

    feature: NDArray[np.intp]
    threshold: NDArray[np.float32]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    is_leaf: NDArray[np.bool_]
    missing_left: NDArray[np.bool_]
    weights: dict[int, NDArray[np.float32]]

    @cached_property
    def mean_depth(self) -> float:
        """Mean depth of the leaves, weighted as if every node split its rows in halves."""
        depth = np.zeros(len(self.feature))
        level = np.array([0])
        while len(level):
            inner = level[~self.is_leaf[level]]
            level = np.concatenate((self.left[inner], self.right[inner]))
            depth[level] = np.tile(depth[inner] + 1, 2)
        leaves = depth[self.is_leaf]
        return float(np.average(leaves, weights=2.0**-leaves))


@dataclass(frozen=True)
class TreeEnsemble:
    """Trees whose leaves add up.

    Attributes:
        trees: in the order in which the runtime adds them.
        n_planes: how many sums there are: classes that leaves vote for, or regression targets.
        base: float32[n_planes], added after the sum.
        average: whether the sum is divided by the number of trees.
        n_classes: of a classifier, 0 for a regression.
        post: what makes scores of sums.
        all_positive: whether no leaf of a classifier weighs below 0; its sums are then probabilities.
        origin: intp[c], the column of the input that each tested column is. One whose missing values go left at some nodes and
            right at others is tested as two columns.
        sets: of tested columns that have a single threshold of 0, the values that go left, a missing one among them or not; all
            others go right. A column of the input is tested as one such column for each set that nodes ask for.
    """

    trees: tuple[Tree, ...]
    n_planes: int
    base: NDArray[np.float32] | None
    average: bool
    n_classes: int
    post: Post
    all_positive: bool
    origin: NDArray[np.intp]
    sets: dict[int, NDArray[np.float32]]

    @cached_property
    def thresholds(self) -> list[NDArray[np.float32]]:
        """For each column the distinct thresholds, ascending: values between two of them are all alike to the trees."""
        threshold = np.concatenate([tree.threshold for tree in self.trees])
        return [np.unique(threshold[nodes]) for nodes in self.testing()]

    def testing(self) -> list[NDArray[np.intp]]:
        """For each column the nodes that test it, numbered through all trees."""
        column = np.concatenate([np.where(tree.is_leaf, len(self.origin), tree.feature) for tree in self.trees])
        # Short integers are sorted by counting.
        order = np.argsort(column.astype(np.uint16 if len(self.origin) < 2**16 else np.intp), kind="stable")
        return np.split(order, np.searchsorted(column[order], np.arange(1, len(self.origin) + 1)))[:-1]

    @cached_property
    def missing_left(self) -> NDArray[np.bool_]:
        """bool[c]: whether a column's missing values go left, which is the same at every node that tests it."""
        left = np.zeros(len(self.origin), dtype=np.bool_)
        for tree in self.trees:
            left[tree.feature[~tree.is_leaf & tree.missing_left]] = True
        return left

    def codes(self, columns: NDArray[np.float32], check: Callable[[], None] = lambda: None) -> Codes | None:
        """What the trees can tell of each value: how many thresholds of its column lie below it, or whether it is in no set.

        Args:
            columns: float32[n, columns of the input].
            check: called before each column; raises to stop.

        Returns:
            uint8 or uint16[c, n]; None where there are too many thresholds for that, or too many sets for so many rows.
        """
        most = max(len(thresholds) for thresholds in self.thresholds)
        if most > np.iinfo(np.uint16).max - 1 or len(self.sets) * len(columns) > _MEMBERS:
            return None
        codes = np.empty((len(self.origin), len(columns)), np.uint8 if most < np.iinfo(np.uint8).max else np.uint16)
        for j, thresholds in enumerate(self.thresholds):
            check()
            column = np.ascontiguousarray(columns[:, self.origin[j]])
            if j in self.sets:
                codes[j] = ~np.isin(column, self.sets[j])
                codes[j, np.isnan(column)] = not np.isnan(self.sets[j]).any()
                continue
            codes[j] = np.searchsorted(thresholds, column, side="left")
            codes[j, np.isnan(column)] = 0 if self.missing_left[j] else len(thresholds)
        return codes

    def finish(self, sums: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp] | None]:
        """Scores and predicted classes from the sums over all trees, as ONNX Runtime computes them in float32.

        Args:
            sums: float32[m, n_planes].

        Returns:
            float32[m, k] and intp[m] (None for a regression).
        """
        if self.average:
            sums = sums / np.float32(len(self.trees))
        if self.base is not None:
            sums = sums + self.base
        if not self.n_classes:
            return sums, None
        if self.n_classes == 2 and self.n_planes == 1:
            return self._finish_binary(sums[:, 0])
        return self._transform(sums), np.argmax(sums, axis=1)

    def _finish_binary(self, sums: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Two classes, of which the leaves know one."""
        if self.all_positive:
            return np.stack((1 - sums, sums), axis=1), (sums > 0.5).astype(np.intp)
        classes = (sums > 0).astype(np.intp)
        if self.post != "LOGISTIC":
            return self._transform(np.stack((-sums, sums), axis=1)), classes
        likely, unlikely = _logistic(sums)
        return np.stack((np.where(sums > 0, unlikely, likely), np.where(sums < 0, unlikely, likely)), axis=1), classes

    def _transform(self, sums: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.post == "LOGISTIC":
            likely, unlikely = _logistic(sums)
            return np.where(sums < 0, unlikely, likely)
        if self.post == "SOFTMAX":
            powers = _exp(sums - sums.max(axis=1, keepdims=True))
            total = powers[:, 0].copy()
            for column in powers.T[1:]:
                total += column
            scores: NDArray[np.float32] = powers / total[:, None]
            return scores
        return sums


def _logistic(sums: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The logistic function of the absolute value, and 1 less that."""
    one = np.float32(1)
    likely = one / (one + _exp(-np.abs(sums)))
    return likely, one - likely


def _exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The C library's expf, as the runtime uses it: NumPy's own for float32 rounds differently, that for complex64 calls it."""
    return np.ascontiguousarray(np.exp(x.astype(np.complex64)).real)


def mean_depth(trees: Sequence[Tree]) -> float:
    """Mean over the trees of the mean depth of their leaves."""
    return float(np.mean([tree.mean_depth for tree in trees]))
