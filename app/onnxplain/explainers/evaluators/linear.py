"""Permuted predictions of linear models in closed form: f(x with column j of row s) = f(x) + w_j (x_sj - x_ij).

Sums run in double precision, so they differ from the runtime's float32 in the last digits. How far at most is known (Higham
2002, Accuracy and Stability of Numerical Algorithms, section 3.1: in whatever order d terms are added, the sum errs by at most
d roundings of the sum of their sizes). Rows so near a decision that this could turn it are predicted by the runtime, so
classes are always its own; probabilities and values are within about 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.permutation import Evaluator, Group, Job, Rows
from onnxplain.explainers.tables.truth import Predicted

_ROUNDING = 2.0**-24  # relative error of one float32 operation
_CLOSE = 2e-6  # how far a prediction may lie from the runtime's, relative to the greatest where that is more than 1
_PIECE = 1 << 13  # rows computed at once: few enough for the processor's cache
_ANSWER = 1 << 22  # numbers that the answers to one batch of jobs may hold
_AUDIT = 64  # predictions of each batch that are compared with the runtime's


@dataclass(frozen=True)
class LinearMap:
    """x -> x @ weights + intercepts.

    Attributes:
        weights: float64[d, k].
        intercepts: float64[k].
    """

    weights: NDArray[np.float64]
    intercepts: NDArray[np.float64]


@dataclass(frozen=True)
class _Terms:
    """What some columns add to each row.

    Attributes:
        sums: float64[n, k], their part of the sums.
        sizes: float64[n], at least the sum of the absolute terms in each of the k.
    """

    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]


class LinearEvaluator:
    """An `Evaluator` for linear models.

    Args:
        linear: the model's linear part.
        seen: float32[n, d], what it sees of the unpermuted rows.
        reads: for each feature of the table, the columns of `seen` that it alone determines.
        finish: sums float32[m, k] -> predictions, as the rest of the graph makes them.
        predict: features, row numbers int[m], source rows int[m] -> predictions of the runtime for these rows.
        fallback: another evaluator, for when the audit finds a difference.
        check: called before each piece; raises to stop.
    """

    def __init__(
        self,
        linear: LinearMap,
        seen: NDArray[np.float32],
        reads: Mapping[int, tuple[int, ...]],
        finish: Callable[[NDArray[np.float32]], Predicted],
        predict: Callable[[Group, Rows, Rows], Predicted],
        fallback: Evaluator,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._linear = linear
        self._seen = seen
        self._reads = reads
        self._finish = finish
        self._predict = predict
        self._fallback = fallback
        self._check = check
        self._random = np.random.default_rng(0)
        self._tolerance = _CLOSE * max(1.0, float(np.abs(fallback.baseline().values).max()))
        with np.errstate(invalid="ignore"):
            whole = self._terms(range(seen.shape[1]))
            self._whole = _Terms(whole.sums + linear.intercepts, whole.sizes + np.abs(linear.intercepts).max())
        self.audited = 0
        self.failed = False

    def baseline(self) -> Predicted:
        """Predictions for the table as it is, from the runtime."""
        return self._fallback.baseline()

    def distinct(self, features: Group) -> tuple[Rows, Rows]:
        """Rows of equal values."""
        return self._fallback.distinct(features)

    def agrees(self) -> bool:
        """Whether the unpermuted rows get the runtime's predictions."""
        if not np.isfinite(self._whole.sums).all() or self._whole.sizes.max() > np.finfo(np.float32).max:
            return False
        itself = np.arange(len(self._seen))[None]
        (answer,) = self._batch([Job((), itself)])
        return self._close(answer[0], self.baseline())

    def permuted(self, jobs: Sequence[Job]) -> Iterator[Predicted]:
        """Predictions job by job: values[r, n, k], classes[r, n]."""
        size = max(
            1, _ANSWER // max(1, self.baseline().values.size * max((len(job.sources) for job in jobs), default=1))
        )
        for first in range(0, len(jobs), size):
            batch = jobs[first : first + size]
            if self.failed:
                yield from self._fallback.permuted(batch)
                continue
            for job, answer in zip(batch, self._batch(batch), strict=True):
                if self.failed or not self._audit(job, answer, len(batch)):
                    self.failed = True
                    yield from self._fallback.permuted([job])
                    continue
                yield answer

    def _terms(self, columns: Sequence[int]) -> _Terms:
        seen, weights = self._seen[:, columns].astype(np.float64), self._linear.weights[columns]
        return _Terms(seen @ weights, np.abs(seen) @ np.abs(weights).max(axis=1, initial=0.0))

    def _batch(self, jobs: Sequence[Job]) -> list[Predicted]:
        """The answers, on one thread: the arrays of a piece are so short that threads would wait for Python's lock."""
        base = self.baseline()
        answers = []
        for job in jobs:
            repeats, n = job.sources.shape
            values = np.empty((repeats, *base.values.shape), dtype=base.values.dtype)
            classes = None if base.classes is None else np.empty((repeats, n), dtype=np.intp)
            answers.append(Predicted(values, classes))
            self._fill(job, answers[-1])
        return answers

    def _fill(self, job: Job, answer: Predicted) -> None:
        """Write the answer to one job, piece by piece."""
        own = self._terms([column for feature in job.features for column in self._reads[feature]])
        rest = _Terms(self._whole.sums - own.sums, self._whole.sizes - own.sizes)
        repeats, n = job.sources.shape
        for repeat in range(repeats):
            for start in range(0, n, _PIECE):
                self._check()
                rows = slice(start, min(n, start + _PIECE))
                found = self._piece(job, rest, own, rows, job.sources[repeat, rows])
                answer.values[repeat, rows] = found.values
                if answer.classes is not None and found.classes is not None:
                    answer.classes[repeat, rows] = found.classes

    def _piece(self, job: Job, rest: _Terms, own: _Terms, rows: slice, sources: Rows) -> Predicted:
        """Predictions of consecutive rows: what stays the same and what comes from the source rows, added up."""
        sums = rest.sums[rows] + own.sums.take(sources, axis=0)
        found = self._finish(sums.astype(np.float32))
        if found.classes is None:
            return found
        error = (len(self._linear.weights) + 4) * _ROUNDING * (rest.sizes[rows] + own.sizes.take(sources))
        doubtful = np.flatnonzero((_lead(sums) <= 2 * error) | (_lead(found.values) <= _CLOSE))
        if len(doubtful):
            asked = self._predict(job.features, rows.start + doubtful, sources[doubtful])
            assert asked.classes is not None
            found.values[doubtful] = asked.values
            found.classes[doubtful] = asked.classes
        return found

    def _audit(self, job: Job, answer: Predicted, jobs: int) -> bool:
        """Compare a few predictions with the runtime's."""
        size = max(1, _AUDIT // jobs)
        repeats = self._random.integers(len(job.sources), size=size)
        rows = self._random.integers(job.sources.shape[1], size=size)
        self.audited += size
        return self._close(answer[repeats, rows], self._predict(job.features, rows, job.sources[repeats, rows]))

    def _close(self, ours: Predicted, theirs: Predicted) -> bool:
        same_classes = ours.classes is None or theirs.classes is None or np.array_equal(ours.classes, theirs.classes)
        return same_classes and bool((np.abs(ours.values - theirs.values) <= self._tolerance).all())


def _lead(scores: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """How far the greatest of each row is ahead of the second; of one alone, from 0."""
    two = np.partition(scores, -2, axis=1)[:, -2:] if scores.shape[1] > 2 else scores
    lead: NDArray[np.floating[Any]] = np.abs(two[:, -1] - (two[:, 0] if two.shape[1] > 1 else 0.0))
    return lead
