"""The dialect of the rules: older opsets, local functions, functions of the specification, and branches that are never taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tests import graphs
from tests.graphs import Array, node

from onnxplain.autodiff import differentiate, normalise
from onnxplain.facts.errors import ModelRefused, UnsupportedOperator

IMAGE = (2, 3, 4, 6)
# Operators as they were written before opset 18, with the opset they are taken from.
OLDER: list[tuple[int, str, tuple[int, ...], dict[str, Any], dict[str, Array]]] = [
    (9, "Squeeze", (2, 1, 3), {"axes": [1]}, {}),
    (11, "Unsqueeze", (2, 3), {"axes": [1]}, {}),
    (9, "ReduceSum", IMAGE, {"axes": [2, 3], "keepdims": 0}, {}),
    (11, "ReduceMean", IMAGE, {"axes": [-1, -2]}, {}),
    (13, "ReduceMax", IMAGE, {"axes": [1]}, {}),
    (17, "ReduceL2", IMAGE, {"axes": [1]}, {}),
    (9, "Clip", IMAGE, {"min": -0.5, "max": 0.5}, {}),
    (11, "Clip", IMAGE, {}, {"low": np.array(-0.5, np.float32), "high": np.array(0.5, np.float32)}),
    (10, "Pad", IMAGE, {"pads": [0, 0, 1, 0, 0, 0, 2, 1]}, {}),
    (9, "Slice", IMAGE, {"axes": [2, 3], "starts": [1, 0], "ends": [4, -1]}, {}),
    (11, "Split", (2, 6), {"axis": 1, "split": [2, 4]}, {}),
    (9, "Softmax", (2, 5), {}, {}),
    (11, "Softmax", (2, 3, 4), {"axis": 1}, {}),
    (12, "LogSoftmax", (2, 3, 4), {"axis": 1}, {}),
    (9, "Upsample", IMAGE, {"mode": "nearest"}, {"scales": np.array([1, 1, 2, 2], np.float32)}),
    (9, "Upsample", IMAGE, {"mode": "linear"}, {"scales": np.array([1, 1, 2, 2], np.float32)}),
    (10, "Resize", IMAGE, {"mode": "nearest"}, {"scales": np.array([1, 1, 1.5, 2], np.float32)}),
    (10, "Resize", IMAGE, {"mode": "linear"}, {"scales": np.array([1, 1, 1.5, 2], np.float32)}),
    (
        11,
        "Resize",
        IMAGE,
        {"mode": "linear"},
        {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    (9, "Dropout", (2, 5), {"ratio": 0.5}, {}),
    (10, "MaxPool", IMAGE, {"kernel_shape": [2, 2], "strides": [2, 2]}, {}),
    (9, "AveragePool", IMAGE, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {}),
    (
        9,
        "BatchNormalization",
        IMAGE,
        {},
        {n: np.array([0.5, 1.0, 2.0], np.float32) for n in ("gamma", "beta", "mean", "var")},
    ),
    (9, "Flatten", IMAGE, {}, {}),
    (9, "Gemm", (2, 3), {}, {"w": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}),
    (9, "LeakyRelu", IMAGE, {"alpha": 0.1}, {}),
    (9, "PRelu", IMAGE, {}, {"slope": np.array(0.2, np.float32)}),
    (11, "DepthToSpace", (2, 4, 2, 2), {"blocksize": 2}, {}),
    (9, "Gather", IMAGE, {"axis": 2}, {"i": np.array([0, 2])}),
]


def gradient_and_slope(model: onnx.ModelProto, shape: tuple[int, ...]) -> tuple[float, float]:
    """<gradient, direction> of our graph, and central differences of the untouched model, both in ONNX Runtime."""
    rng = np.random.default_rng(5)
    output = model.graph.output[0].name
    x = rng.permutation(np.linspace(-3, 3, int(np.prod(shape)))).reshape(shape).astype(np.float32) + 0.01
    forward = ort.InferenceSession(model.SerializeToString())
    y = forward.run([output], {"x": x})[0]
    cotangent, direction = (rng.standard_normal(a.shape).astype(np.float32) for a in (y, x))
    step = np.float32(1e-3)
    ahead, behind = (forward.run([output], {"x": x + s * step * direction})[0].astype(np.float64) for s in (1, -1))
    result = differentiate(model, output, ["x"])
    session = ort.InferenceSession(result.model.SerializeToString())
    feeds = {"x": x, "cotangent": cotangent}
    gradient = session.run([result.gradients["x"]], {i.name: feeds[i.name] for i in session.get_inputs()})[0]
    return float(np.sum(gradient * direction)), float(np.sum((ahead - behind) * cotangent) / (2 * step))


@pytest.mark.parametrize(
    ("opset", "operator", "shape", "attributes", "constants"), OLDER, ids=[f"{o[1]}-{o[0]}" for o in OLDER]
)
@pytest.mark.parametrize("batch", ["N", 2], ids=["open", "fixed"])
def test_an_older_operator_is_differentiated_as_what_it_means(
    opset: int,
    operator: str,
    shape: tuple[int, ...],
    attributes: dict[str, Any],
    constants: dict[str, Array],
    batch: str | int,
) -> None:
    """The gradient of the upgraded model is the slope of the model as it was handed in."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape[1:]])
    nodes = [node(operator, ["x", *constants], ["y", "rest"] if operator == "Split" else ["y"], **attributes)]
    model = graphs.model(nodes, [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], constants, opset)
    model.ir_version = 4 if opset < 11 else 7
    if model.ir_version == 4:  # there initial values may be inputs too, and old exporters list them
        model.graph.input.extend(graphs.value(name, array) for name, array in constants.items())
    computed, measured = gradient_and_slope(model, shape)
    assert computed == pytest.approx(measured, rel=2e-2, abs=2e-2)


FUNCTIONS: list[tuple[int, str, tuple[int, ...], dict[str, Any], list[tuple[int, ...]]]] = [
    (18, "CenterCropPad", (2, 3, 6), {"axes": [1, 2]}, []),
    (18, "MeanVarianceNormalization", (2, 3, 4, 4), {}, []),
    (23, "Attention", (2, 2, 5, 4), {}, []),
    (23, "Attention", (2, 5, 8), {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1}, []),
    (23, "RotaryEmbedding", (2, 2, 3, 4), {}, [(2, 3, 2), (2, 3, 2)]),
]


@pytest.mark.parametrize(
    ("opset", "operator", "shape", "attributes", "others"), FUNCTIONS, ids=[f"{f[1]}-{len(f[2])}" for f in FUNCTIONS]
)
def test_an_operator_without_rule_is_expanded_by_its_specification(
    opset: int, operator: str, shape: tuple[int, ...], attributes: dict[str, Any], others: list[tuple[int, ...]]
) -> None:
    rng = np.random.default_rng(1)
    constants: dict[str, Array] = {f"c{i}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(others)}
    if operator == "CenterCropPad":
        constants = {"size": np.array([2, 8])}
    x = helper.make_tensor_value_info(
        "x", TensorProto.FLOAT, ["N" if operator == "Attention" else shape[0], *shape[1:]]
    )
    inputs = ["x", "x", "x"] if operator == "Attention" else ["x", *constants]
    model = graphs.model(
        [node(operator, inputs, ["y"], **attributes)],
        [x],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
        opset,
    )
    computed, measured = gradient_and_slope(model, shape)
    assert computed == pytest.approx(measured, rel=2e-2, abs=2e-2)


def test_local_functions_are_inlined() -> None:
    body = helper.make_function(
        "local", "Double", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    model = graphs.model(
        [helper.make_node("Double", ["x"], ["y"], domain="local")],
        [x],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    )
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("local", 1))
    computed, measured = gradient_and_slope(model, (2, 3))
    assert computed == pytest.approx(measured, rel=1e-2)


def branching(condition: Array | None) -> onnx.ModelProto:
    """If the condition then 2x else a loop-free 3x; the condition is fixed, or an input."""
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph(
            [node("Mul", ["x", f"{name}_c"], ["out"])],
            name,
            [],
            [out],
            [onnx.numpy_helper.from_array(np.array(c, np.float32), f"{name}_c")],
        )
        for name, c in (("then_branch", 2), ("else_branch", 3))
    }
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    inputs = [x] if condition is not None else [x, helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    return graphs.model(
        [node("If", ["c"], ["y"], **branches)], inputs, ["y"], {} if condition is None else {"c": condition}
    )


@pytest.mark.parametrize(("condition", "slope"), [(True, 2), (False, 3)])
def test_of_a_fixed_condition_the_branch_taken_is_differentiated(condition: bool, slope: int) -> None:
    result = differentiate(branching(np.array(condition)), "y", ["x"])
    session = ort.InferenceSession(result.model.SerializeToString())
    ones = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(
        session.run(
            [result.gradients["x"]],
            {"cotangent": ones, "x": ones} if len(session.get_inputs()) > 1 else {"cotangent": ones},
        )[0],
        slope * ones,
    )


def test_branches_of_an_older_opset_are_chosen_before_the_upgrade() -> None:
    """The older exporter writes `squeeze` as If(the length is 1) then Squeeze else the tensor itself; the converter leaves branches alone."""
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    squeeze = helper.make_graph([node("Squeeze", ["r"], ["out"], axes=[1])], "then", [], [out])
    keep = helper.make_graph([node("Identity", ["r"], ["out"])], "else", [], [out])
    constants = {"index": np.array(1), "one": np.array(1)}
    nodes = [
        node("Exp", ["x"], ["r"]),
        node("Shape", ["r"], ["shape"]),
        node("Gather", ["shape", "index"], ["length"]),
        node("Equal", ["length", "one"], ["c"]),
        node("If", ["c"], ["y"], then_branch=squeeze, else_branch=keep),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 3])
    model = graphs.model(nodes, [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])], constants, 11)
    computed, measured = gradient_and_slope(model, (2, 1, 3))
    assert computed == pytest.approx(measured, rel=2e-2)


def test_names_that_two_branches_share_stay_apart() -> None:
    """A name inside a branch says nothing of the same name inside another; once the branches are resolved, both stand side by side."""
    first, second = branching(np.array(True)), branching(np.array(True)).graph.node[0]
    second.input[0], second.output[0] = "c", "z"
    first.graph.node.append(second)
    first.graph.node.append(node("Mul", ["y", "z"], ["product"]))
    first.graph.output[0].CopyFrom(helper.make_tensor_value_info("product", TensorProto.FLOAT, ["N", 3]))
    computed, measured = gradient_and_slope(first, (2, 3))
    assert computed == pytest.approx(measured, rel=2e-2)


def test_a_condition_that_depends_on_the_input_is_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="Operator If"):
        differentiate(branching(None), "y", ["x"])


def test_a_model_of_the_newest_dialect_is_handed_back_as_it_is() -> None:
    model = graphs.tiny_cnn()
    assert normalise(model) is model


def test_a_model_too_old_is_refused_with_the_remedy() -> None:
    model = graphs.tiny_cnn()
    model.opset_import[0].version = 6
    with pytest.raises(ModelRefused, match="opset 7 or newer"):
        normalise(model)


def test_weights_survive_the_upgrade() -> None:
    """Large weights stay out of the converter; all come back, and the answers are the same."""
    rng = np.random.default_rng(2)
    constants = {"w": rng.standard_normal((40, 30)).astype(np.float32), "b": rng.standard_normal(30).astype(np.float32)}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 40])
    model = graphs.model(
        [node("Gemm", ["x", "w", "b"], ["y"])],
        [x],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 30])],
        constants,
        11,
    )
    upgraded = normalise(model)
    assert upgraded.opset_import[0].version == 18
    feeds = {"x": rng.standard_normal((2, 40)).astype(np.float32)}
    before, after = (ort.InferenceSession(m.SerializeToString()).run(None, feeds)[0] for m in (model, upgraded))
    np.testing.assert_array_equal(before, after)
