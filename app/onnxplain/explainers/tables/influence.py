"""How much each row moves a metric: the first-order (delta-method) term that standard errors over rows are made of.

For a metric theta of weighted rows, `score(all rows) - theta` is to first order the mean of these influences over the rows;
its variance over the rows, divided by their number, is the squared standard error of the score. Each function gives
float64[n], what a row adds but for a constant: means over rows (accuracy, losses) have their rows as influence; ratios and
ranks are differentiated by hand.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.truth import Predicted, Truth

Rows = NDArray[np.float64]
Influence = Callable[[Truth, Predicted], Rows]


# Means over rows: what each row adds


def accuracy(truth: Truth, predicted: Predicted) -> Rows:
    """1 for a hit, else 0."""
    hits: Rows = (truth.values == predicted.classes).astype(np.float64)
    return hits


def log_loss(truth: Truth, predicted: Predicted) -> Rows:
    """Negative log of the true class's probability, float64[n], clipped as scikit-learn clips it."""
    if truth.n_classes == 2:
        positive = predicted.positive
        chosen = np.where(truth.values == 1, positive, 1 - positive)
    else:
        chosen = predicted.values[np.arange(len(truth.values)), truth.values].astype(np.float64)
    eps = np.finfo(np.float64).eps
    losses: Rows = -np.log(np.clip(chosen, eps, 1 - eps))
    return losses


def brier_losses(truth: Truth, predicted: Predicted) -> Rows:
    """Squared distance of the probabilities from the truth, summed over classes, float64[n]."""
    if truth.n_classes == 2:
        positive = predicted.positive
        probabilities = np.stack((1 - positive, positive), axis=1)
    else:
        probabilities = predicted.values.astype(np.float64)
    one_hot = (truth.values[:, None] == np.arange(truth.n_classes)).astype(np.float64)
    losses: Rows = np.sum((one_hot - probabilities) ** 2, axis=1)
    return losses


def brier(truth: Truth, predicted: Predicted) -> Rows:
    """`brier_losses`, halved where there are two classes."""
    return brier_losses(truth, predicted) * (0.5 if truth.n_classes == 2 else 1.0)


def mse(truth: Truth, predicted: Predicted) -> Rows:
    """Squared errors, mean over the targets."""
    return _over_targets(_squared(truth, predicted))


def mae(truth: Truth, predicted: Predicted) -> Rows:
    """Absolute errors, mean over the targets."""
    return _over_targets(_absolute(truth, predicted))


def mape(truth: Truth, predicted: Predicted) -> Rows:
    """Errors relative to the labels, mean over the targets."""
    return _over_targets(_absolute(truth, predicted) / np.maximum(np.abs(truth.values), np.finfo(np.float64).eps))


def prediction_change(truth: Truth, predicted: Predicted) -> Rows:
    """How far each prediction lies from the unpermuted one, which `truth` holds.

    Total variation distance for probabilities (half the sum of absolute differences), mean absolute difference else.
    """
    change = np.abs(predicted.values.astype(np.float64) - truth.values)
    distance: Rows = change.sum(axis=1) / 2 if truth.n_classes else change.mean(axis=1)
    return distance


def _squared(truth: Truth, predicted: Predicted) -> Rows:
    error: Rows = (truth.values - predicted.values.astype(np.float64)) ** 2
    return error


def _absolute(truth: Truth, predicted: Predicted) -> Rows:
    error: Rows = np.abs(truth.values - predicted.values.astype(np.float64))
    return error


def _over_targets(rows: Rows) -> Rows:
    mean: Rows = rows[:, 0] if rows.shape[1] == 1 else rows.mean(axis=1)
    return mean


# Functions of means, and of ranks: their derivatives


def balanced_accuracy(truth: Truth, predicted: Predicted) -> Rows:
    """A row of class c moves the recall of c, which is a mean over the share of c among all rows."""
    weights = truth.relative_weights
    shares = np.bincount(truth.values, weights, minlength=truth.n_classes) / len(weights)
    hits = (truth.values == predicted.classes).astype(np.float64)
    recalls = np.bincount(truth.values, weights * hits, minlength=truth.n_classes) / len(weights) / shares
    present = np.count_nonzero(shares)
    result: Rows = (hits - recalls[truth.values]) / shares[truth.values] / present
    return result


def _f1_of_class(truth: Truth, predicted: Predicted, c: int) -> Rows:
    """F1 is a ratio of means, N / D with N = 2 TP and D = 2 TP + FP + FN: dF1 = (dN - F1 dD) / D."""
    weights = truth.relative_weights
    is_true, is_predicted = truth.values == c, predicted.classes == c
    numerator = 2.0 * (is_true & is_predicted)
    denominator = is_true.astype(np.float64) + is_predicted
    mean_n, mean_d = float(np.average(numerator, weights=weights)), float(np.average(denominator, weights=weights))
    if mean_d == 0:
        return np.zeros(len(weights))
    change: Rows = (numerator - mean_n / mean_d * denominator) / mean_d
    return change


def f1(truth: Truth, predicted: Predicted) -> Rows:
    """F1 of the second of two classes."""
    return _f1_of_class(truth, predicted, 1)


def f1_macro(truth: Truth, predicted: Predicted) -> Rows:
    """Mean over the classes that occur."""
    present = np.union1d(truth.values, predicted.classes)  # type: ignore[arg-type]
    result: Rows = np.mean([_f1_of_class(truth, predicted, c) for c in present], axis=0)
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
) -> Influence:
    def rows(truth: Truth, predicted: Predicted) -> Rows:
        weights = truth.relative_weights
        scores = predicted.values.astype(np.float64)
        if truth.n_classes == 2:
            return binary(truth.values == 1, scores[:, -1], weights)
        result: Rows = np.mean(
            [binary(truth.values == c, scores[:, c], weights) for c in range(truth.n_classes)], axis=0
        )
        return result

    return rows


roc_auc = _one_vs_rest(_roc_auc_of)
average_precision = _one_vs_rest(_average_precision_of)


def rmse(truth: Truth, predicted: Predicted) -> Rows:
    """The root of a mean m moves by dm / (2 sqrt(m))."""
    weights, squared = truth.relative_weights, _squared(truth, predicted)
    means = np.average(squared, axis=0, weights=weights)
    result: Rows = np.mean((squared - means) / (2 * np.sqrt(means)), axis=1)
    return result


def r2(truth: Truth, predicted: Predicted) -> Rows:
    """R2 = 1 - m / v: d R2 = -dm / v + m dv / v^2, where v is the variance of the labels."""
    weights, squared = truth.relative_weights, _squared(truth, predicted)
    spread = (truth.values - np.average(truth.values, axis=0, weights=weights)) ** 2
    m, v = np.average(squared, axis=0, weights=weights), np.average(spread, axis=0, weights=weights)
    result: Rows = np.mean(-(squared - m) / v + m * (spread - v) / v**2, axis=1)
    return result
