"""What a row adds to a metric is the slope of the weighted metric along that row's weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from onnxplain.explainers.tables.metrics import METRICS, Metric, prediction_change
from onnxplain.explainers.tables.truth import Predicted, Truth
from onnxplain.facts.metrics import LABEL_FREE, METRIC_NAMES

ROWS, STEP = 60, 1e-5


def cases() -> Iterator[tuple[str, int, int]]:
    """Each metric's name, with how many classes (0: a regression) and columns it is tried."""
    for name in METRIC_NAMES["classification"]:
        yield from ((name, k, k) for k in (2, 3) if (name, k) != ("f1", 3))
    for name in METRIC_NAMES["regression"]:
        yield from ((name, 0, targets) for targets in (1, 2))


def drawn(name: str, classes: int, columns: int) -> tuple[Metric, Truth, Predicted]:
    """Predictions that are often wrong, some of them tied, and what is true."""
    random = np.random.default_rng(3)
    if classes:
        metric = prediction_change("classification") if name == LABEL_FREE else METRICS[name]
        values = np.round(random.dirichlet(np.ones(classes), ROWS), 1) + 0.02
        values /= values.sum(axis=1, keepdims=True)
        before = random.dirichlet(np.ones(classes), ROWS)
        labels = before if name == LABEL_FREE else random.integers(0, classes, ROWS)
        return metric, Truth(labels, classes), Predicted(values, values.argmax(axis=1))
    metric = prediction_change("regression") if name == LABEL_FREE else METRICS[name]
    labels = random.normal(size=(ROWS, columns))
    return metric, Truth(labels), Predicted(labels + random.normal(size=(ROWS, columns)))


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize(("name", "classes", "columns"), list(cases()))
def test_influence_is_the_slope_along_a_rows_weight(name: str, classes: int, columns: int, weighted: bool) -> None:
    metric, truth, predicted = drawn(name, classes, columns)
    weights = np.random.default_rng(5).uniform(0.2, 3, ROWS) if weighted else np.ones(ROWS)

    def score(row: int, step: float) -> float:
        return metric.score(replace(truth, weights=weights + step * (np.arange(ROWS) == row)), predicted)

    slopes = np.array([(score(row, STEP) - score(row, -STEP)) / (2 * STEP) for row in range(ROWS)])
    assert np.abs(slopes).max() > 0
    effects = metric.row_effects(replace(truth, weights=weights) if weighted else truth, predicted)
    np.testing.assert_allclose(effects - effects.mean(), ROWS * weights * slopes, atol=1e-5)
