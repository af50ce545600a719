"""Permutation importance without chance: the mean over all pairs of rows instead of over drawn permutations.

In a uniformly random permutation, row i gets the value of row m with probability 1/n, m = i included. The expected score of a
mean over rows is therefore the mean over all n * n pairs: ((n - 1) * e_switch + e_orig) / n in the letters of Fisher, Rudin
and Dominici 2019 (arXiv:1801.01489). Rows of equal values need one prediction, so columns of few values are cheap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.metrics import METRICS
from onnxplain.explainers.tables.permutation import Evaluator, Group, Job, Measure, PermutationImportance
from onnxplain.facts.errors import BadParameter

_BLOCK = 2_000_000  # predictions to hold at once


def exact_importance(
    evaluator: Evaluator,
    measures: Sequence[Measure],
    groups: Sequence[Group],
    *,
    max_seconds: float | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, PermutationImportance]:
    """The expectation of permutation importance over all permutations; one "repeat" without Monte-Carlo error.

    After `max_seconds` what is finished is returned; a group of which some pairs are missing has no importance (NaN).

    Raises:
        BadParameter: a metric is no mean over rows, so that its expectation is not the mean over pairs.
    """
    for measure in measures:
        if not measure.metric.row_mean:
            usable = ", ".join(
                metric.name for metric in METRICS.values() if metric.row_mean and metric.task == measure.metric.task
            )
            raise BadParameter(
                f"{measure.metric.name} is no mean over rows, so it has no exact importance; use {usable}, or a number as n_repeats."
            )
    base = evaluator.baseline()
    n = len(base.values)
    scores = [measure.score(base) for measure in measures]
    unpermuted = [measure.influence(base) for measure in measures]
    importances = np.full((len(measures), len(groups), 1), np.nan)
    errors = np.full((len(measures), len(groups)), np.nan)
    budget = _Budget(max_seconds, max(1, _BLOCK // n))
    for g, group in enumerate(groups):
        codes, representatives = evaluator.distinct(group)
        shares = np.bincount(codes, minlength=len(representatives)) / n
        expected = np.zeros(len(measures))
        as_row = np.zeros((len(measures), n))
        as_lender = np.zeros((len(measures), len(representatives)))
        first = 0
        while first < len(representatives) and not budget.spent:
            values = representatives[first : first + budget.block]
            (predicted,) = evaluator.permuted([Job(group, np.repeat(values[:, None], n, axis=1))])
            for offset in range(len(values)):
                for m, measure in enumerate(measures):
                    share, answer = shares[first + offset], predicted[offset]
                    score = measure.score(answer)
                    expected[m] += share * (scores[m] - score)
                    as_row[m] += share * measure.influence(answer)
                    as_lender[m, first + offset] = score
            first += len(values)
            budget.done(len(values))
        if first < len(representatives):
            break
        importances[:, g, 0] = expected
        for m in range(len(measures)):
            errors[m, g] = _row_error(unpermuted[m] - as_row[m] - as_lender[m][codes])
        progress((g + 1) / len(groups))
    progress(1.0)
    return {
        measure.metric.name: PermutationImportance(scores[m], importances[m], errors[m])
        for m, measure in enumerate(measures)
    }


class _Budget:
    """How many values to predict before looking at the clock again, and whether the time is over."""

    def __init__(self, seconds: float | None, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._started = time.monotonic()
        self._values = 0
        self.block = most if seconds is None else 1
        self.spent = False

    def done(self, values: int) -> None:
        """So many more values were predicted."""
        self._values += values
        if self._seconds is not None:
            taken = max(time.monotonic() - self._started, 1e-9)
            self.spent = taken > self._seconds
            self.block = max(1, min(self._most, int(self._seconds / 10 * self._values / taken)))


def _row_error(rows: NDArray[np.float64]) -> float:
    return float(np.sqrt(rows.var(ddof=1) / len(rows))) if len(rows) > 1 else np.nan
