"""Sums, means and extremes over axes."""

from __future__ import annotations

from app.autodiff.emit import Emitter
from app.autodiff.graph import Node
from app.autodiff.rule import Cotangents, unsupported, vjp


def reduced_axes(node: Node) -> list[int]:
    """The axes that a reduction sums over; empty for none, refused where they are not fixed."""
    axes = node.constant(1)
    rank = node.rank()
    if rank is None or (node.input(1) and axes is None):
        raise unsupported(node, "reduces over axes that are not fixed in the graph")
    if axes is None or axes.size == 0:
        return [] if node.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(a) % rank for a in axes.ravel())


def restore(op: Emitter, node: Node, value: str, axes: list[int]) -> str:
    """A reduced tensor with its reduced axes back, of length 1."""
    return value if node.attribute("keepdims", 1) or not axes else op.Unsqueeze(value, axes)


@vjp("ReduceMean")
def reduce_mean(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sum(x) / n;  dx = g / n, everywhere."""
    x, axes, shape = node.input(0), reduced_axes(node), node.shape()
    lengths = [(shape or ())[a] for a in axes]
    if None in lengths:
        count = op.Cast(op.Div(op.Size(x), op.Size(g)), to=op.dtype)
        g = op.Div(g, count)
    else:
        n = 1
        for length in lengths:
            n *= length or 1
        g = op.Mul(g, 1 / n)
    return [op.repeat(restore(op, node, g, axes), x, axes), *[None] * (len(node.inputs) - 1)]


@vjp("ReduceSum")
def reduce_sum(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sum(x);  dx = g, everywhere."""
    axes = reduced_axes(node)
    return [op.repeat(restore(op, node, g, axes), node.input(0), axes), *[None] * (len(node.inputs) - 1)]
