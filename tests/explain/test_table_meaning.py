"""What labels, scores and cells of a table mean: known, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.explain.table import explain_table, predict_table
from onnxplain.facts.errors import BadParameter, BadTable
from onnxplain.facts.tasks import ExplainTask, ModelRef, Prediction
from onnxplain.model import Cancellation, TabularModel, load

W = np.array([[2, 0, -2], [-1, 1.5, -1]], np.float32)
X = np.random.default_rng(0).standard_normal((40, 2)).round(3)
BEST = np.argmax(X @ W, axis=1)


def loaded(folder: Path, nodes: list[Any], outputs: list[Any], manifest: str = "", text: bool = False) -> TabularModel:
    kind = TensorProto.STRING if text else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [None, 1 if text else 2])],
        [helper.make_tensor_value_info(name, element, shape) for name, element, shape in outputs],
        [numpy_helper.from_array(W[:1] if text else W, "W")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    folder.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "model.onnx")
    (folder / "model.toml").write_text('kind = "tabular"\n' + manifest)
    model = load(folder, name="m", cancellation=Cancellation())
    assert isinstance(model, TabularModel)
    return model


def task(body: bytes, media_type: str, **options: Any) -> ExplainTask:
    return ExplainTask(ModelRef("m", ""), "permutation-importance", media_type, body, options)


def explained(model: TabularModel, **body: Any) -> Any:
    content = orjson.dumps({"rows": X.tolist(), "n_repeats": 1} | body)
    return orjson.loads(orjson.dumps(explain_table(task(content, "application/json"), model)))


def predicted(model: TabularModel, csv: str) -> Any:
    return predict_table(task(csv.encode(), "text/csv"), model).rows


MATMUL = helper.make_node("MatMul", ["x", "W"], ["z"])
SOFTMAX = helper.make_node("Softmax", ["z"], ["p"], axis=-1)
ARGMAX = helper.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0)
LABEL = ("label", TensorProto.INT64, [None])


@pytest.mark.parametrize("names", [["low", "mid", "high"], ["2", "1", "0"]])
def test_labels_of_an_argmax_are_places_whatever_the_classes_are_called(tmp_path: Path, names: list[str]) -> None:
    outputs = [LABEL, ("p", TensorProto.FLOAT, [None, 3])]
    model = loaded(tmp_path / "m", [MATMUL, SOFTMAX, ARGMAX], outputs, f"classes = {names}\n")
    found = explained(model, labels=[names[index] for index in BEST], metrics=["accuracy"])
    assert found["baseline"] == {"accuracy": 1.0}


def test_scores_that_are_no_probabilities_are_not_called_so(tmp_path: Path) -> None:
    outputs = [LABEL, ("z", TensorProto.FLOAT, [None, 3])]
    model = loaded(tmp_path / "m", [MATMUL, ARGMAX], outputs)
    with pytest.raises(BadParameter, match="log_loss needs probabilities"):
        explained(model, labels=BEST.tolist(), metrics=["log_loss"])
    (best, *_), *_ = predicted(model, "x0,x1\n1,0\n")
    assert best == Prediction(0, "0", 2.0, None)
    assert "no probabilities" in " ".join(model.card.warnings)


def test_codes_of_an_input_are_no_names_of_classes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node(
            "LabelEncoder", ["x"], ["code"], domain="ai.onnx.ml", keys_strings=["r", "g", "b"], values_int64s=[1, 2, 0]
        ),
        helper.make_node("Cast", ["code"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["number", "W"], ["z"]),
        SOFTMAX,
    ]
    model = loaded(tmp_path / "m", nodes, [("p", TensorProto.FLOAT, [None, 3])], text=True)
    assert model.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"labels": [None] * 40}, "Row 1: the label None"),
        ({"labels": [[1.0, 2.0]] * 40}, "2 labels each, but the model predicts 3 targets"),
        ({"labels": [1.0] * 40}, "1 label each, but the model predicts 3 targets"),
    ],
)
def test_labels_fit_the_targets_or_are_refused(tmp_path: Path, body: dict[str, Any], message: str) -> None:
    if body["labels"][0] is None:
        model = loaded(tmp_path / "m", [MATMUL, SOFTMAX], [("p", TensorProto.FLOAT, [None, 3])])
    else:
        model = loaded(tmp_path / "m", [MATMUL], [("z", TensorProto.FLOAT, [None, 3])], 'task = "regression"\n')
    with pytest.raises(BadTable, match=message):
        explained(model, **body)


def test_labels_that_come_twice_are_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path / "m", [MATMUL], [("z", TensorProto.FLOAT, [None, 3])], 'task = "regression"\n')
    rows = [{"x0": 1, "x1": 2, "y": 3}] * 3
    with pytest.raises(BadTable, match="Labels came twice"):
        explained(model, rows=rows, label="y", labels=[1, 2, 3])


def test_drawn_rows_without_any_weight_are_refused(tmp_path: Path) -> None:
    model = loaded(tmp_path / "m", [MATMUL, SOFTMAX], [("p", TensorProto.FLOAT, [None, 3])])
    weights = [0.0] * 39 + [1.0]
    with pytest.raises(BadTable, match="has a weight"):
        explained(model, metrics=["prediction_change"], sample_weight=weights, max_samples=5)


def test_a_cell_is_read_in_one_way_whatever_others_hold(tmp_path: Path) -> None:
    model = loaded(tmp_path / "m", [MATMUL], [("z", TensorProto.FLOAT, [None, 3])], 'task = "regression"\n')
    assert predicted(model, "x0,x1\ntrue,2\n")[0] == predicted(model, "x0,x1\ntrue,2\nNA,3\n")[0] == [0.0, 3.0, -4.0]


def test_a_budget_of_any_size_is_a_budget(tmp_path: Path) -> None:
    """A number of seconds near the end of its type is more than enough, and no repeat is left out for it."""
    model = loaded(tmp_path / "m", [MATMUL, SOFTMAX], [("p", TensorProto.FLOAT, [None, 3])])
    found = explained(model, labels=BEST.tolist(), n_repeats=5, max_seconds=1e308)
    assert [len(each["values"]) for each in found["importances"]["accuracy"]] == [5, 5]
