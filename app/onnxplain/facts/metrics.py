"""The names of metrics: what the option's description and the page offer, and what workers hold a function for."""

from __future__ import annotations

from typing import Final

from onnxplain.facts.cards import Task

LABEL_FREE: Final = "prediction_change"
"""The one metric that needs no labels, for every task."""

METRIC_NAMES: Final[dict[Task, tuple[str, ...]]] = {
    "classification": (
        "accuracy",
        "balanced_accuracy",
        "f1",
        "f1_macro",
        "roc_auc",
        "average_precision",
        "log_loss",
        "brier",
        LABEL_FREE,
    ),
    "regression": ("r2", "rmse", "mse", "mae", "mape", LABEL_FREE),
}
"""By task, the default first."""
