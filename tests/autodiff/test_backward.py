"""The driver: what it walks, adds up, drops and refuses; and whole networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tests import graphs
from tests.graphs import Array, node

from onnxplain.autodiff import MissingRule, differentiate, missing_rules
from onnxplain.facts.errors import UnsupportedOperator

MODELS = Path(__file__).parents[2] / "models"


def values(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """Every output of the model, by name, from ONNX Runtime."""
    session = ort.InferenceSession(model.SerializeToString())
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def test_cotangents_of_a_tensor_used_twice_are_added() -> None:
    """y = x * x + x has the slope 2x + 1."""
    model = graphs.model([node("Mul", ["x", "x"], ["s"]), node("Add", ["s", "x"], ["y"])], [floats("x", "N", 3)], ["y"])
    result = differentiate(model, "y", ["x"])
    x = np.array([[1, 2, 3]], np.float32)
    answer = values(result.model, {"x": x, "cotangent": np.ones_like(x)})
    np.testing.assert_array_equal(answer[result.gradients["x"]], 2 * x + 1)


def test_only_nodes_between_output_and_wanted_tensor_need_rules() -> None:
    """What has no rule before the layer, or beside the way from it, does no harm and is not kept."""
    nodes = [
        node("NonZero", ["x"], ["places"]),
        node("Cast", ["places"], ["side"], to=TensorProto.FLOAT),
        node("Hardmax", ["x"], ["layer"]),
        node("Exp", ["layer"], ["y"]),
    ]
    model = graphs.model(nodes, [floats("x", "N", 3)], ["y", "side"])
    assert missing_rules(model, "y", ["layer"]) == []
    result = differentiate(model, "y", ["layer"])
    assert [n.op_type for n in result.model.graph.node if n.op_type in ("NonZero", "Cast")] == []


def test_a_missing_rule_is_named_with_its_node() -> None:
    model = graphs.model(
        [node("Relu", ["x"], ["r"]), node("Det", ["r"], ["y"], name="the_determinant")], [floats("x", "N", 3, 3)], ["y"]
    )
    assert missing_rules(model, "y", ["x"]) == [MissingRule("Det", "the_determinant")]
    with pytest.raises(UnsupportedOperator, match="Det at node 'the_determinant'") as refusal:
        differentiate(model, "y", ["x"])
    assert (refusal.value.operator, refusal.value.node) == ("Det", "the_determinant")


def test_an_operator_of_another_domain_is_refused_by_its_full_name() -> None:
    foreign = helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")
    model = graphs.model([foreign], [floats("x", 3, 3)], [floats("y", 3, 3)])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(UnsupportedOperator, match=r"com\.microsoft\.Inverse"):
        differentiate(model, "y", ["x"])


def test_a_weight_that_depends_on_the_input_is_refused_and_not_taken_as_constant() -> None:
    """Conv has no rule for its weights; where they come from the picture the answer would be wrong without one."""
    nodes = [node("Relu", ["x"], ["w"]), node("Conv", ["x", "w"], ["y"])]
    model = graphs.model(nodes, [floats("x", 1, 2, 3, 3)], ["y"])
    with pytest.raises(UnsupportedOperator, match="no gradient for its input 1"):
        differentiate(model, "y", ["x"])


def test_a_tensor_that_the_output_does_not_depend_on_has_gradient_zero() -> None:
    model = graphs.model(
        [node("Exp", ["x"], ["y"]), node("Exp", ["z"], ["other"])],
        [floats("x", "N", 2), floats("z", "N", 2)],
        ["y", "other"],
    )
    result = differentiate(model, "y", ["z"])
    answer = values(result.model, {name: np.ones((2, 2), np.float32) for name in ("x", "z", "cotangent")})
    np.testing.assert_array_equal(answer[result.gradients["z"]], np.zeros((2, 2)))


def test_whole_numbers_end_the_path() -> None:
    """y = x * shape(x) passes the gradient through x alone; ArgMax and Cast to int64 pass none."""
    nodes = [
        node("ArgMax", ["x"], ["i"], axis=1),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["x", "f"], ["y"]),
    ]
    model = graphs.model(nodes, [floats("x", "N", 3)], ["y"])
    result = differentiate(model, "y", ["x"])
    answer = values(result.model, {"x": np.array([[1, 5, 9]], np.float32), "cotangent": np.ones((1, 3), np.float32)})
    np.testing.assert_array_equal(answer[result.gradients["x"]], np.full((1, 3), 2.0))


def test_a_cast_passes_the_gradient_in_the_type_of_its_input() -> None:
    nodes = [
        node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        node("Exp", ["d"], ["e"]),
        node("Cast", ["e"], ["y"], to=TensorProto.FLOAT),
    ]
    model = graphs.model(nodes, [floats("x", "N", 3)], ["y"])
    result = differentiate(model, "y", ["x"])
    x = np.array([[0.5, 1, 2]], np.float32)
    answer = values(result.model, {"x": x, "cotangent": np.ones_like(x)})[result.gradients["x"]]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, np.exp(x), rtol=1e-6)


def test_a_global_mean_and_a_linear_head_have_the_weights_over_the_area_as_gradient() -> None:
    """The truth that class activation maps rest on: d score_k / d features = W[k] / (u v), at every place."""
    model = graphs.tiny_cnn()
    weights = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w4"))
    result = differentiate(model, "scores", ["features"])
    assert {n.op_type for n in result.model.graph.node if n.output[0].startswith("gradient/")}.isdisjoint(
        {"Conv", "ConvTranspose"}
    )
    answer = values(result.model, {"x": np.ones((5, 3, 12, 12), np.float32), "cotangent": np.eye(5, dtype=np.float32)})
    expected = np.broadcast_to(weights[:, :, None, None] / 36, (5, 8, 6, 6))
    np.testing.assert_allclose(answer[result.gradients["features"]], expected, rtol=1e-6)


def test_each_picture_of_a_batch_has_the_gradient_that_it_has_alone() -> None:
    result = differentiate(graphs.tiny_cnn(), "scores", ["x", "features"])
    rng = np.random.default_rng(3)
    x, cotangent = (
        rng.standard_normal((4, 3, 12, 12)).astype(np.float32),
        rng.standard_normal((4, 5)).astype(np.float32),
    )
    together = values(result.model, {"x": x, "cotangent": cotangent})
    for i in range(4):
        alone = values(result.model, {"x": x[i : i + 1], "cotangent": cotangent[i : i + 1]})
        for name in together:
            np.testing.assert_allclose(together[name][i], alone[name][0], rtol=1e-4, atol=1e-6)


def test_a_whole_network_agrees_with_central_differences() -> None:
    """In float64 on the reference implementation to 1e-6, in float32 on ONNX Runtime to 1e-3."""
    rng = np.random.default_rng(4)
    x, cotangent = rng.standard_normal((2, 3, 12, 12)), rng.standard_normal((2, 5))
    exact = graphs.tiny_cnn(dtype=np.float64)
    forward = ReferenceEvaluator(exact)
    result = differentiate(exact, "scores", ["x"])
    names = [o.name for o in result.model.graph.output]
    gradient = ReferenceEvaluator(result.model).run(None, {"x": x, "cotangent": cotangent})[
        names.index(result.gradients["x"])
    ]
    direction, step = rng.standard_normal(x.shape), 1e-6
    ahead, behind = (np.sum(forward.run(None, {"x": x + sign * step * direction})[0] * cotangent) for sign in (1, -1))
    assert np.sum(gradient * direction) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)
    single = differentiate(graphs.tiny_cnn(), "scores", ["x"])
    answer = values(single.model, {"x": x.astype(np.float32), "cotangent": cotangent.astype(np.float32)})[
        single.gradients["x"]
    ]
    assert np.linalg.norm(answer - gradient) < 1e-3 * np.linalg.norm(gradient)


@pytest.mark.parametrize(("name", "scores"), [("digits", "logits"), ("shapes", "Sigmoid")])
def test_the_demo_networks_agree_with_central_differences(name: str, scores: str) -> None:
    """Through the whole of both: in float64 on the reference implementation to 1e-6, in float32 on ONNX Runtime to 1e-3."""
    single = onnx.load(MODELS / name / "model.onnx")
    if scores == "Sigmoid":  # explained before its last activation, as the service does
        scores = next(n.input[0] for n in single.graph.node if n.op_type == scores)
    double, source = graphs.as_double(single), single.graph.input[0]
    rng = np.random.default_rng(6)
    x = rng.uniform(-1, 1, [1, *(d.dim_value for d in source.type.tensor_type.shape.dim[1:])])
    exact = differentiate(double, scores, [source.name])
    names = [o.name for o in exact.model.graph.output]
    evaluator = ReferenceEvaluator(exact.model)
    width = double.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    cotangent, direction, step = rng.standard_normal((1, width)), rng.standard_normal(x.shape), 1e-6
    feeds = {source.name: x, "cotangent": cotangent}
    gradient = evaluator.run(None, feeds)[names.index(exact.gradients[source.name])]
    ahead, behind = (
        np.sum(evaluator.run([scores], {**feeds, source.name: x + sign * step * direction})[0] * cotangent)
        for sign in (1, -1)
    )
    assert np.sum(gradient * direction) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)
    quick = differentiate(single, scores, [source.name])
    answer = values(quick.model, {key: array.astype(np.float32) for key, array in feeds.items()})[
        quick.gradients[source.name]
    ]
    assert np.linalg.norm(answer - gradient) < 1e-3 * np.linalg.norm(gradient)


def test_a_network_as_keras_exports_it() -> None:
    """Channels last at the door, pads on two sides only, biases as Add, means over axes 1 and 2, a MatMul head; no rule is missing."""
    rng = np.random.default_rng(9)
    constants = {
        "w1": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b1": rng.standard_normal((1, 4, 1, 1)).astype(np.float32),
        "w2": rng.standard_normal((4, 1, 3, 3)).astype(np.float32),
        "w3": rng.standard_normal((4, 5)).astype(np.float32),
        "six": np.array(6, np.float32),
        "zero": np.array(0, np.float32),
        "places": np.array([1, 2]),
        "border": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
    }
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Pad", ["t", "border"], ["p"]),
        node("Conv", ["p", "w1"], ["c1"], strides=[2, 2]),
        node("Add", ["c1", "b1"], ["a1"]),
        node("Clip", ["a1", "zero", "six"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
        node("MaxPool", ["c2"], ["m"], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Transpose", ["m"], ["last"], perm=[0, 2, 3, 1]),
        node("ReduceMean", ["last", "places"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "w3"], ["y"]),
    ]
    model = graphs.model(nodes, [floats("x", "N", 10, 10, 3)], ["y"], constants)
    result = differentiate(model, "y", ["x", "last"])
    x, cotangent = (
        rng.standard_normal((2, 10, 10, 3)).astype(np.float32),
        rng.standard_normal((2, 5)).astype(np.float32),
    )
    answer = values(result.model, {"x": x, "cotangent": cotangent})
    direction, step, forward = rng.standard_normal(x.shape), 1e-6, ReferenceEvaluator(graphs.as_double(model))
    ahead, behind = (forward.run(None, {"x": x + sign * step * direction})[0] for sign in (1, -1))
    slope = np.sum((ahead - behind) * cotangent) / (2 * step)
    assert np.sum(answer[result.gradients["x"]] * direction) == pytest.approx(slope, rel=1e-4)
    assert answer[result.gradients["last"]].shape == answer["last"].shape


def test_shape_arithmetic_of_exporters_is_seen_through() -> None:
    """`x.view(x.size(0), -1)` as the older exporter writes it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    constants = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1]), "w": np.ones((12, 2), np.float32)}
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Shape", ["r"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["r", "target"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"]),
    ]
    model = graphs.model(nodes, [floats("x", "N", 3, 2, 2)], ["y"], constants)
    result = differentiate(model, "y", ["x"])
    x = np.full((2, 3, 2, 2), 1.5, np.float32)
    answer = values(result.model, {"x": x, "cotangent": np.ones((2, 2), np.float32)})
    np.testing.assert_array_equal(answer[result.gradients["x"]], np.full_like(x, 2))


def test_a_view_written_as_a_gather_is_a_reshape() -> None:
    """PyTorch exports a view as flatten, gather 0, 1, 2, ... for the batch at hand, reshape: no scatter is needed to undo it."""
    constants = {
        "flat": np.array([-1]),
        "two": np.array(2),
        "nought": np.array(0),
        "one": np.array(1),
        "last": np.array([1]),
        "ones": np.arange(2),
    }
    nodes = [
        node("Reshape", ["x", "flat"], ["r"]),
        node("Shape", ["x"], ["n"], start=0, end=1),
        node("Squeeze", ["n"], ["n0"]),
        node("Range", ["nought", "n0", "one"], ["rows"]),
        node("Mul", ["rows", "two"], ["starts"]),
        node("Unsqueeze", ["starts", "last"], ["column"]),
        node("Add", ["column", "ones"], ["places"]),
        node("Gather", ["r", "places"], ["view"]),
        node("Exp", ["view"], ["y"]),
    ]
    model = graphs.model(nodes, [floats("x", "N", 2, 1)], [floats("y", "N", 2)], constants)
    result = differentiate(model, "y", ["x"])
    assert {n.op_type for n in result.model.graph.node}.isdisjoint({"ScatterND", "ScatterElements"})
    x = np.arange(6, dtype=np.float32).reshape(3, 2, 1)
    answer = values(result.model, {"x": x, "cotangent": np.ones((3, 2), np.float32)})
    np.testing.assert_allclose(answer[result.gradients["x"]], np.exp(x), rtol=1e-6)


def test_quantisation_is_passed_straight_through_and_said_so() -> None:
    """y = dequantised(quantised(x)) * 3: slope 3 within the range and at its last step, 0 beyond; the result is marked."""
    constants = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8), "w": np.array(3, np.float32)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("MaxPool", ["q"], ["p"], kernel_shape=[1, 1]),
        node("DequantizeLinear", ["p", "s", "z"], ["d"]),
        node("Mul", ["d", "w"], ["y"]),
    ]
    model = graphs.model(nodes, [floats("x", 1, 1, 1, 4)], ["y"], constants)
    result = differentiate(model, "y", ["x"])
    assert result.straight_through
    x = np.array([[[[0.52, -3.33, 12.72, 40.0]]]], np.float32)
    answer = values(result.model, {"x": x, "cotangent": np.ones_like(x)})
    np.testing.assert_allclose(answer[result.gradients["x"]], [[[[3, 3, 3, 0]]]], rtol=1e-6)
    assert not differentiate(graphs.tiny_cnn(), "scores", ["x"]).straight_through


def test_an_integer_product_by_the_picture_is_refused_and_not_taken_as_flat() -> None:
    """Rounded, the picture is the right operand, for which there is no rule; leaving it out would give a gradient of zero."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["w", "q", "", "z"], ["i"]),
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["y"]),
    ]
    model = graphs.model(nodes, [floats("x", 2, 3)], ["y"], {"w": np.ones((3, 2), np.uint8)})
    with pytest.raises(UnsupportedOperator, match="MatMulInteger"):
        differentiate(model, "y", ["x"])


def test_the_model_handed_in_is_not_changed() -> None:
    model = graphs.tiny_cnn()
    before = model.SerializeToString()
    differentiate(model, "scores", ["x"])
    assert model.SerializeToString() == before


def test_the_result_passes_the_onnx_checker_and_declares_its_tensors() -> None:
    result = differentiate(graphs.tiny_cnn(), "scores", ["features"], cotangent="seed")
    onnx.checker.check_model(result.model, full_check=True)
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*result.model.graph.input, *result.model.graph.output]
    }
    assert shapes == {
        "x": ["N", 3, 12, 12],
        "seed": ["N", 5],
        "scores": ["N", 5],
        "features": ["N", 8, 6, 6],
        "gradient/features": ["N", 8, 6, 6],
    }


def test_an_unknown_output_is_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="no tensor 'logits'"):
        differentiate(graphs.tiny_cnn(), "logits", ["x"])


@pytest.mark.parametrize("channels", [16, 3], ids=["blocked", "plain"])
@pytest.mark.parametrize("high", [6.0, 1.0, 0.1], ids=str)
def test_a_clip_from_zero_lets_the_gradient_through_between_its_bounds_and_nowhere_else(
    channels: int, high: float
) -> None:
    """To the last bit, at the bounds, one number beside them, and outside."""
    top = np.float32(high)
    corners = [
        -1.0,
        -0.0,
        0.0,
        1e-25,
        5e-9,
        np.nextafter(top, np.float32(0)),
        top,
        np.nextafter(top, np.float32(9)),
        9.0,
    ]
    x = np.resize(np.array(corners, np.float32), (1, channels, 5, 7))
    weight = np.ones((channels, 1, 1, 1), np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["z"], group=channels),
        node("Clip", ["z", "low", "high"], ["y"]),
        node("Conv", ["y", "w"], ["out"], group=channels),
    ]
    constants = {"w": weight, "low": np.array(0, np.float32), "high": np.array(top)}
    model = graphs.model(nodes, [floats("x", *x.shape)], [floats("out", *x.shape)], constants)
    result = differentiate(model, "out", ["x"])
    session = ort.InferenceSession(result.model.SerializeToString())
    g = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    gradient = session.run([result.gradients["x"]], {"x": x, "cotangent": g})[0]
    assert np.array_equal(gradient, np.where((x > 0) & (x < top), g, 0))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_behind_a_relu_a_pool_hands_its_gradient_to_the_first_maximum_and_the_relu_shuts_its_gate(level: str) -> None:
    """In a window of zeros the first of them has the gradient of the pool, and nothing before the Relu has any."""
    x = np.array([[[[-1, -2, 3, 3], [-3, -4, 1, -2]]]], np.float32)
    nodes = [node("Relu", ["x"], ["r"]), node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2])]
    result = differentiate(graphs.model(nodes, [graphs.value("x", x)], ["y"]), "y", ["x", "r"])
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    session = ort.InferenceSession(result.model.SerializeToString(), options)
    feeds = {"x": x, "cotangent": np.array([[[[5, 7]]]], np.float32)}
    before, behind = session.run([result.gradients["x"], result.gradients["r"]], feeds)
    assert before.tolist() == [[[[0, 0, 7, 0], [0, 0, 0, 0]]]]
    assert behind.tolist() == [[[[5, 0, 7, 0], [0, 0, 0, 0]]]]


def test_a_sum_of_two_relus_is_no_relu_to_the_pool_behind_it() -> None:
    """Each gate is shut by its own sign; that the sum is above zero opens neither."""
    a, b = np.array([[[[-1, 2]]]], np.float32), np.array([[[[9, 1]]]], np.float32)
    nodes = [
        node("Relu", ["a"], ["p"]),
        node("Relu", ["b"], ["q"]),
        node("Add", ["p", "q"], ["s"]),
        node("MaxPool", ["s"], ["y"], kernel_shape=[1, 2]),
    ]
    result = differentiate(graphs.model(nodes, [graphs.value("a", a), graphs.value("b", b)], ["y"]), "y", ["a", "b"])
    found = values(result.model, {"a": a, "b": b, "cotangent": np.ones((1, 1, 1, 1), np.float32)})
    assert found[result.gradients["a"]].tolist() == [[[[0, 0]]]]
    assert found[result.gradients["b"]].tolist() == [[[[1, 0]]]]


def test_half_precision_adds_where_windows_overlap() -> None:
    """The runtime has no scatter that adds half precision numbers; a max pool's gradient needs one."""
    x = np.random.default_rng(2).permutation(50).reshape(1, 2, 5, 5).astype(np.float32)
    found = []
    for kind in (np.float16, np.float32):
        y = helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
        pool = node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3])
        model = graphs.model([pool], [graphs.value("x", x.astype(kind))], [y])
        result = differentiate(model, "y", ["x"])
        session = ort.InferenceSession(result.model.SerializeToString())
        feeds = {"x": x.astype(kind), "cotangent": np.ones((1, 2, 3, 3), kind)}
        found.append(session.run([result.gradients["x"]], feeds)[0])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("operator", ["GroupNormalization", "MeanVarianceNormalization"])
def test_behind_an_operator_whose_shape_the_specification_does_not_infer_shapes_are_known(operator: str) -> None:
    """A mean over the last two of an unknown number of axes would be refused."""
    weights = {"gamma": np.ones(4, np.float32), "beta": np.zeros(4, np.float32), "axes": np.array([-1, -2])}
    grouped = operator == "GroupNormalization"
    nodes = [
        node(operator, ["x", "gamma", "beta"] if grouped else ["x"], ["u"], **({"num_groups": 2} if grouped else {})),
        node("ReduceMean", ["u", "axes"], ["y"], keepdims=0),
    ]
    model = graphs.model(nodes, [floats("x", "N", 4, 3, 3)], ["y"], weights, opset=21)
    gradient = differentiate(model, "y", ["u"])
    u, g = np.zeros((2, 4, 3, 3), np.float32), np.ones((2, 4), np.float32)
    answer = values(gradient.model, {"x": u, "cotangent": g})[gradient.gradients["u"]]
    np.testing.assert_allclose(answer, np.full(u.shape, 1 / 9), rtol=1e-6)


def test_a_function_that_cannot_be_expanded_is_named_as_without_rule() -> None:
    """Attention with keys of the past but no mask between."""
    parts = [floats(name, 1, 2, 3, 4) for name in ("q", "k", "v", "past_k", "past_v")]
    attention = node("Attention", ["q", "k", "v", "", "past_k", "past_v"], ["y", "k2", "v2"], name="attention")
    model = graphs.model([attention], parts, ["y"], opset=23)
    assert missing_rules(model, "y", ["q"]) == [MissingRule("Attention", "attention")]
