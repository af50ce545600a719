"""Sums, means, norms and extremes over axes, running sums, and the largest k."""

from __future__ import annotations

import math

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp
from onnxplain.autodiff.rules.indexing import zeros_like
from onnxplain.autodiff.rules.pooling import repeat_over_places


def reduced_axes(node: Node) -> list[int]:
    """The axes that a reduction sums over; refused where the graph does not fix them."""
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


def _spread(node: Node, dx: str) -> Cotangents:
    """The cotangents of a reduction: its axes need none."""
    return [dx, *[None] * (len(node.inputs) - 1)]


@vjp("ReduceSum")
def reduce_sum(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sum(x);  dx = g, everywhere."""
    axes = reduced_axes(node)
    return _spread(node, op.repeat(restore(op, node, g, axes), node.input(0), axes))


@vjp("ReduceMean")
def reduce_mean(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sum(x) / n;  dx = g / n, everywhere."""
    x, axes, shape = node.input(0), reduced_axes(node), node.shape() or ()
    lengths = [shape[a] for a in axes]
    if None in lengths:
        share = op.Div(g, op.Cast(op.Div(op.Size(x), op.Size(g)), to=op.dtype))
    else:
        share = op.Mul(g, 1 / math.prod(length or 1 for length in lengths))
    share = restore(op, node, share, axes)
    if len(shape) == 4 and axes == [2, 3] and None not in lengths:
        return _spread(node, repeat_over_places(op, node, share))
    return _spread(node, op.repeat(share, x, axes))


@vjp("ReduceMax", "ReduceMin")
def reduce_extreme(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the largest (smallest) of x;  those that are equal to y share g."""
    x, axes = node.input(0), reduced_axes(node)
    hits = op.Cast(op.Equal(x, restore(op, node, node.outputs[0], axes)), to=op.dtype)
    if not axes:
        return _spread(node, g)
    return _spread(node, op.Mul(hits, op.Div(restore(op, node, g, axes), op.ReduceSum(hits, axes))))


@vjp("ReduceSumSquare")
def reduce_sum_square(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sum(x^2);  dx = 2 g x."""
    return _spread(node, op.Mul(node.input(0), op.Mul(restore(op, node, g, reduced_axes(node)), 2.0)))


@vjp("ReduceL1")
def reduce_l1(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sum(|x|);  dx = g sign(x)."""
    return _spread(node, op.Mul(op.Sign(node.input(0)), restore(op, node, g, reduced_axes(node))))


@vjp("ReduceL2")
def reduce_l2(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sqrt(sum(x^2));  dx = g x / y, and 0 at y = 0."""
    (y,) = node.outputs
    ratio = op.Where(op.Greater(y, 0.0), op.Div(g, y), 0.0)
    return _spread(node, op.Mul(node.input(0), restore(op, node, ratio, reduced_axes(node))))


@vjp("ReduceProd")
def reduce_prod(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = prod(x);  dx = g times the product of the others, also where some x are 0."""
    x, axes = node.input(0), reduced_axes(node)
    if not axes:
        return _spread(node, g)
    zero = op.Equal(x, 0.0)
    zeros = op.ReduceSum(op.Cast(zero, to=op.dtype), axes)
    product = op.ReduceProd(op.Where(zero, 1.0, x), axes)
    of_zero = op.Where(op.Equal(zeros, 1.0), product, 0.0)
    of_others = op.Div(op.Where(op.Equal(zeros, 0.0), product, 0.0), op.Where(zero, 1.0, x))
    return _spread(node, op.Mul(restore(op, node, g, axes), op.Where(zero, of_zero, of_others)))


@vjp("ReduceLogSum")
def reduce_log_sum(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = log(sum(x));  dx = g exp(-y), everywhere."""
    (y,) = node.outputs
    axes = reduced_axes(node)
    return _spread(node, op.repeat(restore(op, node, op.Mul(g, op.Exp(op.Neg(y))), axes), node.input(0), axes))


@vjp("ReduceLogSumExp")
def reduce_log_sum_exp(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = log(sum(exp(x)));  dx = g exp(x - y)."""
    x, axes = node.input(0), reduced_axes(node)
    y = restore(op, node, node.outputs[0], axes)
    return _spread(node, op.Mul(restore(op, node, g, axes), op.Exp(op.Sub(x, y))))


@vjp("CumSum")
def cum_sum(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = running sums of x;  dx = running sums of g from the other end."""
    turned = 1 - node.attribute("reverse", 0)
    return [op.CumSum(g, node.input(1), exclusive=node.attribute("exclusive", 0), reverse=turned), None]


@vjp("TopK")
def top_k(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the k largest (smallest) along an axis;  dx = g at their places."""
    places = node.outputs[1]
    return [op.ScatterElements(zeros_like(op, node.input(0)), places, g, axis=node.attribute("axis", -1)), None]
