"""Linear models in closed form: the runtime's classes always, its values within 1e-6, and the runtime itself where that may fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.explainers.tables.test_permutation_parity import DATA, FOLDER

from onnxplain.explainers.evaluators.blackbox import BlackBox
from onnxplain.explainers.evaluators.linear import LinearEvaluator
from onnxplain.explainers.tables.permutation import Job, Shuffles
from onnxplain.explainers.tables.table import Table
from onnxplain.facts.errors import Cancelled
from onnxplain.model import Cancellation, TabularModel, load
from onnxplain.model.tables import cut_at_linear as engine


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the table."""
    monkeypatch.setattr(engine, "_PAYS_MS", -1.0)


def opened(path: Path, cancellation: Cancellation | None = None) -> TabularModel:
    model = load(path, name="linear", cancellation=cancellation or Cancellation(), threads=2)
    assert isinstance(model, TabularModel)
    return model


def mixed(n: int = 90) -> Table:
    random = np.random.default_rng(0)
    return Table(
        (
            random.integers(18, 80, (n, 1)),
            random.normal(size=(n, 1)).astype(np.float32),
            random.choice(np.array(["red", "green", "blue", "unknown"], dtype=object), (n, 1)),
            random.choice(np.array(["S", "M", "L"], dtype=object), (n, 1)),
        )
    )


@pytest.mark.parametrize("name", ["logistic", "logistic-strings", "logistic-columns", "linear", "mixed-logistic"])
def test_predictions_are_the_runtimes_within_a_millionth_and_classes_equal(name: str) -> None:
    model = opened(FOLDER / name)
    table = mixed() if name == "mixed-logistic" else Table((DATA["X"],))
    evaluator = model.evaluator(table, to_the_bit=False)
    assert isinstance(evaluator, LinearEvaluator)
    sources = Shuffles(table.n_rows, 0).take(3)
    jobs = [Job(group, sources) for group in [(0,), (1,), (2,), (3,), (0, 2), (3, 1, 2)]]
    scale = max(1.0, np.abs(evaluator.baseline().values).max())
    for ours, theirs in zip(evaluator.permuted(jobs), model.black_box(table).permuted(jobs), strict=True):
        assert np.abs(ours.values - theirs.values).max() <= 1e-6 * scale
        assert np.array_equal(ours.classes, theirs.classes)
    assert model.engine(evaluator) == {"name": "linear", "audited": evaluator.audited}
    assert evaluator.audited > 0


def balanced(path: Path, columns: int) -> Path:
    """A linear classifier of two classes whose sums of tenths ought to be 0 in most rows, and are so but for rounding."""
    weights = np.tile([0.7, -0.7, 0.3, -0.3], columns // 4)
    node = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=[*(-weights), *weights],
        intercepts=[0.0, 0.0],
        classlabels_ints=[0, 1],
        post_transform="LOGISTIC",
    )
    graph = helper.make_graph(
        [node],
        "balanced",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2]),
        ],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8
    )
    path.mkdir()
    (path / "model.onnx").write_bytes(model.SerializeToString())
    return path


def test_rows_that_rounding_would_decide_get_the_runtimes_class(tmp_path: Path) -> None:
    model = opened(balanced(tmp_path / "balanced", 40))
    random = np.random.default_rng(0)
    rows = np.repeat(random.integers(-30, 30, (400, 20)), 2, axis=1) / 10  # pairs that cancel
    table = Table((rows.astype(np.float32),))
    # Columns are permuted in their pairs, so that every sum stays 0 but for its rounding.
    jobs = [Job((2 * j, 2 * j + 1), Shuffles(400, 0).take(3)) for j in range(20)]
    evaluator = model.evaluator(table, to_the_bit=False)
    assert isinstance(evaluator, LinearEvaluator)
    theirs = list(model.black_box(table).permuted(jobs))
    assert len(np.unique(theirs[0].classes)) == 2  # rounding does decide
    for ours, expected in zip(evaluator.permuted(jobs), theirs, strict=True):
        assert np.array_equal(ours.classes, expected.classes)


def test_a_difference_found_by_the_audit_sends_the_work_to_the_runtime() -> None:
    model, table = opened(FOLDER / "linear"), Table((DATA["X"],))
    evaluator = model.evaluator(table, to_the_bit=False)
    assert isinstance(evaluator, LinearEvaluator)
    evaluator._linear.weights[0] += 0.01
    jobs = [Job((0,), Shuffles(table.n_rows, 0).take(3))]
    (ours,), (theirs,) = evaluator.permuted(jobs), model.black_box(table).permuted(jobs)
    assert np.array_equal(ours.values, theirs.values)
    assert model.engine(evaluator)["name"] == "black-box"


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_tables_with_values_that_are_no_numbers_are_left_to_the_runtime(value: float) -> None:
    rows = DATA["X"].copy()
    rows[3, 2] = value
    assert isinstance(opened(FOLDER / "linear").evaluator(Table((rows,)), to_the_bit=False), BlackBox)


def test_the_runtime_predicts_where_every_bit_counts_or_where_it_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    model, table = opened(FOLDER / "logistic"), Table((DATA["X"],))
    assert isinstance(model.evaluator(table), BlackBox)
    monkeypatch.undo()
    assert isinstance(model.evaluator(table, to_the_bit=False), BlackBox)


@pytest.mark.parametrize("name", ["network", "torch-logits", "support-vectors", "bayes", "forest"])
def test_models_that_are_more_than_one_linear_map_are_no_linear_models(name: str) -> None:
    evaluator = opened(FOLDER / name).evaluator(Table((DATA["X"],)), to_the_bit=False)
    assert not isinstance(evaluator, LinearEvaluator)


def test_it_stops_between_pieces_when_told_to() -> None:
    cancellation = Cancellation()
    model, table = opened(FOLDER / "logistic", cancellation), Table((DATA["X"],))
    evaluator = model.evaluator(table, to_the_bit=False)
    cancellation.cancel()
    with pytest.raises(Cancelled):
        list(evaluator.permuted([Job((0,), Shuffles(table.n_rows, 0).take(3))]))


def test_operators_named_twice_in_the_same_version_are_no_obstacle(tmp_path: Path) -> None:
    """As scikit-learn's pipelines with a scaler are exported."""
    model = onnx.load(FOLDER / "linear" / "model.onnx")
    model.opset_import.append(model.opset_import[0])
    onnx.save(model, tmp_path / "model.onnx")
    assert opened(tmp_path).card.task == "regression"
