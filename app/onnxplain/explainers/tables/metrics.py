"""How good predictions are: scikit-learn's metrics in NumPy, equal to its results to the last bit.

Sums run over arrays of the same shape and in the same order as in `sklearn.metrics`, so that no rounding differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables import influence
from onnxplain.explainers.tables.influence import Influence
from onnxplain.explainers.tables.truth import Predicted, Truth, Weights
from onnxplain.facts.cards import Task
from onnxplain.facts.errors import BadParameter, BadTable
from onnxplain.facts.metrics import LABEL_FREE, METRIC_NAMES


@dataclass(frozen=True)
class Metric:
    """One way to measure.

    Attributes:
        name: as callers write it.
        task: which models it fits.
        measure: the metric as scikit-learn's function of the same name returns it.
        influence: what each row adds to it to first order, but for a constant; see `onnxplain.explainers.tables.influence`.
        greater_is_better: False for a loss; `score` is then its negative.
        row_mean: whether the score is a mean over rows (given the labels), so that its expectation over
            permutations is the mean over all pairs of rows.
        probabilistic: whether it judges probabilities, which not every classifier gives.
        needs: which labels it needs to be defined: `any`, `two` different ones, or `all` classes.
        smooth: whether the last digits of predictions move only its own last digits, the classes being the same. The order
            of scores hangs on them, as does the logarithm of what a probability close to 1 leaves.
    """

    name: str
    task: Task
    measure: Callable[[Truth, Predicted], float]
    influence: Influence
    greater_is_better: bool = True
    row_mean: bool = False
    probabilistic: bool = False
    needs: Literal["any", "two", "all"] = "any"
    smooth: bool = True

    def score(self, truth: Truth, predicted: Predicted) -> float:
        """The metric, signed so that greater is better."""
        value = self.measure(truth, predicted)
        return value if self.greater_is_better else -value

    def row_effects(self, truth: Truth, predicted: Predicted) -> NDArray[np.float64]:
        """Each row's first-order effect on the score, weighted, but for a constant, float64[n]; 0 where there is none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = self.influence(truth, predicted)
        effect[~np.isfinite(effect)] = 0.0
        if not self.greater_is_better:
            effect = -effect
        if truth.weights is None:
            return effect
        # A weighted mean moves with its rows' distances from it.
        weights = truth.relative_weights
        weighted: NDArray[np.float64] = (effect - np.average(effect, weights=weights)) * weights
        return weighted


def _average(values: NDArray[Any], weights: Weights) -> float:
    return float(np.average(values, weights=weights))


# Classification by the predicted class


def _accuracy(truth: Truth, predicted: Predicted) -> float:
    hits = truth.values == predicted.classes
    return float(np.count_nonzero(hits)) / len(hits) if truth.weights is None else _average(hits, truth.weights)


def _balanced_accuracy(truth: Truth, predicted: Predicted) -> float:
    """Mean recall over the classes that occur among the labels."""
    assert predicted.classes is not None
    k = truth.n_classes
    counts = np.bincount(truth.values * k + predicted.classes, truth.weights, minlength=k * k).reshape(k, k)
    present = np.union1d(truth.values, predicted.classes)  # a zero more would group the floats of a sum differently
    counts = counts[np.ix_(present, present)]
    totals = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        recalls = counts.diagonal() / totals
    return float(np.mean(recalls[~np.isnan(recalls)]))


def _f1_by_class(truth: Truth, predicted: Predicted) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN) for each class; 0 where it is neither true nor predicted."""
    assert predicted.classes is not None
    k, hit = truth.n_classes, truth.values == predicted.classes
    true_positives = np.bincount(truth.values[hit], None if truth.weights is None else truth.weights[hit], minlength=k)
    predicted_sum = np.bincount(predicted.classes, truth.weights, minlength=k)
    true_sum = np.bincount(truth.values, truth.weights, minlength=k)
    # The detour over FP and FN rounds weighted sums as the confusion matrix of scikit-learn does.
    predicted_sum = true_positives + (predicted_sum - true_positives)
    true_sum = true_positives + (true_sum - true_positives)
    denominator = np.asarray(true_sum + predicted_sum, dtype=np.float64)
    f1: NDArray[np.float64] = 2.0 * true_positives / np.where(denominator == 0, 1.0, denominator)
    return f1


def _f1(truth: Truth, predicted: Predicted) -> float:
    return float(_f1_by_class(truth, predicted)[1])


def _f1_macro(truth: Truth, predicted: Predicted) -> float:
    present = np.union1d(truth.values, predicted.classes)  # type: ignore[arg-type]
    return float(np.mean(_f1_by_class(truth, predicted)[present]))


# Classification by probability


def _log_loss(truth: Truth, predicted: Predicted) -> float:
    return _average(influence.log_loss(truth, predicted), truth.weights)


def _brier(truth: Truth, predicted: Predicted) -> float:
    # Halved after the mean where there are two classes, as scikit-learn does.
    return _average(influence.brier_losses(truth, predicted), truth.weights) * (0.5 if truth.n_classes == 2 else 1.0)


def _counts_at_thresholds(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted false and true positives when everything scored at least as high is called positive."""
    if weights is None:
        order = np.argsort(-scores)  # the order of ties is lost below
        ordered = scores[order]
        ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
        tps = np.cumsum(positive[order], dtype=np.float64)[ends]
        return 1 + ends.astype(np.float64) - tps, tps
    kept = weights != 0
    positive, scores, weights = positive[kept], scores[kept], weights[kept]
    order = np.argsort(-scores, kind="stable")
    ordered, weight, is_positive = scores[order], weights[order], positive[order].astype(np.float64)
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return np.cumsum((1 - is_positive) * weight)[ends], np.cumsum(is_positive * weight)[ends]


def _binary_roc_auc(positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights) -> float:
    fps, tps = _counts_at_thresholds(positive, scores, weights)
    if len(fps) > 2:  # collinear points change no area, but its rounding
        corner = np.logical_or(np.diff(fps, 2), np.diff(tps, 2))
        kept = np.concatenate(([True], corner, [True]))
        fps, tps = fps[kept], tps[kept]
    fpr = np.concatenate(([0.0], fps)) / fps[-1]
    tpr = np.concatenate(([0.0], tps)) / tps[-1]
    return float(np.trapezoid(tpr, fpr))


def _binary_average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: Weights) -> float:
    fps, tps = _counts_at_thresholds(positive, scores, weights)
    total = tps + fps
    precision = np.zeros_like(tps)
    np.divide(tps, total, out=precision, where=total != 0)
    recall = np.append(np.flip(tps / tps[-1]), 0.0)
    return float(max(0.0, -np.sum(np.diff(recall) * np.flip(precision))))


def _one_vs_rest(
    binary: Callable[[NDArray[np.bool_], NDArray[np.float64], Weights], float],
) -> Callable[[Truth, Predicted], float]:
    """A two-class metric; for more classes, the mean over one class against the rest."""

    def measure(truth: Truth, predicted: Predicted) -> float:
        if truth.n_classes == 2:
            return binary(truth.values == 1, predicted.positive, truth.weights)
        columns = np.ascontiguousarray(predicted.values.T, dtype=np.float64)
        return float(np.mean([binary(truth.values == c, column, truth.weights) for c, column in enumerate(columns)]))

    return measure


# Regression: mean over targets of the metric of each


def _errors(truth: Truth, predicted: Predicted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return truth.values, predicted.values.astype(np.float64)


def _mse(truth: Truth, predicted: Predicted) -> float:
    y, prediction = _errors(truth, predicted)
    return float(np.average(np.average((y - prediction) ** 2, axis=0, weights=truth.weights)))


def _rmse(truth: Truth, predicted: Predicted) -> float:
    y, prediction = _errors(truth, predicted)
    return float(np.average(np.sqrt(np.average((y - prediction) ** 2, axis=0, weights=truth.weights))))


def _mae(truth: Truth, predicted: Predicted) -> float:
    y, prediction = _errors(truth, predicted)
    return float(np.average(np.average(np.abs(prediction - y), axis=0, weights=truth.weights)))


def _mape(truth: Truth, predicted: Predicted) -> float:
    y, prediction = _errors(truth, predicted)
    relative = np.abs(prediction - y) / np.maximum(np.abs(y), np.finfo(np.float64).eps)
    return float(np.average(np.average(relative, axis=0, weights=truth.weights)))


def _r2(truth: Truth, predicted: Predicted) -> float:
    """1 - residual / total sum of squares; where the total is 0, 1 for perfect predictions and else 0."""
    y, prediction = _errors(truth, predicted)
    weight = 1.0 if truth.weights is None else truth.weights[:, None]
    residual = np.sum(weight * (y - prediction) ** 2, axis=0)
    total = np.sum(weight * (y - np.average(y, axis=0, weights=truth.weights)) ** 2, axis=0)
    fraction = np.divide(residual, total, out=np.ones_like(residual), where=total != 0)
    return float(np.average(np.where(residual == 0, 1.0, 1 - fraction)))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "classification", _accuracy, influence.accuracy, row_mean=True),
        Metric("balanced_accuracy", "classification", _balanced_accuracy, influence.balanced_accuracy, row_mean=True),
        Metric("f1", "classification", _f1, influence.f1),
        Metric("f1_macro", "classification", _f1_macro, influence.f1_macro),
        Metric(
            "roc_auc",
            "classification",
            _one_vs_rest(_binary_roc_auc),
            influence.roc_auc,
            probabilistic=True,
            needs="all",
            smooth=False,
        ),
        Metric(
            "average_precision",
            "classification",
            _one_vs_rest(_binary_average_precision),
            influence.average_precision,
            probabilistic=True,
            needs="all",
            smooth=False,
        ),
        Metric(
            "log_loss",
            "classification",
            _log_loss,
            influence.log_loss,
            greater_is_better=False,
            row_mean=True,
            probabilistic=True,
            smooth=False,
        ),
        Metric(
            "brier",
            "classification",
            _brier,
            influence.brier,
            greater_is_better=False,
            row_mean=True,
            probabilistic=True,
        ),
        Metric("r2", "regression", _r2, influence.r2, row_mean=True, needs="two"),
        Metric("rmse", "regression", _rmse, influence.rmse, greater_is_better=False),
        Metric("mse", "regression", _mse, influence.mse, greater_is_better=False, row_mean=True),
        Metric("mae", "regression", _mae, influence.mae, greater_is_better=False, row_mean=True),
        Metric("mape", "regression", _mape, influence.mape, greater_is_better=False, row_mean=True, smooth=False),
    )
}


def prediction_change(task: Task) -> Metric:
    """How far predictions move on average: a metric that needs no labels; its truth are the unpermuted predictions."""
    return Metric(
        LABEL_FREE,
        task,
        lambda truth, predicted: _average(influence.prediction_change(truth, predicted), truth.weights),
        influence.prediction_change,
        greater_is_better=False,
        row_mean=True,
    )


def choose(names: tuple[str, ...], task: Task, truth: Truth) -> tuple[Metric, ...]:
    """The named metrics, each checked to be defined for these labels.

    Raises:
        BadParameter: a name is unknown, or its metric is for another task or number of classes.
        BadTable: the labels leave the metric undefined.
    """
    chosen = []
    for name in dict.fromkeys(names):
        metric = METRICS.get(name)
        if metric is None or metric.task != task:
            raise BadParameter(
                f"'{name}' is no metric for a {task} model; choose from {', '.join(METRIC_NAMES[task])}."
            )
        if name == "f1" and truth.n_classes != 2:
            raise BadParameter(f"f1 is for two classes, but the model has {truth.n_classes}; use f1_macro.")
        _check_labels(metric, truth)
        chosen.append(metric)
    return tuple(chosen)


def _check_labels(metric: Metric, truth: Truth) -> None:
    values = truth.values if truth.weights is None else truth.values[truth.weights != 0]
    different = len(np.unique(values, axis=0))
    if metric.needs == "two" and len(values) < 2:
        raise BadTable(f"{metric.name} needs at least two rows, but the table has {len(values)}; send more rows.")
    if metric.needs == "all" and different < truth.n_classes:
        raise BadTable(
            f"{metric.name} needs rows of all {truth.n_classes} classes, but the labels hold {different}; "
            "send rows of the other classes too, or use another metric."
        )
