"""Trees laid out for walks of many rows at once, and what permuted columns change in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.evaluators.tree_ensemble import Codes, Tree, TreeEnsemble
from onnxplain.explainers.tables.permutation import Rows

_SMALL = 1024  # most nodes of a tree for which finding the leaf behind every node was measured to pay


@dataclass(frozen=True)
class Layout:
    """A tree with what a walk needs to know of it, whatever is permuted; arrays over nodes.

    Attributes:
        tree: the tree.
        rank: a threshold's place among all of its column; in leaves greater than any code, so that all stay there.
        parent: the node above; of the root, itself.
        inner: nodes that are no leaves, the deepest level first.
        ends: where the levels of `inner` begin and end.
        leaves: nodes that are leaves.
    """

    tree: Tree
    rank: Codes
    parent: Rows
    inner: Rows
    ends: tuple[int, ...]
    leaves: Rows

    @property
    def depth(self) -> int:
        """Levels of inner nodes."""
        return len(self.ends) - 1

    @property
    def small(self) -> bool:
        """Whether it pays to find out where every row would go from every node."""
        return len(self.rank) <= _SMALL


def lay_out(
    ensemble: TreeEnsemble, dtype: np.dtype[np.unsignedinteger[Any]], check: Callable[[], None]
) -> list[Layout]:
    """Prepare trees for rows whose codes have this type; `check` raises to stop."""
    trees = ensemble.trees
    threshold = np.concatenate([tree.threshold for tree in trees])
    rank = np.full(len(threshold), np.iinfo(dtype).max, dtype=dtype)
    for nodes, thresholds in zip(ensemble.testing(), ensemble.thresholds, strict=True):
        check()
        rank[nodes] = np.searchsorted(thresholds, threshold[nodes])
    layouts = []
    for tree, (start, stop) in zip(
        trees, pairwise(np.cumsum([0, *(len(tree.feature) for tree in trees)])), strict=True
    ):
        check()
        layouts.append(_lay_out(tree, rank[start:stop]))
    return layouts


def _lay_out(tree: Tree, rank: Codes) -> Layout:
    inner = np.flatnonzero(~tree.is_leaf)
    parent = np.zeros(len(rank), dtype=np.intp)
    parent[tree.left[inner]] = parent[tree.right[inner]] = inner
    levels: list[Rows] = []
    level = inner[:1]  # the root
    while len(level):
        levels.insert(0, level)
        below = np.concatenate((tree.left[level], tree.right[level]))
        level = below[~tree.is_leaf[below]]
    ends = np.cumsum([0, *(len(level) for level in levels)]).tolist()
    return Layout(tree, rank, parent, np.concatenate([inner[:0], *levels]), tuple(ends), np.flatnonzero(tree.is_leaf))


@dataclass(frozen=True)
class Earlier:
    """Where a job has decided about a row before it comes to a node of the same job.

    Attributes:
        node: intp[v], the nearest node further up that the same job changes; -1 for none.
        right: bool[v], whether v lies on the right of that.
    """

    node: Rows
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Changes:
    """What some jobs change.

    Attributes:
        job: intp[c], for each column the job that changes it; -1 for none.
        count: how many jobs there are.
    """

    job: Rows
    count: int

    @cached_property
    def columns(self) -> Rows:
        """The columns that jobs change, ascending."""
        return np.flatnonzero(self.job >= 0)

    @cached_property
    def slot(self) -> Rows:
        """intp[c], of the columns that jobs change, their place among these."""
        return np.cumsum(self.job >= 0) - 1

    def at(self, layout: Layout) -> Rows:
        """intp[v]: the job that changes what a node tests; -1 for none and in leaves."""
        job = self.job.take(layout.tree.feature)
        job[layout.leaves] = -1
        return job

    def earlier(self, layout: Layout) -> Earlier:
        """For each node the one of the same job above it."""
        job, parent = self.at(layout), layout.parent
        below, above = np.arange(len(job)), parent.copy()
        while len(wrong := np.flatnonzero((above != 0) & (job[above] != job))):
            below[wrong] = above[wrong]
            above[wrong] = parent[above[wrong]]
        right = layout.tree.right[above] == below
        above[(job < 0) | (job[above] != job) | (below == 0)] = -1
        return Earlier(above, right)

    def tests(self, layout: Layout) -> NDArray[np.bool_]:
        """bool[v * count + job]: whether the node, or one below it, tests what the job changes."""
        tests = np.zeros((len(layout.rank), self.count), dtype=np.bool_)
        job = self.at(layout)
        changed = np.flatnonzero(job >= 0)
        tests[changed, job[changed]] = True
        left, right = layout.tree.left[layout.inner], layout.tree.right[layout.inner]
        for start, stop in pairwise(layout.ends):
            below = tests.take(left[start:stop], axis=0)
            below |= tests.take(right[start:stop], axis=0)
            tests[layout.inner[start:stop]] |= below
        return tests.ravel()
