"""The differentiable operators of classical models (domain `ai.onnx.ml`). Trees have no gradient and no rule."""

from __future__ import annotations

import numpy as np

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp


@vjp("ai.onnx.ml.Scaler")
def scaler(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = (x - offset) scale;  dx = g scale."""
    scale = np.array(node.attribute("scale", [1.0]), op.numpy_dtype)
    return [_typed(op, node, op.Mul(g, scale))]


@vjp("ai.onnx.ml.Normalizer")
def normalizer(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x / |x| along the rows, by L1 or L2;  dx = (g - d|x|/dx sum(g y)) / |x|."""
    (x,), (y,) = node.inputs, node.outputs
    kind = node.attribute("norm", "MAX")
    if kind not in ("L1", "L2"):
        raise unsupported(node, "divides by the largest of each row")
    value = op.Cast(x, to=op.dtype)
    norm, slope = (op.ReduceL2(value, [-1]), y) if kind == "L2" else (op.ReduceL1(value, [-1]), op.Sign(value))
    return [_typed(op, node, op.Div(op.Sub(g, op.Mul(slope, op.ReduceSum(op.Mul(g, y), [-1]))), norm))]


@vjp("ai.onnx.ml.LinearRegressor")
def linear_regressor(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x w^T + b;  dx = g w."""
    if node.attribute("post_transform", "NONE") != "NONE":
        raise unsupported(node, "transforms its result afterwards")
    return [_typed(op, node, op.MatMul(g, _coefficients(op, node, node.attribute("targets", 1))))]


@vjp("ai.onnx.ml.LinearClassifier", every_output=True)
def linear_classifier(op: Emitter, node: Node, *g: str | None) -> Cotangents:
    """Scores s = p(x w^T + b), p being none, softmax or logistic;  dx = (p' g) w. The predicted label has no gradient."""
    scores, cotangent = node.outputs[1], g[1]
    kind = node.attribute("post_transform", "NONE")
    classes = len(node.attribute("intercepts", [])) or len(
        node.attribute("classlabels_ints", node.attribute("classlabels_strings", []))
    )
    if cotangent is None or op.graph.shape(scores) is None or len(node.attribute("coefficients")) % classes:
        raise unsupported(node, "is used through its label")
    if kind == "SOFTMAX":
        weighted = op.Mul(cotangent, scores)
        cotangent = op.Sub(weighted, op.Mul(scores, op.ReduceSum(weighted, [-1])))
    elif kind == "LOGISTIC":
        cotangent = op.Mul(cotangent, op.Mul(scores, op.Sub(1.0, scores)))
    elif kind != "NONE":
        raise unsupported(node, f"transforms its scores by {kind}")
    return [_typed(op, node, op.MatMul(cotangent, _coefficients(op, node, classes)))]


def _coefficients(op: Emitter, node: Node, rows: int) -> Array:
    return np.array(node.attribute("coefficients"), op.numpy_dtype).reshape(rows, -1)


def _typed(op: Emitter, node: Node, value: str) -> str:
    """These operators answer in float32 whatever they take; the cotangent goes back in the input's type."""
    kind = op.graph.dtype(node.input(0))
    return value if kind in (None, op.dtype) or not op.graph.is_float(node.input(0)) else op.Cast(value, to=kind)
