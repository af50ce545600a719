"""Activation functions, in terms of the output y wherever possible: reading y leaves Conv and activation fused, reading x does not."""

from __future__ import annotations

from app.autodiff.emit import Emitter
from app.autodiff.graph import Node
from app.autodiff.rule import Cotangents, vjp


@vjp("Relu")
def relu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = max(x, 0);  dx = g where y > 0."""
    (y,) = node.outputs
    return [op.Where(op.Greater(y, 0.0), g, 0.0)]


@vjp("Sigmoid")
def sigmoid(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = 1 / (1 + exp(-x));  dx = g y (1 - y)."""
    (y,) = node.outputs
    return [op.Mul(g, op.Mul(y, op.Sub(1.0, y)))]


@vjp("Clip")
def clip(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = min(max(x, low), high);  dx = g where low < y < high."""
    (y,) = node.outputs
    low, high = node.input(1), node.input(2)
    if low:
        g = op.Where(op.Greater(y, low), g, 0.0)
    if high:
        g = op.Where(op.Less(y, high), g, 0.0)
    return [g, *[None] * (len(node.inputs) - 1)]


@vjp("Softmax")
def softmax(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = exp(x) / sum exp(x);  dx = y (g - sum(g y))."""
    (y,) = node.outputs
    gy = op.Mul(g, y)
    return [op.Sub(gy, op.Mul(y, op.ReduceSum(gy, [node.attribute("axis", -1)])))]


@vjp("LogSoftmax")
def log_softmax(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x - log sum exp(x);  dx = g - exp(y) sum(g)."""
    (y,) = node.outputs
    return [op.Sub(g, op.Mul(op.Exp(y), op.ReduceSum(g, [node.attribute("axis", -1)])))]
