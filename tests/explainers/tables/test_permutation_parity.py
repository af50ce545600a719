"""Permutation importance of models as exporters write them equals scikit-learn's on the same ONNX predictions, bit for bit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.inspection import permutation_importance

from onnxplain.explain.table import explain_table
from onnxplain.facts.tasks import ExplainTask, ModelRef
from onnxplain.model import Cancellation, TabularModel, load

FOLDER = Path(__file__).parents[2] / "vectors" / "tables"
DEMOS = Path(__file__).parents[3] / "models"
DATA = dict(np.load(FOLDER / "data.npz"))
LETTERS = np.array(["a", "b", "c"])[DATA["three"]]
BINARY = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "average_precision", "log_loss", "brier")
MANY = ("accuracy", "balanced_accuracy", "f1_macro", "roc_auc", "log_loss", "brier")
NUMBERS = ("r2", "rmse", "mse", "mae", "mape")
# float32 probabilities sum to one in float32 only, of which scikit-learn warns in float64.
pytestmark = pytest.mark.filterwarnings("ignore:The y_prob values do not sum to one")
SCORERS = {
    "roc_auc": "roc_auc_ovr",
    "log_loss": "neg_log_loss",
    "brier": "neg_brier_score",
    "rmse": "neg_root_mean_squared_error",
    "mse": "neg_mean_squared_error",
    "mae": "neg_mean_absolute_error",
    "mape": "neg_mean_absolute_percentage_error",
}

TWO, THREE, NUMBER = DATA["two"], DATA["three"], DATA["number"]
MODELS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "logistic": ("X", TWO, BINARY),
    "logistic-strings": ("X", LETTERS, MANY),
    "logistic-columns": ("X", THREE, MANY),
    "linear": ("X", NUMBER, NUMBERS),
    "forest": ("X", TWO, BINARY),
    "forest-apart": ("X", np.array([10, 12, 14])[THREE], MANY),
    "forest-deep": ("X", NUMBER, NUMBERS),
    "extra-trees-two-targets": ("X", DATA["numbers"], NUMBERS),
    "boosting": ("X", TWO, BINARY),
    "boosting-three": ("X", LETTERS, MANY),
    "boosting-number": ("X", NUMBER, NUMBERS),
    "tree": ("X", LETTERS, MANY),
    "ada-boost": ("X", TWO, BINARY),
    "scaled-forest": ("X", NUMBER, NUMBERS),
    "filled-forest": ("holes", TWO, BINARY),
    "network": ("X", LETTERS, MANY),
    "network-number": ("X", NUMBER, NUMBERS),
    "support-vectors": ("X", NUMBER, NUMBERS),
    "neighbours": ("X", NUMBER, NUMBERS),
    "bayes": ("X", THREE, MANY),
    "lightgbm": ("X", TWO, BINARY),
    "lightgbm-three": ("X", np.array([3, 5, 9])[THREE], MANY),
    "lightgbm-number": ("X", NUMBER, NUMBERS),
    "lightgbm-holes": ("holes", NUMBER, NUMBERS),
    "lightgbm-categories": ("X", TWO, BINARY),
    "xgboost": ("X", TWO, BINARY),
    "xgboost-three": ("X", THREE, MANY),
    "xgboost-number": ("X", NUMBER, NUMBERS),
    "catboost": ("X", TWO, BINARY),
    "catboost-three": ("X", THREE, MANY),
    "catboost-number": ("X", NUMBER, NUMBERS),
    "torch-logits": ("X", LETTERS, MANY),
    "torch-number": ("X", NUMBER, NUMBERS),
    "torch-one-row": ("X", NUMBER, NUMBERS),
}


def in_runtime(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # with more, sums of trees depend on the number of rows
    return ort.InferenceSession((path / "model.onnx").read_bytes(), options)


class Reference(BaseEstimator):
    """The ONNX file as scikit-learn sees an estimator: nothing of ours in between."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.inputs = session.get_inputs()

    def fit(self, X: Any, y: Any) -> Reference:
        raise NotImplementedError

    def run(self, X: Any) -> list[Any]:
        if len(self.inputs) > 1:
            types = {"tensor(string)": object, "tensor(int64)": np.int64, "tensor(float)": np.float32}
            feeds = {i.name: X[:, [j]].astype(types[i.type]) for j, i in enumerate(self.inputs)}
            return self.session.run(None, feeds)
        if self.inputs[0].shape[0] == 1:
            return [np.concatenate([self.session.run(None, {self.inputs[0].name: row[None]})[0] for row in X])]
        return self.session.run(None, {self.inputs[0].name: X})


class Classifier(ClassifierMixin, Reference):
    def __init__(self, session: ort.InferenceSession, classes: Any) -> None:
        super().__init__(session)
        self.classes_ = classes

    def predict(self, X: Any) -> Any:
        answer = self.run(X)
        if len(answer) == 1:
            return self.classes_[np.argmax(answer[0], axis=1)]
        return answer[0] if answer[0].dtype != object else answer[0].astype(str)

    def predict_proba(self, X: Any) -> Any:
        answer = self.run(X)
        if len(answer) == 1:
            scores = answer[0]
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float64)
        if isinstance(answer[1], list):
            return np.array([list(row.values()) for row in answer[1]], dtype=np.float64)
        columns = answer[1:] if len(answer) > 2 else [answer[1]]
        return np.concatenate([part.reshape(len(answer[0]), -1) for part in columns], axis=1).astype(np.float64)


class Regressor(RegressorMixin, Reference):
    def predict(self, X: Any) -> Any:
        answer = self.run(X)[0].astype(np.float64)
        return answer[:, 0] if answer.shape[1] == 1 else answer


def reference(path: Path, y: Any) -> Any:
    y = np.asarray(y)
    return Regressor(in_runtime(path)) if y.dtype.kind == "f" else Classifier(in_runtime(path), np.unique(y))


def table(path: Path) -> tuple[Any, Any]:
    """A CSV file as texts, object[n, columns] without the last, and that one."""
    with path.open(newline="") as file:
        _, *rows = csv.reader(file)
    cells = np.array(rows, dtype=object)
    return cells[:, :-1], cells[:, -1].astype(str)


def opened(path: Path) -> TabularModel:
    model = load(path, name=path.name, cancellation=Cancellation(), threads=2)
    assert isinstance(model, TabularModel)
    return model


def explained(model: TabularModel, body: dict[str, Any]) -> dict[str, Any]:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)  # NaN becomes null
    task = ExplainTask(ModelRef(model.card.name, ""), "permutation-importance", "application/json", content)
    return orjson.loads(orjson.dumps(explain_table(task, model)))


def assert_equal(ours: dict[str, Any], theirs: Any, metrics: tuple[str, ...]) -> None:
    for metric in metrics:
        expected = theirs[SCORERS.get(metric, metric)]
        entries = ours["importances"][metric]
        assert np.array_equal([entry["values"] for entry in entries], expected.importances), metric
        assert [entry["mean"] for entry in entries] == expected.importances_mean.tolist(), metric
        assert [entry["std"] for entry in entries] == expected.importances_std.tolist(), metric


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_has_scikit_learns_importances(name: str) -> None:
    key, y, metrics = MODELS[name]
    X = DATA[key]
    body = {"rows": X, "labels": y.tolist(), "metrics": metrics, "n_repeats": 4, "seed": 3}
    ours = explained(opened(FOLDER / name), body)
    if name == "torch-logits":  # scikit-learn's softmax and the runtime's round differently
        metrics = ("accuracy", "balanced_accuracy", "f1_macro")
    scoring = [SCORERS.get(metric, metric) for metric in metrics]
    theirs = permutation_importance(reference(FOLDER / name, y), X, y, scoring=scoring, n_repeats=4, random_state=3)
    assert_equal(ours, theirs, metrics)


@pytest.mark.parametrize("name", ["forest", "lightgbm-number", "network-number"])
def test_sample_weights_count_as_in_scikit_learn(name: str) -> None:
    key, y, metrics = MODELS[name]
    X, weight = DATA[key], DATA["weight"]
    body = {"rows": X, "labels": y.tolist(), "metrics": metrics, "sample_weight": weight, "n_repeats": 3, "seed": 7}
    ours = explained(opened(FOLDER / name), body)
    scoring = [SCORERS.get(metric, metric) for metric in metrics]
    theirs = permutation_importance(
        reference(FOLDER / name, y), X, y, scoring=scoring, n_repeats=3, random_state=7, sample_weight=weight
    )
    assert_equal(ours, theirs, metrics)


@pytest.mark.parametrize("max_samples", [0.5, 0.995, 40])
def test_baseline_on_all_rows_is_scikit_learns_max_samples(max_samples: float) -> None:
    key, y, metrics = MODELS["lightgbm-number"]
    X = DATA[key]
    body = {
        "rows": X,
        "labels": y.tolist(),
        "metrics": metrics,
        "max_samples": max_samples,
        "baseline_rows": "all",
        "seed": 1,
    }
    ours = explained(opened(FOLDER / "lightgbm-number"), body)
    scoring = [SCORERS.get(metric, metric) for metric in metrics]
    estimator = reference(FOLDER / "lightgbm-number", y)
    theirs = permutation_importance(estimator, X, y, scoring=scoring, random_state=1, max_samples=max_samples)
    assert_equal(ours, theirs, metrics)


@pytest.mark.parametrize("name", ["mixed-forest", "mixed-logistic"])
def test_raw_columns_with_texts_are_permuted_before_they_are_encoded(name: str) -> None:
    X, y = table(FOLDER / "mixed.csv")
    task = ExplainTask(
        ModelRef(name, ""),
        "permutation-importance",
        "text/csv",
        (FOLDER / "mixed.csv").read_bytes(),
        {"label": "answer", "metrics": ["accuracy", "log_loss"], "seed": 2},
    )
    ours = orjson.loads(orjson.dumps(explain_table(task, opened(FOLDER / name))))
    scoring = ["accuracy", "neg_log_loss"]
    theirs = permutation_importance(reference(FOLDER / name, y), X, y, scoring=scoring, random_state=2)
    assert_equal(ours, theirs, ("accuracy", "log_loss"))


@pytest.mark.parametrize(
    ("name", "metrics"),
    [("breast-cancer", ("accuracy", "log_loss", "roc_auc")), ("diabetes", ("r2", "mse"))],
)
def test_demo_models_have_scikit_learns_importances(name: str, metrics: tuple[str, ...]) -> None:
    ours = explained(opened(DEMOS / name), {"metrics": metrics, "n_repeats": 10, "seed": 0})
    X, y = table(DEMOS / name / "samples" / "test.csv")
    if name == "breast-cancer":
        X, y = X.astype(np.float32), (y == "benign").astype(np.int64)
    else:
        y = y.astype(np.float64)
    scoring = [SCORERS.get(metric, metric) if metric != "roc_auc" else metric for metric in metrics]
    theirs = permutation_importance(reference(DEMOS / name, y), X, y, scoring=scoring, n_repeats=10, random_state=0)
    assert_equal(ours, {SCORERS.get(m, m): theirs[s] for m, s in zip(metrics, scoring, strict=True)}, metrics)


def test_registered_data_are_those_of_the_csv_file() -> None:
    with (DEMOS / "diabetes" / "samples" / "test.csv").open() as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    assert explained(opened(DEMOS / "diabetes"), {})["n_rows"] == rows
