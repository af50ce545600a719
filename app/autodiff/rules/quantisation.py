"""Quantised graphs, with straight-through gradients: rounding is passed as if its slope were one, for it has none of its own.

A quantised tensor carries the cotangent of its integers, as floating numbers. The result says that it was made so.
"""

from __future__ import annotations

import numpy as np

from app.autodiff.emit import Emitter
from app.autodiff.graph import Node
from app.autodiff.rule import Cotangents, unsupported, vjp


@vjp("QuantizeLinear")
def quantize_linear(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = round(x / s) + z, kept within the type's range;  dx = g / s where it was within."""
    y = node.outputs[0]
    kind = op.graph.dtype(y)
    limits = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}.get(kind or 0)
    if limits is None:
        raise unsupported(node, "quantises to a type other than 8 or 16 bits")
    low, high = (float(limit) for limit in limits)
    value = op.Cast(y, to=op.dtype)
    within = op.And(op.Greater(value, low), op.Less(value, high))
    dx = op.Where(within, op.Div(g, _per_axis(op, node, node.input(1))), 0.0)
    return [dx, *[None] * (len(node.inputs) - 1)]


@vjp("DequantizeLinear")
def dequantize_linear(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = s (x - z);  dx = s g."""
    return [op.Mul(g, _per_axis(op, node, node.input(1))), *[None] * (len(node.inputs) - 1)]


def _per_axis(op: Emitter, node: Node, scale: str) -> str:
    """The scale in a shape that broadcasts: one number, or one per place along the node's axis."""
    rank, scale_rank = node.rank(), node.rank(1)
    if node.attribute("block_size", 0) or rank is None or scale_rank is None:
        raise unsupported(node, "quantises by blocks")
    if scale_rank == 0 or node.shape(1) == (1,):
        return scale
    axis = node.attribute("axis", 1) % rank
    return op.Reshape(scale, np.array([-1 if i == axis else 1 for i in range(rank)], np.int64))
