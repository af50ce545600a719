"""Permutation importance without chance: the mean over all pairs of rows instead of over drawn permutations.

In a uniformly random permutation, row i gets the value of row m with probability 1/n, m = i included. The expected score of a
mean over rows is therefore the mean over all n * n pairs: ((n - 1) * e_switch + e_orig) / n in the letters of Fisher, Rudin
and Dominici 2019 (arXiv:1801.01489). Rows of equal values need one prediction, so columns of few values are cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from app.errors import BadParameter
from app.explainers.metrics import METRICS
from app.explainers.permutation import Evaluator, Group, Job, Measure, PermutationImportance

_BLOCK = 2_000_000  # predictions to hold at once


def exact_importance(
    evaluator: Evaluator,
    measures: Sequence[Measure],
    groups: Sequence[Group],
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, PermutationImportance]:
    """The expectation of permutation importance over all permutations; one "repeat" without Monte-Carlo error.

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
    importances = np.empty((len(measures), len(groups), 1))
    errors = np.empty((len(measures), len(groups)))
    for g, group in enumerate(groups):
        codes, representatives = evaluator.distinct(group)
        shares = np.bincount(codes, minlength=len(representatives)) / n
        expected = np.zeros(len(measures))
        as_row = np.zeros((len(measures), n))
        as_lender = np.zeros((len(measures), len(representatives)))
        block = max(1, _BLOCK // n)
        for first in range(0, len(representatives), block):
            values = representatives[first : first + block]
            (predicted,) = evaluator.permuted([Job(group, np.repeat(values[:, None], n, axis=1))])
            for offset in range(len(values)):
                for m, measure in enumerate(measures):
                    share, answer = shares[first + offset], predicted[offset]
                    score = measure.score(answer)
                    expected[m] += share * (scores[m] - score)
                    as_row[m] += share * measure.influence(answer)
                    as_lender[m, first + offset] = score
        importances[:, g, 0] = expected
        for m in range(len(measures)):
            errors[m, g] = _row_error(unpermuted[m] - as_row[m] - as_lender[m][codes])
        progress((g + 1) / len(groups))
    return {
        measure.metric.name: PermutationImportance(scores[m], importances[m], errors[m])
        for m, measure in enumerate(measures)
    }


def _row_error(rows: NDArray[np.float64]) -> float:
    return float(np.sqrt(rows.var(ddof=1) / len(rows))) if len(rows) > 1 else np.nan
