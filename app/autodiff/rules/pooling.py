"""Pooling: the largest or the mean of each window."""

from __future__ import annotations

import math

import numpy as np

from app.autodiff.emit import Emitter
from app.autodiff.graph import Array, Node
from app.autodiff.rule import Cotangents, unsupported, vjp
from app.autodiff.rules.convolution import Window, spatial


@vjp("MaxPool")
def max_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the largest of each window;  dx = g added at the place of the first largest.

    The places are found by pooling again, in the backward part only: a forward pool that also writes places leaves the fast
    blocked layout. MaxUnpool is no inverse here, because overlapping windows may share their largest.
    """
    x = node.input(0)
    if len(node.outputs) > 1 and node.outputs[1]:
        places = node.outputs[1]
    else:
        _, places = op.emit("MaxPool", x, outputs=2, **node.attributes)
    zeros = op.ConstantOfShape(op.Reshape(op.Size(x), [1]), value=op.zero())
    sums = op.ScatterElements(zeros, op.Reshape(places, [-1]), op.Reshape(g, [-1]), axis=0, reduction="add")
    return [op.reshape_like(sums, x)]


@vjp("AveragePool")
def average_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the mean of each window;  dx = M_h^T g M_w, where row o of M holds the weights of window o along one axis."""
    window = Window.of(node, tuple(node.attribute("kernel_shape")))
    shape, result = node.shape(), op.graph.shape(node.outputs[0])
    sizes = spatial(node)
    if None in sizes or result is None or None in result[2:]:
        raise unsupported(node, "needs its height and width declared in the graph")
    uniform = node.attribute("count_include_pad", 0) or not any(window.begins + window.ends)
    flipped = [e - 1 - p for e, p in zip(window.extents * 2, window.begins + window.ends, strict=True)]
    exact = all(
        (o - 1) * s + e == n + b + c
        for o, s, e, n, b, c in zip(
            result[2:], window.strides, window.extents, sizes, window.begins, window.ends, strict=True
        )
    )
    if set(window.strides) == {1} and uniform and exact and min(flipped) >= 0:
        dilations = None if set(window.dilations) == {1} else window.dilations
        return [op.AveragePool(g, kernel_shape=window.kernel, pads=flipped, count_include_pad=1, dilations=dilations)]
    assert shape is not None
    for axis in range(len(sizes)):
        mean = _means(
            window, axis, sizes[axis] or 0, result[2 + axis] or 0, bool(node.attribute("count_include_pad", 0))
        )
        g = along(op, g, 2 + axis, len(shape), mean.T)
    return [g]


def _means(window: Window, axis: int, size: int, count: int, include_pad: bool) -> Array:
    """`[count, size]`: what each input place contributes to each window along one axis."""
    begin, end = window.begins[axis], window.ends[axis]
    means = np.zeros((count, size))
    for o in range(count):
        taps = o * window.strides[axis] - begin + window.dilations[axis] * np.arange(window.kernel[axis])
        inside = taps[(taps >= 0) & (taps < size)]
        counted = np.count_nonzero((taps >= -begin) & (taps < size + end)) if include_pad else inside.size
        means[o, inside] = 1 / max(counted, 1)
    return means


def along(op: Emitter, value: str, axis: int, rank: int, matrix: Array) -> str:
    """Apply a matrix `[out, in]` along one axis."""
    matrix = matrix.astype(op.numpy_dtype)
    if axis == rank - 1:
        return op.MatMul(value, np.ascontiguousarray(matrix.T))
    if axis == rank - 2:
        return op.MatMul(matrix, value)
    swap = list(range(rank))
    swap[axis], swap[-1] = swap[-1], swap[axis]
    return op.Transpose(op.MatMul(op.Transpose(value, perm=swap), np.ascontiguousarray(matrix.T)), perm=swap)


@vjp("GlobalAveragePool")
def global_average_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the mean over all places;  dx = g / number of places, at every place."""
    x = node.input(0)
    sizes = spatial(node)
    if None in sizes:
        share = op.Div(g, op.Cast(op.Div(op.Size(x), op.Size(g)), to=op.dtype))
    else:
        share = op.Mul(g, 1 / math.prod(size or 1 for size in sizes))
    return [op.repeat(share, x, list(range(2, 2 + len(sizes))))]
