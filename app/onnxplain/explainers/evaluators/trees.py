"""Permuted predictions of tree ensembles: only what a permuted column can move is computed again, to the same last bit.

Leaves are added up in the runtime's order in float32, so that sums agree with it exactly; see `onnxplain.explainers.evaluators.tree_walk`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.evaluators.tree_ensemble import Codes, TreeEnsemble
from onnxplain.explainers.evaluators.tree_layout import Changes, Layout, lay_out
from onnxplain.explainers.evaluators.tree_walk import LANES, Walk
from onnxplain.explainers.tables.permutation import Evaluator, Group, Job, Rows
from onnxplain.explainers.tables.truth import Predicted

_SUMS = 1 << 22  # most sums of leaves that one chunk of rows may hold
_CELLS = 6144  # most rows times words of repeats in a chunk: its arrays then stay in the processor's cache
_WORDS = 1 << 21  # most words of repeats that a chunk may hold for all columns together
_ROWS = 256  # fewest rows in a chunk, because each chunk has fixed costs
_ANSWER = 1 << 23  # numbers that the answers to one batch of jobs may hold
_AUDIT = 64  # predictions of each batch that are compared with the runtime's


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
        changes = self._changes(jobs)
        earlier = []
        for layout in self._layouts:
            self._check()
            earlier.append(changes.earlier(layout))
        blocks = -(-repeats // LANES)
        cells = min(_CELLS, _WORDS // max(1, len(changes.columns)))
        size = max(_ROWS, min(_SUMS // (len(jobs) * repeats * planes), cells // blocks))
        # One chunk after the other: the arrays of a walk are so short that threads would wait for Python's lock, and be slower.
        for start, stop in pairwise(np.linspace(0, n, -(-n // size) + 1).astype(int).tolist()):
            rows = slice(start, stop)
            changed = np.empty((len(changes.columns), repeats, stop - start), dtype=self._codes.dtype)
            for slot, column in enumerate(changes.columns):
                sources = jobs[changes.job[column]].sources[:, rows]
                np.take(self._codes[column], sources, out=changed[slot], mode="clip")
            walk = Walk(self._codes[:, rows], changed, changes, planes)
            for layout, above in zip(self._layouts, earlier, strict=True):
                self._check()
                walk.add(layout, above)
            sums[:, :, rows] = np.moveaxis(walk.sums, 0, -1)
        return sums

    def _changes(self, jobs: Sequence[Job]) -> Changes:
        """Which columns the jobs change, each those of its own."""
        job_of = np.full(len(self._ensemble.origin), -1, dtype=np.intp)
        for number, job in enumerate(jobs):
            job_of[list(self._columns(job.features))] = number
        return Changes(job_of, len(jobs))

    @cached_property
    def _layouts(self) -> list[Layout]:
        return lay_out(self._ensemble, self._codes.dtype, self._check)


def _equal(ours: Predicted, theirs: Predicted) -> bool:
    same_classes = ours.classes is None or theirs.classes is None or np.array_equal(ours.classes, theirs.classes)
    return same_classes and np.array_equal(ours.values, theirs.values, equal_nan=True)
