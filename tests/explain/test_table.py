"""A table explanation is the document of the contract; what does not fit is refused with what to do."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from onnxplain.explain.table import explain_table, predict_table
from onnxplain.facts.errors import BadParameter, BadTable, Cancelled, ExplainError, TooExpensive
from onnxplain.facts.tasks import ExplainTask, ModelRef, PredictTask, TaskLimits
from onnxplain.model import Cancellation, TabularModel, load
from onnxplain.model.tables.cut_at_trees import TreeModel

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "tests" / "vectors" / "tables"
METHOD = "permutation-importance"


def opened(path: Path, cancellation: Cancellation | None = None) -> TabularModel:
    model = load(path, name=path.name, cancellation=cancellation or Cancellation())
    assert isinstance(model, TabularModel)
    return model


@pytest.fixture(scope="module")
def cancer() -> TabularModel:
    return opened(ROOT / "models" / "breast-cancer")


@pytest.fixture(scope="module")
def mixed() -> TabularModel:
    return opened(TABLES / "mixed-forest")


def explain(
    model: TabularModel,
    body: Any = None,
    limits: TaskLimits | None = None,
    media: str = "application/json",
    **options: Any,
) -> Any:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    task = ExplainTask(
        ModelRef(model.card.name, ""), METHOD, media if content else "", content, options, limits=limits or TaskLimits()
    )
    document: dict[str, Any] = orjson.loads(orjson.dumps(explain_table(task, model)))
    del document["timings_ms"]  # differs from run to run
    return document


def rows_of(model: TabularModel, count: int) -> tuple[list[list[float]], list[str]]:
    with (ROOT / "models" / model.card.name / "samples" / "test.csv").open() as file:
        rows = list(csv.reader(file))[1 : count + 1]
    return [[float(cell) for cell in row[:-1]] for row in rows], [row[-1] for row in rows]


def test_the_answer_is_the_contracts_document(cancer: TabularModel) -> None:
    document = explain(cancer, {"metrics": ["accuracy", "log_loss"], "n_repeats": 3, "seed": 1})
    assert {
        "baseline",
        "importances",
        "ranking",
        "n_rows",
        "n_repeats",
        "seed",
        "evaluations",
        "warnings",
    } <= document.keys()
    assert document["evaluations"] == 1 + 30 * 3
    assert (document["n_rows"], document["n_repeats"], document["seed"]) == (228, 3, 1)
    assert document["baseline"]["log_loss"] > 0
    for metric in ("accuracy", "log_loss"):
        entries = document["importances"][metric]
        assert [entry["feature"] for entry in entries] == cancer.features
        assert sorted(document["ranking"][metric]) == sorted(cancer.features)
        best = max(entries, key=lambda entry: entry["mean"])
        assert document["ranking"][metric][0] == best["feature"]
        assert best["ci95"][0] < best["mean"] < best["ci95"][1]
        assert best["mean"] == pytest.approx(np.mean(best["values"]))
        assert best["standard_error"] ** 2 == pytest.approx(
            best["monte_carlo_error"] ** 2 + best["sampling_error"] ** 2
        )


def test_correlated_columns_are_suggested_as_groups_and_can_be_used_as_such(cancer: TabularModel) -> None:
    suggested = explain(cancer, n_repeats=1)["suggested_groups"]
    size = next(group for group in suggested if "mean_radius" in group)
    document = explain(cancer, {"groups": {"size": size}, "features": ["worst_texture", "mean_radius"], "n_repeats": 2})
    names = [entry["feature"] for entry in document["importances"]["accuracy"]]
    assert names == ["mean_radius", "worst_texture", "size"]
    assert document["ranking"]["accuracy"][0] == "size"


def test_labels_may_be_names_or_what_the_graph_says(cancer: TabularModel) -> None:
    rows, names = rows_of(cancer, 30)
    numbers = [{"malignant": 0, "benign": 1}[name] for name in names]
    columns = cancer.features
    answers = [
        explain(cancer, {"rows": rows, "columns": columns, "labels": labels, "n_repeats": 1})
        for labels in (
            names,
            numbers,
            [float(n) for n in numbers],
            [str(n) for n in numbers],
            [n == 1 for n in numbers],
        )
    ]
    assert all(answer == answers[0] for answer in answers)


def test_without_labels_the_movement_of_predictions_is_measured(cancer: TabularModel) -> None:
    rows, _ = rows_of(cancer, 40)
    document = explain(cancer, {"rows": rows, "n_repeats": 2})
    assert list(document["importances"]) == ["prediction_change"]
    assert document["baseline"] == {"prediction_change": 0.0}
    assert all(entry["mean"] >= 0 for entry in document["importances"]["prediction_change"])
    assert any("No labels came" in warning for warning in document["warnings"])


def test_exact_importance_has_no_monte_carlo_error(cancer: TabularModel) -> None:
    exact = explain(
        cancer, {"n_repeats": "exact", "metrics": ["log_loss"], "features": ["worst_texture", "mean_radius"]}
    )
    sampled = explain(cancer, {"n_repeats": 400, "metrics": ["log_loss"], "features": ["worst_texture", "mean_radius"]})
    for one, many in zip(exact["importances"]["log_loss"], sampled["importances"]["log_loss"], strict=True):
        assert one["monte_carlo_error"] is None
        assert many["mean"] == pytest.approx(one["mean"], abs=4 * many["monte_carlo_error"])
    with pytest.raises(BadParameter, match="roc_auc is no mean over rows"):
        explain(cancer, {"n_repeats": "exact", "metrics": ["roc_auc"]})


def test_rows_can_be_drawn_and_the_baseline_is_that_of_the_drawn_rows(cancer: TabularModel) -> None:
    document = explain(cancer, max_samples=50, n_repeats=1)
    assert document["n_rows"] == 50
    assert round(document["baseline"]["accuracy"] * 50) == pytest.approx(document["baseline"]["accuracy"] * 50)
    whole = explain(cancer, max_samples=50, n_repeats=1, baseline_rows="all")
    assert whole["baseline"] == explain(cancer, n_repeats=1)["baseline"]


def test_a_budget_of_time_is_kept_and_said(cancer: TabularModel) -> None:
    document = explain(cancer, n_repeats=10_000, max_seconds=1.0)
    entries = document["importances"]["accuracy"]
    assert 1 <= min(len(entry["values"]) for entry in entries) < 10_000
    assert any("max_seconds ended the work early" in warning for warning in document["warnings"])


def test_work_that_is_too_dear_is_refused_with_its_price(cancer: TabularModel) -> None:
    with pytest.raises(
        TooExpensive, match=r"This would take about .* s of computing \(228 rows, 300,000 permuted copies\)"
    ):
        explain(cancer, n_repeats=10_000, limits=TaskLimits(max_cost_ms=100.0))
    explain(cancer, n_repeats=10_000, max_seconds=0.05, limits=TaskLimits(max_cost_ms=100.0))


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ({"rows": [[1.0] * 30], "labels": [1, 0]}, BadTable, "There are 2 labels for 1 rows"),
        (
            {"rows": [[1.0] * 30], "labels": ["cat"]},
            BadTable,
            "Row 1: the label 'cat' is not a class of the model; its classes are 'mal",
        ),
        ({"rows": [[1.0] * 30], "labels": [None]}, BadTable, "Row 1: the label None"),
        (
            {"rows": [[1.0] * 30] * 2, "labels": [1, 1], "metrics": ["roc_auc"]},
            BadTable,
            "roc_auc needs rows of all 2 classes",
        ),
        ({"rows": [[1.0] * 29]}, BadTable, "Row 1 has 29 values, but there are 30 columns"),
        ({"rows": [[1.0] * 30], "metrics": ["accuracy"]}, BadTable, "accuracy needs labels"),
        ({"metrics": ["r2"]}, BadParameter, "'r2' is no metric for a classification model"),
        ({"features": ["size"]}, BadParameter, "The model has no column 'size'"),
        ({"groups": {"g": ["size"]}}, BadParameter, "The model has no column 'size'"),
        ({"groups": {"mean_area": ["mean_radius"]}}, BadParameter, "has the name of a column"),
        ({"features": []}, BadParameter, "features is empty"),
        ({"sample_weight": [1.0]}, BadTable, "sample_weight has 1 values for 228 rows"),
        ({"sample_weight": [0.0] * 228}, BadTable, "zero for every row"),
        ({"sample_weight": [-1.0] * 228}, BadParameter, "sample_weight"),
        ({"max_samples": 1000}, BadParameter, "max_samples is 1000, but the table has 228 rows"),
        ({"n_repeats": 0}, BadParameter, "n_repeats"),
        ({"n_repeats": "many"}, BadParameter, "n_repeats"),
        ({"repeats": 3}, BadParameter, "repeats"),
        ({"labels": [1]}, BadTable, "labels and columns belong to rows"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(
    cancer: TabularModel, body: Any, error: type[ExplainError], message: str
) -> None:
    with pytest.raises(error) as caught:
        explain(cancer, body)
    assert message in str(caught.value)


def test_one_row_and_missing_columns_are_answered_with_a_warning(cancer: TabularModel) -> None:
    document = explain(cancer, {"rows": [[None] * 30], "labels": ["benign"]})
    assert all(entry["mean"] == 0 for entry in document["importances"]["accuracy"])
    assert any("one row" in warning for warning in document["warnings"])
    assert any("All values are missing" in warning for warning in document["warnings"])


def test_unknown_texts_are_named_with_row_and_column(mixed: TabularModel) -> None:
    rows = [[30, 0.5, "red", "S"], [40, -0.5, "mauve", "M"], [50, 0.1, "blue", "L"]]
    document = explain(mixed, {"rows": rows, "labels": ["yes", "no", "no"]})
    assert any("'mauve' (row 2, column 'colour')" in warning for warning in document["warnings"])


def test_predictions_come_row_by_row(cancer: TabularModel, mixed: TabularModel) -> None:
    body = (ROOT / "models" / "breast-cancer" / "samples" / "predict.json").read_bytes()
    answer = predict_table(PredictTask(ModelRef("b", ""), "application/json", body), cancer)
    assert len(answer.rows) == 3
    assert all(row[0].probability >= row[1].probability for row in answer.rows)
    assert {entry.label for entry in answer.rows[0]} == {"malignant", "benign"}
    diabetes = opened(ROOT / "models" / "diabetes")
    body = (ROOT / "models" / "diabetes" / "samples" / "predict.json").read_bytes()
    numbers = predict_table(PredictTask(ModelRef("d", ""), "application/json", body), diabetes).rows
    assert all(isinstance(number, float) for number in numbers)
    with pytest.raises(BadTable, match="no registered evaluation data"):
        predict_table(PredictTask(ModelRef("m", "")), mixed)


def test_a_cancelled_explanation_ends() -> None:
    cancellation = Cancellation()
    model = opened(ROOT / "models" / "diabetes", cancellation)
    cancellation.cancel()
    with pytest.raises(Cancelled):
        explain(model)


def test_progress_reaches_one(cancer: TabularModel) -> None:
    shares: list[float] = []
    explain_table(ExplainTask(ModelRef("b", ""), METHOD), cancer, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_linear_models_go_the_short_way_unless_a_metric_hangs_on_last_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(TABLES / "logistic")
    data = np.load(TABLES / "data.npz")
    body = {"rows": data["X"].tolist(), "labels": data["two"].tolist(), "metrics": ["accuracy", "f1"]}
    slow = explain(model, body)
    monkeypatch.setattr("onnxplain.model.tables.cut_at_linear._PAYS_MS", -1.0)
    fast = explain(model, body)
    assert (slow["engine"]["name"], fast["engine"]["name"]) == ("black-box", "linear")
    assert fast["importances"] == slow["importances"]
    assert explain(model, body | {"metrics": ["accuracy", "roc_auc"]})["engine"]["name"] == "black-box"


@pytest.mark.parametrize(("name", "engine"), [("lightgbm", "trees"), ("logistic", "linear"), ("bayes", "black-box")])
def test_work_split_by_feature_gives_the_numbers_of_the_whole(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxplain.model.tables.cut_at_linear._PAYS_MS", -1.0)
    monkeypatch.setattr(TreeModel, "is_faster", lambda *_: True)
    model = opened(TABLES / name)
    data = np.load(TABLES / "data.npz")
    body = {"rows": data["X"].tolist(), "labels": data["two"].tolist(), "metrics": ["accuracy", "brier"]}
    whole = explain(model, body)
    assert whole["engine"]["name"] == engine
    shares = [explain(model, body | {"features": features}) for features in (model.features[:4], model.features[4:])]
    for metric in ("accuracy", "brier"):
        assert whole["importances"][metric] == [entry for share in shares for entry in share["importances"][metric]]
