"""Every metric equals scikit-learn's to the last bit, weights included; what is undefined is refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as peers

from onnxplain.explainers.tables.metrics import METRICS, choose, prediction_change
from onnxplain.explainers.tables.truth import Predicted, Truth
from onnxplain.facts.errors import BadParameter, BadTable
from onnxplain.facts.metrics import LABEL_FREE, METRIC_NAMES


def classification(random: np.random.Generator, n: int, k: int) -> tuple[Any, Any, Any]:
    y = np.concatenate([np.arange(k), random.integers(0, k, n - k)])
    p = random.dirichlet(np.ones(k), n).astype(np.float32)
    if n % 3 == 0:
        p = np.round(p, 1) + np.float32(0.01)  # ties
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float64)
    return y, p, p.argmax(axis=1)


def theirs(name: str, y: Any, p: Any, c: Any, w: Any, k: int) -> float:
    scores = p[:, 1] if k == 2 else p
    labels = np.arange(k)
    return float(
        {
            "accuracy": lambda: peers.accuracy_score(y, c, sample_weight=w),
            "balanced_accuracy": lambda: peers.balanced_accuracy_score(y, c, sample_weight=w),
            "f1": lambda: peers.f1_score(y, c, sample_weight=w),
            "f1_macro": lambda: peers.f1_score(y, c, average="macro", sample_weight=w),
            "roc_auc": lambda: peers.roc_auc_score(y, scores, sample_weight=w, multi_class="ovr"),
            "average_precision": lambda: peers.average_precision_score(y, scores, sample_weight=w),
            "log_loss": lambda: peers.log_loss(y, scores, sample_weight=w, labels=labels),
            "brier": lambda: peers.brier_score_loss(y, scores, sample_weight=w, labels=labels),
        }[name]()
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.task == "classification"])
def test_classification_metrics_equal_scikit_learns(name: str, k: int, weighted: bool) -> None:
    if name == "f1" and k != 2:
        pytest.skip("f1 is for two classes")
    random = np.random.default_rng(k)
    for n in (k, 30, 171, 400):
        y, p, c = classification(random, n, k)
        w = random.random(n) if weighted else None
        ours = METRICS[name].measure(Truth(y, k, w), Predicted(p, c))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert ours == theirs(name, y, p, c, w, k)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("name", ["r2", "rmse", "mse", "mae", "mape"])
def test_regression_metrics_equal_scikit_learns(name: str, targets: int, weighted: bool) -> None:
    peer = {
        "r2": peers.r2_score,
        "rmse": peers.root_mean_squared_error,
        "mse": peers.mean_squared_error,
        "mae": peers.mean_absolute_error,
        "mape": peers.mean_absolute_percentage_error,
    }[name]
    random = np.random.default_rng(0)
    for n in (2, 9, 300):
        y = random.normal(size=(n, targets))
        prediction = (y + random.normal(size=(n, targets))).astype(np.float32)
        w = random.random(n) if weighted else None
        ours = METRICS[name].measure(Truth(y, 0, w), Predicted(prediction))
        assert ours == float(peer(y, prediction.astype(np.float64), sample_weight=w))


def test_constant_labels_give_r2_of_one_or_zero() -> None:
    y = np.ones((4, 1))
    assert METRICS["r2"].measure(Truth(y), Predicted(y)) == 1.0
    assert METRICS["r2"].measure(Truth(y), Predicted(y + 1)) == 0.0


def test_one_class_only_leaves_roc_auc_undefined() -> None:
    with pytest.raises(BadTable, match="roc_auc needs rows of all 2 classes"):
        choose(("roc_auc",), "classification", Truth(np.zeros(5, dtype=int), 2))


def test_rows_without_weight_do_not_count_as_a_class() -> None:
    with pytest.raises(BadTable, match="needs rows of all 2 classes"):
        choose(("roc_auc",), "classification", Truth(np.array([0, 0, 1]), 2, np.array([1.0, 1.0, 0.0])))


def test_metrics_of_the_other_task_are_refused_with_those_that_fit() -> None:
    with pytest.raises(BadParameter, match="choose from r2, rmse, mse, mae, mape, prediction_change"):
        choose(("accuracy",), "regression", Truth(np.zeros((3, 1))))
    with pytest.raises(BadParameter, match="f1_macro"):
        choose(("f1",), "classification", Truth(np.zeros(3, dtype=int), 3))


def test_every_metric_that_is_offered_has_its_function() -> None:
    for task, names in METRIC_NAMES.items():
        assert (*(name for name, metric in METRICS.items() if metric.task == task), LABEL_FREE) == names


def test_a_metric_that_changes_with_surer_probabilities_of_the_same_classes_is_called_probabilistic() -> None:
    """What judges only the predicted class does not notice how sure the model is of it."""
    random = np.random.default_rng(0)
    y, p, c = classification(random, 100, 3)
    surer = p**3 / (p**3).sum(axis=1, keepdims=True)
    for k, (few, much) in {2: (p[:, :2], surer[:, :2]), 3: (p, surer)}.items():
        truth = Truth(np.minimum(y, k - 1), k)
        for name, metric in METRICS.items():
            if metric.task == "classification" and (name, k) != ("f1", 3):
                one, other = (metric.measure(truth, Predicted(v, np.minimum(c, k - 1))) for v in (few, much))
                assert (one != other) == metric.probabilistic, name


def test_predictions_change_by_the_probability_that_moved_or_by_the_mean_distance_of_the_numbers() -> None:
    before, after = np.array([[0.4, 0.4, 0.1, 0.1]]), np.array([[0.1, 0.1, 0.4, 0.4]])
    assert prediction_change("classification").measure(Truth(before, 4), Predicted(after)) == pytest.approx(0.6)
    numbers = Predicted(np.array([[3.0, -1.0]]))
    assert prediction_change("regression").measure(Truth(np.zeros((1, 2))), numbers) == 2.0
