"""Quantised graphs, with straight-through gradients: rounding is passed as if its slope were one, for it has none of its own.

A quantised tensor carries the cotangent of its integers, as floating numbers. The result says that it was made so.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp
from onnxplain.autodiff.rules.convolution import conv

LIMITS: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
}


@vjp("QuantizeLinear")
def quantize_linear(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = round(x / s) + z, kept within the type's range;  dx = g / s where it was within."""
    limits = LIMITS.get(op.graph.dtype(node.outputs[0]) or 0)
    if limits is None:
        raise unsupported(node, "quantises to a type other than 8 or 16 bits")
    scale = _per_axis(op, node, node.input(1))
    steps = op.Div(node.input(0), scale)
    if node.input(2):
        steps = op.Add(steps, op.Cast(_per_axis(op, node, node.input(2)), to=op.dtype))
    within = op.And(op.GreaterOrEqual(steps, limits[0] - 0.5), op.LessOrEqual(steps, limits[1] + 0.5))
    return [op.Where(within, op.Div(g, scale), 0.0), *[None] * (len(node.inputs) - 1)]


@vjp("DequantizeLinear")
def dequantize_linear(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = s (x - z);  dx = s g."""
    return [op.Mul(g, _per_axis(op, node, node.input(1))), *[None] * (len(node.inputs) - 1)]


@vjp("DynamicQuantizeLinear", every_output=True)
def dynamic_quantize_linear(op: Emitter, node: Node, *g: str | None) -> Cotangents:
    """y = round(x / s) + z, s and z from the range of x, which leaves nothing outside;  dx = g / s, as if s and z were fixed."""
    return [None if g[0] is None else op.Div(g[0], node.outputs[1])]


@vjp("MatMulInteger")
def mat_mul_integer(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = (a - za) (b - zb) in whole numbers;  da = g (b - zb)^T. Only the left operand, the data, is differentiated."""
    weights = _shifted(op, node)
    if node.wanted[1] or weights is None or weights.ndim != 2:
        raise unsupported(node, "multiplies by something else than a fixed matrix")
    return [op.MatMul(g, np.ascontiguousarray(weights.T)), *[None] * (len(node.inputs) - 1)]


@vjp("ConvInteger")
def conv_integer(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = (w - zw) * (x - zx) in whole numbers;  dx as for Conv, with the kernel w - zw."""
    weights = _shifted(op, node)
    if weights is None:
        raise unsupported(node, "has a kernel that is not fixed")
    settings = {**node.attributes, "kernel_shape": weights.shape[2:]}
    plain = helper.make_node("Conv", [node.input(0), op.name_of(weights)], node.outputs, node.name, **settings)
    dx, _ = conv(op, Node(plain, node.graph, node.wanted[:2]), g)
    return [dx, *[None] * (len(node.inputs) - 1)]


def _shifted(op: Emitter, node: Node) -> Array | None:
    """The fixed second operand without its zero point, which may be one for each row of a kernel or column of a matrix."""
    weights, zero = node.constant(1), node.constant(3) if node.input(3) else np.zeros(())
    if weights is None or zero is None:
        return None
    if node.operator == "ConvInteger" and zero.ndim == 1:
        zero = zero.reshape(-1, *[1] * (weights.ndim - 1))
    return np.asarray(weights.astype(op.numpy_dtype) - zero.astype(op.numpy_dtype))


def _per_axis(op: Emitter, node: Node, scale: str) -> str:
    """A scale or zero point in a shape that broadcasts: one number, or one per place along the node's axis."""
    rank, scale_rank = node.rank(), node.rank(1)
    if node.attribute("block_size", 0) or rank is None or scale_rank is None:
        raise unsupported(node, "quantises by blocks")
    if scale_rank == 0 or node.shape(1) == (1,):
        return scale
    axis = node.attribute("axis", 1) % rank
    return op.Reshape(scale, np.array([-1 if i == axis else 1 for i in range(rank)], np.int64))
