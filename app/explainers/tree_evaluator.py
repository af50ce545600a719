"""Permuted predictions of tree ensembles: only what a permuted column can move is computed again, to the same last bit.

A changed column matters to a (row, tree) pair only if the row's path tests it; the row then leaves its path at the first
node that decides differently, and is followed from there. All pairs of a tree take each step together. Leaves are added
up in the runtime's order in float32, so that sums agree with it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.explainers.metrics import Predicted
from app.explainers.permutation import Evaluator, Group, Job, Rows
from app.explainers.tree_ensemble import Codes, TreeEnsemble

_SUMS = 1 << 20  # sums under way in one chunk of rows: few enough for the processor's cache
_ELEMENTS = 1 << 13  # rows times repeats of one chunk, for the same reason
_SHARE = 5  # one in so many elements must have arrived before they are put aside
_ANSWER = 1 << 23  # numbers that the answers to one batch of jobs may hold
_AUDIT = 64  # predictions of each batch that are compared with the runtime's


@dataclass(frozen=True)
class _Tested:
    """A tree as a walk needs it, nodes as in `Tree`.

    Attributes:
        feature: column that a node tests.
        rank: its threshold's place among all of that column.
        children: left and right child of node v at 2v and 2v + 1.
        is_leaf: whether it is a leaf.
        job: which job changes the column that it tests; -1 for none and in leaves.
        slot: where the changed values of that column are kept.
        above: the nearest node further up that the same job changes; -1 for none.
        weights: what leaves add to each plane.
    """

    feature: Rows
    rank: Codes
    children: Rows
    is_leaf: NDArray[np.bool_]
    job: Rows
    slot: Rows
    above: Rows
    weights: dict[int, NDArray[np.float32]]


class TreeEvaluator:
    """An `Evaluator` for tree ensembles.

    Args:
        ensemble: the trees.
        codes: [column, n], the unpermuted rows as `TreeEnsemble.codes` gives them.
        reads: for each feature of the table, the columns of the trees' input that it alone determines.
        finish: sums float32[m, n_planes] over all trees -> predictions, as the whole graph makes them.
        predict: job, row numbers int[m], source rows int[m] -> predictions of the runtime for these rows, for the audit.
        fallback: another evaluator, for when the audit finds a difference.
        check: called between trees; raises to stop.
    """

    def __init__(
        self,
        ensemble: TreeEnsemble,
        codes: Codes,
        reads: Mapping[int, tuple[int, ...]],
        finish: Callable[[NDArray[np.float32]], Predicted],
        predict: Callable[[Group, Rows, Rows], Predicted],
        fallback: Evaluator,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._ensemble = ensemble
        self._codes = codes
        self._reads = reads
        self._finish = finish
        self._predict = predict
        self._fallback = fallback
        self._check = check
        self._random = np.random.default_rng(0)
        self.audited = 0
        self.failed = False

    def baseline(self) -> Predicted:
        """Predictions for the table as it is, from the runtime."""
        return self._fallback.baseline()

    def distinct(self, features: Group) -> tuple[Rows, Rows]:
        """Rows whose values of these features lie between the same thresholds."""
        numbers = np.zeros(self._codes.shape[1], dtype=np.intp)
        representatives = np.zeros(1, dtype=np.intp)
        for column in self._columns(features):
            joint = numbers * (len(self._ensemble.thresholds[column]) + 1) + self._codes[column]
            _, representatives, numbers = np.unique(joint, return_index=True, return_inverse=True)
        return numbers, representatives

    def agrees(self) -> bool:
        """Whether the unpermuted rows get the runtime's predictions, to the last bit."""
        sums = self._sums([Job((), np.zeros((1, self._codes.shape[1]), dtype=np.intp))])[0, 0]
        return _equal(self._finish(sums), self.baseline())

    def permuted(self, jobs: Sequence[Job]) -> Iterator[Predicted]:
        """Predictions job by job: values[r, n, k], classes[r, n]."""
        for batch in self._batches(jobs):
            if self.failed or not any(self._columns(job.features) for job in batch):
                yield from self._fallback.permuted(batch)
                continue
            for job, sums in zip(batch, self._sums(batch), strict=True):
                answer = self._answer(sums)
                if self.failed or not self._audit(job, answer, len(batch)):
                    self.failed = True
                    (answer,) = self._fallback.permuted([job])
                yield answer

    def _columns(self, features: Group) -> tuple[int, ...]:
        """The columns that these features determine and that some tree tests."""
        return tuple(
            column for feature in features for seen in self._reads[feature] for column in self._tested_as[seen]
        )

    @cached_property
    def _tested_as(self) -> dict[int, list[int]]:
        """For each column of the input the tested columns that it is, those without any threshold left out."""
        tested: dict[int, list[int]] = {}
        for column, origin in enumerate(self._ensemble.origin.tolist()):
            tested.setdefault(origin, []).extend([column] if len(self._ensemble.thresholds[column]) else [])
        return tested

    def _batches(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Jobs that can walk together: of as many repeats, and no two of them changing the same column."""
        batch: list[Job] = []
        taken: set[int] = set()
        for job in jobs:
            columns = set(self._columns(job.features))
            size = (len(batch) + 1) * job.sources.size * self._ensemble.n_planes
            if batch and (columns & taken or len(job.sources) != len(batch[0].sources) or size > _ANSWER):
                yield batch
                batch, taken = [], set()
            batch.append(job)
            taken |= columns
        if batch:
            yield batch

    def _answer(self, sums: NDArray[np.float32]) -> Predicted:
        """Predictions [r, n, k] from sums [r, n, planes]."""
        repeats, n, planes = sums.shape
        predicted = self._finish(sums.reshape(-1, planes))
        values = predicted.values.reshape(repeats, n, -1)
        return Predicted(values, None if predicted.classes is None else predicted.classes.reshape(repeats, n))

    def _audit(self, job: Job, answer: Predicted, jobs: int) -> bool:
        """Compare a few predictions with the runtime's."""
        size = max(1, _AUDIT // jobs)
        repeats = self._random.integers(len(job.sources), size=size)
        rows = self._random.integers(job.sources.shape[1], size=size)
        self.audited += size
        return _equal(answer[repeats, rows], self._predict(job.features, rows, job.sources[repeats, rows]))

    def _sums(self, jobs: Sequence[Job]) -> NDArray[np.float32]:
        """float32[job, r, n, plane]: what the leaves add up to."""
        repeats, n = jobs[0].sources.shape
        planes = self._ensemble.n_planes
        sums = np.empty((len(jobs), repeats, n, planes), dtype=np.float32)
        columns = sorted({column for job in jobs for column in self._columns(job.features)})
        trees = self._tested(jobs, columns)
        size = max(256, min(_SUMS // (len(jobs) * repeats * planes), _ELEMENTS // repeats))
        # One chunk after the other: the arrays of a walk are so short that threads would wait for Python's lock, and be slower.
        for start in range(0, n, size):
            rows = slice(start, min(n, start + size))
            changed = np.empty((len(columns), repeats, rows.stop - start), dtype=self._codes.dtype)
            for job in jobs:
                for column in self._columns(job.features):
                    slot = columns.index(column)
                    np.take(self._codes[column], job.sources[:, rows], out=changed[slot], mode="clip")
            walk = _Walk(self._codes[:, rows], changed, len(jobs), planes)
            for tree in trees:
                self._check()
                walk.add(tree)
            sums[:, :, rows] = np.moveaxis(walk.sums, 0, -1)
        return sums

    def _tested(self, jobs: Sequence[Job], columns: list[int]) -> list[_Tested]:
        """The trees, their nodes marked with the job that changes the column they test."""
        job_of = np.full(len(self._ensemble.origin), -1, dtype=np.intp)
        slot_of = np.zeros(len(self._ensemble.origin), dtype=np.intp)
        slot_of[columns] = np.arange(len(columns))
        for number, changing in enumerate(jobs):
            job_of[list(self._columns(changing.features))] = number
        marked = []
        for tree, rank, parent in zip(self._ensemble.trees, self._ranks, self._parents, strict=True):
            job = np.where(tree.is_leaf, -1, job_of[tree.feature])
            above = parent.copy()
            while len(wrong := np.flatnonzero((above >= 0) & (job[above] != job))):
                above[wrong] = parent[above[wrong]]
            children = np.stack((tree.left, tree.right), axis=1).ravel()
            marked.append(
                _Tested(tree.feature, rank, children, tree.is_leaf, job, slot_of[tree.feature], above, tree.weights)
            )
        return marked

    @cached_property
    def _ranks(self) -> list[Codes]:
        """For each tree, the place of each node's threshold among all those of its column."""
        ranks = []
        for tree in self._ensemble.trees:
            rank = np.zeros(len(tree.feature), dtype=self._codes.dtype)
            inner = np.flatnonzero(~tree.is_leaf)
            for column in np.unique(tree.feature[inner]):
                here = inner[tree.feature[inner] == column]
                rank[here] = np.searchsorted(self._ensemble.thresholds[column], tree.threshold[here])
            ranks.append(rank)
        return ranks

    @cached_property
    def _parents(self) -> list[Rows]:
        parents = []
        for tree in self._ensemble.trees:
            parent = np.full(len(tree.feature), -1, dtype=np.intp)
            inner = np.flatnonzero(~tree.is_leaf)
            parent[tree.left[inner]] = parent[tree.right[inner]] = inner
            parents.append(parent)
        return parents


@dataclass(frozen=True)
class _Moved:
    """Elements that have left their rows' paths: where they are now, their row, repeat and row (r * m + i), and job."""

    node: Rows
    row: Rows
    repeated: Rows
    job: Rows

    def __add__(self, other: _Moved) -> _Moved:
        return _Moved(
            np.concatenate((self.node, other.node)),
            np.concatenate((self.row, other.row)),
            np.concatenate((self.repeated, other.repeated)),
            np.concatenate((self.job, other.job)),
        )

    def take(self, index: Rows) -> _Moved:
        return _Moved(self.node.take(index), self.row.take(index), self.repeated.take(index), self.job.take(index))


class _Walk:
    """A chunk of m rows on its way through one tree after the other.

    Args:
        codes: [column, m], of the rows as they are.
        changed: [slot, r, m], of the columns that jobs change, after each permutation.
        jobs: how many jobs there are.
        planes: how many sums each prediction has.

    Attributes:
        sums: float32[plane, job, r, m].
    """

    def __init__(self, codes: Codes, changed: Codes, jobs: int, planes: int) -> None:
        _, repeats, m = changed.shape
        # One array for both, so that a single gather reads whichever of the two an element needs.
        self._codes = np.concatenate([codes.ravel(), changed.ravel()])
        self._offset = codes.size
        self._rows = np.arange(m)
        self._repeated = np.arange(repeats)[:, None] * m + self._rows
        self.sums = np.zeros((planes, jobs, repeats, m), dtype=np.float32)

    def add(self, tree: _Tested) -> None:
        """Add the tree's leaves to all sums."""
        m, block = len(self._rows), self._repeated.size
        own_at, changed_at = tree.feature * m, tree.slot * block + self._offset
        rows, node = self._rows, np.zeros(m, dtype=np.intp)
        leaf_of = np.zeros(m, dtype=np.intp)
        empty = np.empty(0, dtype=np.intp)
        moved = _Moved(empty, empty, empty, empty)
        arrived: list[_Moved] = []
        while len(rows) or len(moved.node):
            at_leaf = tree.is_leaf.take(moved.node)
            # A leaf is its own child, so arrived elements may wait until it pays to put them aside.
            if np.count_nonzero(at_leaf) * _SHARE > len(at_leaf) or not len(rows):
                arrived.append(moved.take(np.flatnonzero(at_leaf)))
                moved = moved.take(np.flatnonzero(~at_leaf))
            if len(moved.node):
                moved = self._advance(tree, moved, own_at, changed_at)
            if len(rows):
                done = tree.is_leaf.take(node)
                if done.any():
                    leaf_of[rows[done]] = node[done]
                    rows, node = rows[~done], node[~done]
                right = self._codes.take(own_at.take(node) + rows) > tree.rank.take(node)
                moved += self._leave(tree, rows, node, right, own_at, changed_at)
                node = tree.children.take(2 * node + right)
        self._sum(tree, leaf_of, arrived)

    def _leave(
        self, tree: _Tested, rows: Rows, node: Rows, right: NDArray[np.bool_], own_at: Rows, changed_at: Rows
    ) -> _Moved:
        """The elements that turn off at their row's node: the changed value decides differently, for the first time."""
        tested = tree.job.take(node) >= 0
        if not tested.all():
            rows, node, right = rows[tested], node[tested], right[tested]
        repeated = self._repeated if len(rows) == len(self._rows) else self._repeated.take(rows, axis=1)
        changed = self._codes.take(changed_at.take(node) + repeated) > tree.rank.take(node)
        turned = np.flatnonzero(changed != right)
        repeat = turned // max(len(rows), 1)
        place = turned - repeat * len(rows)
        at = node.take(place)
        above = tree.above.take(at)
        if (above >= 0).any():
            row = rows.take(place)
            first = self._first_turn(tree, above, row, repeat * len(self._rows) + row, own_at, changed_at)
            repeat, place, at = repeat.take(first), place.take(first), at.take(first)
        row = rows.take(place)
        other = tree.children.take(2 * at + ~right.take(place))
        return _Moved(other, row, repeat * len(self._rows) + row, tree.job.take(at))

    def _first_turn(
        self, tree: _Tested, above: Rows, row: Rows, repeated: Rows, own_at: Rows, changed_at: Rows
    ) -> Rows:
        """Those for which no node further up, of the same job, decided differently already."""
        first = np.ones(len(above), dtype=np.bool_)
        waiting = np.flatnonzero(above >= 0)
        node = above.take(waiting)
        while len(waiting):
            rank = tree.rank.take(node)
            own = self._codes.take(own_at.take(node) + row.take(waiting)) > rank
            changed = self._codes.take(changed_at.take(node) + repeated.take(waiting)) > rank
            first[waiting[own != changed]] = False
            node = tree.above.take(node)
            on = np.flatnonzero((own == changed) & (node >= 0))
            waiting, node = waiting.take(on), node.take(on)
        return np.flatnonzero(first)

    def _advance(self, tree: _Tested, moved: _Moved, own_at: Rows, changed_at: Rows) -> _Moved:
        """One step down, by the changed value at nodes of the element's own job."""
        node = moved.node
        place = np.where(
            tree.job.take(node) == moved.job,
            changed_at.take(node) + moved.repeated,
            own_at.take(node) + moved.row,
        )
        right = self._codes.take(place) > tree.rank.take(node)
        return _Moved(tree.children.take(2 * node + right), moved.row, moved.repeated, moved.job)

    def _sum(self, tree: _Tested, leaf_of: Rows, arrived: list[_Moved]) -> None:
        block = self._repeated.size
        leaf = np.concatenate([moved.node for moved in arrived]) if arrived else leaf_of[:0]
        place = np.concatenate([moved.job * block + moved.repeated for moved in arrived]) if arrived else leaf_of[:0]
        for plane, weight in tree.weights.items():
            sums = self.sums[plane]
            flat = sums.reshape(-1)
            other = flat.take(place) + weight.take(leaf)
            sums += weight.take(leaf_of)
            flat[place] = other


def _equal(ours: Predicted, theirs: Predicted) -> bool:
    same_classes = ours.classes is None or theirs.classes is None or np.array_equal(ours.classes, theirs.classes)
    return same_classes and np.array_equal(ours.values, theirs.values, equal_nan=True)
