"""Quantised graphs, with straight-through gradients: rounding is passed as if its slope were one, for it has none of its own.

A quantised tensor carries the cotangent of its integers, as floating numbers. The result says that it was made so.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from app.autodiff.emit import Emitter
from app.autodiff.graph import Node
from app.autodiff.rule import Cotangents, unsupported, vjp

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


def _per_axis(op: Emitter, node: Node, scale: str) -> str:
    """A scale or zero point in a shape that broadcasts: one number, or one per place along the node's axis."""
    rank, scale_rank = node.rank(), node.rank(1)
    if node.attribute("block_size", 0) or rank is None or scale_rank is None:
        raise unsupported(node, "quantises by blocks")
    if scale_rank == 0 or node.shape(1) == (1,):
        return scale
    axis = node.attribute("axis", 1) % rank
    return op.Reshape(scale, np.array([-1 if i == axis else 1 for i in range(rank)], np.int64))
