"""What ONNX Runtime fuses and quantises, said in standard operators: the same numbers, and gradients where there were none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tests import graphs
from tests.graphs import Array, node

from onnxplain.autodiff import differentiate, missing_rules, normalise
from onnxplain.autodiff.lowering import in_own_domain

RANDOM = np.random.default_rng(11)
X = RANDOM.standard_normal((2, 4, 6, 6)).astype(np.float32)
ROWS = RANDOM.standard_normal((2, 3, 4)).astype(np.float32)


def floats(*shape: int) -> Array:
    return (RANDOM.standard_normal(shape) / 3).astype(np.float32)


KERNEL, MATRIX, VECTOR = floats(4, 2, 3, 3), floats(4, 4), floats(4)
# Operator, input, attributes, further operands in order; None is an absent one, "x" the input itself.
FUSED: list[tuple[str, Array, dict[str, Any], list[Array | str | None]]] = [
    ("FusedConv", X, {"activation": "Relu", "group": 2, "pads": [1, 0, 0, 1]}, [KERNEL, VECTOR]),
    ("FusedConv", X, {"activation": "LeakyRelu", "activation_params": [0.3], "group": 2}, [KERNEL]),
    ("FusedConv", X, {"activation": "Clip", "activation_params": [0.0, 0.5], "group": 2}, [KERNEL, VECTOR]),
    ("FusedConv", X, {"activation": "Relu", "group": 2, "pads": [1] * 4}, [KERNEL, None, "x"]),
    ("FusedGemm", ROWS[0], {"activation": "Relu", "transB": 1, "alpha": 0.5}, [MATRIX, VECTOR]),
    ("FusedMatMul", ROWS, {"transB": 1, "alpha": 0.25}, [floats(2, 5, 4)]),
    ("FusedMatMul", ROWS, {"transA": 1, "alpha": 2.0}, ["x"]),
    ("FusedMatMul", ROWS, {"transBatchA": 1, "transBatchB": 1, "transB": 1}, [floats(5, 3, 4)]),
    ("FusedMatMul", X, {"transBatchA": 1, "transA": 1}, [floats(4, 6, 2, 3)]),
    ("Gelu", ROWS, {}, []),
    ("BiasGelu", ROWS, {}, [VECTOR]),
    ("FastGelu", ROWS, {}, [VECTOR]),
    ("FastGelu", ROWS, {}, []),
    ("QuickGelu", ROWS, {"alpha": 1.5}, []),
    ("SkipLayerNormalization", ROWS, {"epsilon": 1e-5}, [floats(2, 3, 4), VECTOR, VECTOR, VECTOR]),
    ("SkipSimplifiedLayerNormalization", ROWS, {"epsilon": 1e-5}, [floats(2, 3, 4), VECTOR, VECTOR]),
    ("Attention", ROWS, {"num_heads": 2}, [floats(4, 12), floats(12)]),
    (
        "Attention",
        ROWS,
        {"num_heads": 2, "qkv_hidden_sizes": [4, 4, 6], "scale": 0.3},
        [floats(4, 14), floats(14), None, None, floats(2, 2, 3, 3)],
    ),
    ("MultiHeadAttention", ROWS, {"num_heads": 2}, ["x", floats(2, 3, 4), floats(12)]),
    (
        "MultiHeadAttention",
        ROWS,
        {"num_heads": 1, "scale": 0.3},
        [floats(2, 5, 4), floats(2, 5, 4), None, None, floats(1, 1, 3, 5)],
    ),
]


@pytest.mark.parametrize(
    ("operator", "x", "attributes", "others"), FUSED, ids=[f"{i}-{fused[0]}" for i, fused in enumerate(FUSED)]
)
def test_a_fused_operator_is_what_it_was_fused_from(
    operator: str, x: Array, attributes: dict[str, Any], others: list[Array | str | None]
) -> None:
    """Values are the runtime's own for the fused operator; the gradient is the slope of these, by central differences."""
    constants = {f"c{i}": other for i, other in enumerate(others) if isinstance(other, np.ndarray)}
    names = ["x"] + [f"c{i}" if isinstance(o, np.ndarray) else o or "" for i, o in enumerate(others)]
    model = graphs.model(
        [node(f"com.microsoft.{operator}", names, ["y"], **attributes)],
        [graphs.value("x", x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert {n.domain for n in normalise(model).graph.node} == {""}
    fused, plain = (ort.InferenceSession(m.SerializeToString()) for m in (model, normalise(model)))
    y = fused.run(None, {"x": x})[0]
    np.testing.assert_allclose(plain.run(None, {"x": x})[0], y, atol=2e-6)
    cotangent, direction = RANDOM.standard_normal(y.shape).astype(np.float32), RANDOM.standard_normal(x.shape)
    ahead, behind = (fused.run(None, {"x": (x + s * direction).astype(np.float32)})[0] for s in (2e-4, -2e-4))
    result = differentiate(model, "y", ["x"])
    session = ort.InferenceSession(result.model.SerializeToString())
    (gradient,) = session.run([result.gradients["x"]], {"x": x, "cotangent": cotangent})
    assert np.sum(gradient * direction) == pytest.approx(
        np.sum((ahead - behind) * cotangent) / 4e-4, rel=2e-2, abs=2e-2
    )


def whole(array: Array, scale: float, zero: int = 0, kind: Any = np.int8) -> Array:
    limits = np.iinfo(kind)
    return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(kind)


def quantised(operator: str, operands: list[str], **attributes: Any) -> tuple[onnx.ModelProto, Array]:
    """x quantised, the operator, and its result as floats; with the matrix or kernel whose numbers it multiplies by."""
    factor = KERNEL if "Conv" in operator else MATRIX
    constants = {
        "sx": np.array(0.03, np.float32),
        "zx": np.array(3, np.int8),
        "w": whole(factor, 0.01),
        "sw": np.array(0.01, np.float32),
        "zw": np.array(0, np.int8),
        "sy": np.array(0.05, np.float32),
        "zy": np.array(-5, np.int8),
        "b": np.array([10, -20, 30, 0], np.int32),
    }
    x = X if "Conv" in operator else ROWS[0]
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
        node(operator, operands, ["p"], **attributes),
        node("DequantizeLinear", ["p", "sy", "zy"], ["y"]),
    ]
    used = {name for n in nodes for name in n.input}
    model = graphs.model(
        nodes,
        [graphs.value("x", x, dynamic_batch=True)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        {name: array for name, array in constants.items() if name in used},
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model, x


QUANTISED = {
    "QLinearConv": (["q", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"], {"group": 2, "pads": [1] * 4}),
    "QLinearMatMul": (["q", "sx", "zx", "w", "sw", "zw", "sy", "zy"], {}),
    "com.microsoft.QGemm": (["q", "sx", "zx", "w", "sw", "zw", "b", "sy", "zy"], {"transB": 1}),
    "com.microsoft.QLinearAdd": (["q", "sx", "zx", "q", "sx", "zx", "sy", "zy"], {}),
    "com.microsoft.QLinearMul": (["q", "sx", "zx", "q", "sx", "zx", "sy", "zy"], {}),
    "com.microsoft.QLinearSigmoid": (["q", "sx", "zx", "sy", "zy"], {}),
    "com.microsoft.QLinearConcat": (["sy", "zy", "q", "sx", "zx", "q", "sx", "zx"], {"axis": 1}),
}


@pytest.mark.parametrize("operator", QUANTISED)
def test_a_quantised_operator_is_a_plain_one_between_quantised_numbers(operator: str) -> None:
    """Its results are the runtime's own to one step, and its gradient follows the trend of the steps."""
    operands, attributes = QUANTISED[operator]
    model, x = quantised(operator, operands, **attributes)
    original, plain = (ort.InferenceSession(m.SerializeToString()) for m in (model, normalise(model)))
    y = original.run(None, {"x": x})[0]
    np.testing.assert_allclose(plain.run(None, {"x": x})[0], y, atol=0.0501)
    assert missing_rules(model, "y", ["x"]) == []
    result = differentiate(model, "y", ["x"])
    assert result.straight_through
    session = ort.InferenceSession(result.model.SerializeToString())
    cotangent, direction = np.ones_like(y), np.ones_like(x)
    (gradient,) = session.run([result.gradients["x"]], {"x": x, "cotangent": cotangent})
    ahead, behind = (original.run(None, {"x": x + s * direction})[0] for s in (np.float32(0.3), np.float32(-0.3)))
    assert np.sum(gradient * direction) == pytest.approx(np.sum(ahead - behind) / 0.6, rel=0.1, abs=0.5)


def test_a_dynamically_quantised_product_is_differentiated_by_its_matrix() -> None:
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul: all together x W, whose gradient is g W^T."""
    scale = np.array([0.01, 0.02, 0.03, 0.01], np.float32)
    zero = np.array([1, -2, 0, 5], np.int8)
    weights = RANDOM.integers(-90, 90, (4, 4)).astype(np.int8)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "zw"], ["p"]),
        node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["s", "sw"], ["both"]),
        node("Mul", ["f", "both"], ["y"]),
    ]
    ends = (
        [graphs.value("x", ROWS[0], dynamic_batch=True)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = graphs.model(nodes, *ends, {"w": weights, "zw": zero, "sw": scale})
    result = differentiate(model, "y", ["x"])
    assert result.straight_through
    session = ort.InferenceSession(result.model.SerializeToString())
    cotangent = floats(3, 4)
    (gradient,) = session.run([result.gradients["x"]], {"x": ROWS[0], "cotangent": cotangent})
    np.testing.assert_allclose(
        gradient, cotangent @ ((weights.astype(np.float32) - zero) * scale).T, rtol=1e-4, atol=1e-5
    )


def test_a_convolution_of_whole_numbers_is_differentiated_by_its_kernel() -> None:
    kernel = RANDOM.integers(0, 255, (4, 4, 3, 3)).astype(np.uint8)
    settings: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 0, 0]}
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("ConvInteger", ["q", "w", "z", "zw"], ["p"], **settings),
        node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "s"], ["y"]),
    ]
    ends = [graphs.value("x", X, dynamic_batch=True)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    whole_numbers = graphs.model(nodes, *ends, {"w": kernel, "zw": np.array(120, np.uint8)})
    floating = {"w": kernel.astype(np.float32) - 120}
    plain = graphs.model([node("Conv", ["x", "w"], ["y"], **settings)], *ends, floating)
    cotangent = floats(2, 4, 3, 3)
    found = []
    for model in (whole_numbers, plain):
        result = differentiate(model, "y", ["x"])
        session = ort.InferenceSession(result.model.SerializeToString())
        feeds = {"x": X, "cotangent": cotangent}
        feeds = {i.name: feeds[i.name] for i in session.get_inputs()}
        found.append(session.run([result.gradients["x"]], feeds)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("operator", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_the_runtimes_operators_in_the_standards_name_are_told_apart(operator: str) -> None:
    """ONNX Runtime optimises models of opset 11 to nodes that are in ONNX since opset 17, or never."""
    constants = {"gamma": VECTOR, **({"beta": VECTOR} if operator == "LayerNormalization" else {})}
    model = graphs.model(
        [node(operator, ["x", *constants], ["y"], epsilon=1e-5)],
        [graphs.value("x", ROWS)],
        [graphs.value("y", ROWS)],
        constants,
        opset=11,
    )
    model.ir_version = 6
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": ROWS})
    plain = normalise(in_own_domain(model))
    onnx.checker.check_model(plain)
    np.testing.assert_allclose(ort.InferenceSession(plain.SerializeToString()).run(None, {"x": ROWS})[0], y, atol=2e-6)
    assert missing_rules(plain, "y", ["x"]) == []
