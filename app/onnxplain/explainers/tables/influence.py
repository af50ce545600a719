"""How much each row moves a metric: the first-order (delta-method) term that standard errors over rows are made of.

For a metric theta of weighted rows, `score(all rows) - theta` is to first order the mean of `influence` over the rows;
its variance over the rows, divided by their number, is the squared standard error of the score. Means over rows (accuracy,
losses) have their centred rows as influence; ratios and ranks are differentiated by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.metrics import METRICS, Predicted, Truth, brier_losses, log_losses, prediction_changes

Rows = NDArray[np.float64]


def influence(metric: str, truth: Truth, predicted: Predicted) -> Rows:
    """float64[n]: each row's first-order effect on the score (greater is better), weighted, but for a constant.

    Args:
        metric: a name of `METRICS`, or `prediction_change`, whose truth are the predictions themselves.
        truth: labels and weights.
        predicted: predictions for the same rows.
    """
    effect: Rows
    rows = _ROWS.get(metric)
    weights = None if truth.weights is None else truth.weights / truth.weights.mean()
    if rows is not None:
        effect = rows(truth, predicted)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = _RATIOS[metric](truth, predicted, np.ones(len(truth.values)) if weights is None else weights)
        effect[~np.isfinite(effect)] = 0.0
    if metric not in METRICS or not METRICS[metric].greater_is_better:
        effect = -effect
    if weights is None:
        return effect
    # A weighted mean moves with its rows' distances from it.
    weighted: Rows = (effect - np.average(effect, weights=weights)) * weights
    return weighted


def _accuracy(truth: Truth, predicted: Predicted) -> Rows:
    hits: Rows = (truth.values == predicted.classes).astype(np.float64)
    return hits


def _balanced_accuracy(truth: Truth, predicted: Predicted, weights: Rows) -> Rows:
    """A row of class c moves the recall of c, which is a mean over the share of c among all rows."""
    shares = np.bincount(truth.values, weights, minlength=truth.n_classes) / len(weights)
    hits = (truth.values == predicted.classes).astype(np.float64)
    recalls = np.bincount(truth.values, weights * hits, minlength=truth.n_classes) / len(weights) / shares
    present = np.count_nonzero(shares)
    result: Rows = (hits - recalls[truth.values]) / shares[truth.values] / present
    return result


def _f1_of_class(truth: Truth, predicted: Predicted, weights: Rows, c: int) -> Rows:
    """F1 is a ratio of means, N / D with N = 2 TP and D = 2 TP + FP + FN: dF1 = (dN - F1 dD) / D."""
    is_true, is_predicted = truth.values == c, predicted.classes == c
    numerator = 2.0 * (is_true & is_predicted)
    denominator = is_true.astype(np.float64) + is_predicted
    mean_n, mean_d = float(np.average(numerator, weights=weights)), float(np.average(denominator, weights=weights))
    if mean_d == 0:
        return np.zeros(len(weights))
    change: Rows = (numerator - mean_n / mean_d * denominator) / mean_d
    return change


def _f1(truth: Truth, predicted: Predicted, weights: Rows) -> Rows:
    return _f1_of_class(truth, predicted, weights, 1)


def _f1_macro(truth: Truth, predicted: Predicted, weights: Rows) -> Rows:
    present = np.union1d(truth.values, predicted.classes)  # type: ignore[arg-type]
    result: Rows = np.mean([_f1_of_class(truth, predicted, weights, c) for c in present], axis=0)
    return result


def _roc_auc_of(positive: NDArray[np.bool_], scores: Rows, weights: Rows) -> Rows:
    """Structural components (DeLong 1988): the share of the other class on the right side of each row."""
    _, place = np.unique(scores, return_inverse=True)
    positives = np.bincount(place, weights * positive)
    negatives = np.bincount(place, weights * ~positive)
    p, q = positives.sum(), negatives.sum()
    below = (np.cumsum(negatives) - negatives / 2) / q  # negatives below a positive, ties half
    above = (p - np.cumsum(positives) + positives / 2) / p  # positives above a negative
    auc = np.sum(positives * below) / p
    n = len(weights)
    result: Rows = np.where(positive, (below[place] - auc) * n / p, (above[place] - auc) * n / q)
    return result


def _average_precision_of(positive: NDArray[np.bool_], scores: Rows, weights: Rows) -> Rows:
    """AP = mean over positives of TP / (TP + FP) at their score; a row counts as itself and in all ranks at or below it."""
    _, place = np.unique(-scores, return_inverse=True)  # 0 is the greatest score
    positives = np.bincount(place, weights * positive)
    everyone = np.bincount(place, weights)
    total, n = positives.sum(), len(weights)
    called = np.cumsum(everyone)
    precision = np.cumsum(positives) / called
    ap = np.sum(positives * precision) / total
    # d precision(s) = (1[positive] - precision(s)) / called(s) for every score s at or below the row's own.
    slope = positives / called
    from_here = np.cumsum(slope[::-1])[::-1]
    from_here_precision = np.cumsum((slope * precision)[::-1])[::-1]
    below = positive * from_here[place] - from_here_precision[place]
    result: Rows = n * (positive * (precision[place] - ap) + below) / total
    return result


def _one_vs_rest(
    binary: Callable[[NDArray[np.bool_], Rows, Rows], Rows],
) -> Callable[[Truth, Predicted, Rows], Rows]:
    def rows(truth: Truth, predicted: Predicted, weights: Rows) -> Rows:
        scores = predicted.values.astype(np.float64)
        if truth.n_classes == 2:
            return binary(truth.values == 1, scores[:, -1], weights)
        result: Rows = np.mean(
            [binary(truth.values == c, scores[:, c], weights) for c in range(truth.n_classes)], axis=0
        )
        return result

    return rows


def _squared(truth: Truth, predicted: Predicted) -> Rows:
    error: Rows = (truth.values - predicted.values.astype(np.float64)) ** 2
    return error


def _mse(truth: Truth, predicted: Predicted) -> Rows:
    return _over_targets(_squared(truth, predicted))


def _over_targets(rows: Rows) -> Rows:
    mean: Rows = rows[:, 0] if rows.shape[1] == 1 else rows.mean(axis=1)
    return mean


def _rmse(truth: Truth, predicted: Predicted, weights: Rows) -> Rows:
    """The root of a mean m moves by dm / (2 sqrt(m))."""
    squared = _squared(truth, predicted)
    means = np.average(squared, axis=0, weights=weights)
    result: Rows = np.mean((squared - means) / (2 * np.sqrt(means)), axis=1)
    return result


def _r2(truth: Truth, predicted: Predicted, weights: Rows) -> Rows:
    """R2 = 1 - m / v: d R2 = -dm / v + m dv / v^2, where v is the variance of the labels."""
    squared = _squared(truth, predicted)
    spread = (truth.values - np.average(truth.values, axis=0, weights=weights)) ** 2
    m, v = np.average(squared, axis=0, weights=weights), np.average(spread, axis=0, weights=weights)
    result: Rows = np.mean(-(squared - m) / v + m * (spread - v) / v**2, axis=1)
    return result


def _absolute(truth: Truth, predicted: Predicted) -> Rows:
    error: Rows = np.abs(truth.values - predicted.values.astype(np.float64))
    return error


def _mae(truth: Truth, predicted: Predicted) -> Rows:
    return _over_targets(_absolute(truth, predicted))


def _mape(truth: Truth, predicted: Predicted) -> Rows:
    return _over_targets(_absolute(truth, predicted) / np.maximum(np.abs(truth.values), np.finfo(np.float64).eps))


def _brier(truth: Truth, predicted: Predicted) -> Rows:
    return brier_losses(truth, predicted) * (0.5 if truth.n_classes == 2 else 1.0)


_ROWS: dict[str, Callable[[Truth, Predicted], Rows]] = {
    "accuracy": _accuracy,
    "log_loss": log_losses,
    "brier": _brier,
    "mse": _mse,
    "mae": _mae,
    "mape": _mape,
    "prediction_change": prediction_changes,
}
"""Metrics that are means over rows: what each row adds."""

_RATIOS: dict[str, Callable[[Truth, Predicted, Rows], Rows]] = {
    "balanced_accuracy": _balanced_accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "roc_auc": _one_vs_rest(_roc_auc_of),
    "average_precision": _one_vs_rest(_average_precision_of),
    "r2": _r2,
    "rmse": _rmse,
}
"""Metrics that are functions of means, or of ranks: their derivatives."""
