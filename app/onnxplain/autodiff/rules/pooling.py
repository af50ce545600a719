"""Pooling: the largest, the mean or the p-norm of each window."""

from __future__ import annotations

import math

import numpy as np

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.gates import above, stays_blocked
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp
from onnxplain.autodiff.rules.convolution import Window, spatial


@vjp("MaxPool")
def max_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the largest of each window;  dx = g added at the place of the first largest.

    The places are found by pooling again, in the backward part only: a forward pool that also writes places leaves the fast
    blocked layout. MaxUnpool is no inverse here, because overlapping windows may share their largest.
    """
    x = node.input(0)
    settings = {**node.attributes, "storage_order": 0}
    _, places = op.emit("MaxPool", x, outputs=2, **settings)
    zeros = op.ConstantOfShape(op.Reshape(op.Size(x), [1]), value=op.zero())

    def spread(op: Emitter, g: str) -> str:
        sums = op.ScatterElements(zeros, op.Reshape(places, [-1]), op.Reshape(g, [-1]), axis=0, reduction="add")
        return op.Reshape(sums, op.Shape(x))

    dx = spread(op, g)
    op.gated[x, dx] = lambda op: spread(op, above(op, g, node.outputs[0]))
    return [dx]


@vjp("MaxUnpool")
def max_unpool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = zeros with x at the given places;  dx = g at those places."""
    dx = op.Gather(op.Reshape(g, [-1]), node.input(1))
    return [dx, *[None] * (len(node.inputs) - 1)]


@vjp("AveragePool")
def average_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the mean of each window;  dx = the sum of g / count over the windows that hold a place."""
    window = Window.of(node, tuple(node.attribute("kernel_shape")))
    return [
        _sum_over_windows(op, node, g, window, _weights(node, window, bool(node.attribute("count_include_pad", 0))))
    ]


@vjp("LpPool")
def lp_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = (sum of |x|^p)^(1/p) of each window;  dx = sign(x) |x|^(p-1) sum of g y^(1-p) over the windows that hold a place."""
    (x,), (y,) = node.inputs, node.outputs
    p = float(node.attribute("p", 2))
    window = Window.of(node, tuple(node.attribute("kernel_shape")))
    share = op.Where(op.Greater(y, 0.0), op.Mul(g, op.Pow(op.Where(op.Greater(y, 0.0), y, 1.0), 1 - p)), 0.0)
    total = _sum_over_windows(op, node, share, window, [np.ceil(w) for w in _weights(node, window, include_pad=False)])
    return [op.Mul(total, op.Mul(op.Sign(x), op.Pow(op.Abs(x), p - 1)))]


def _weights(node: Node, window: Window, include_pad: bool) -> list[Array]:
    """For each spatial axis `[out, in]`: what each place contributes to each window's mean. Means over boxes are separable."""
    sizes, result = spatial(node), node.graph.shape(node.outputs[0])
    if None in sizes or result is None or None in result[2:]:
        raise unsupported(node, "needs its height and width declared in the graph")
    weights = []
    for axis, (size, count) in enumerate(zip(sizes, result[2:], strict=True)):
        begin, end = window.begins[axis], window.ends[axis]
        means = np.zeros((count or 0, size or 0))
        for o in range(count or 0):
            taps = o * window.strides[axis] - begin + window.dilations[axis] * np.arange(window.kernel[axis])
            inside = taps[(taps >= 0) & (taps < (size or 0))]
            counted = np.count_nonzero((taps >= -begin) & (taps < (size or 0) + end)) if include_pad else inside.size
            means[o, inside] = 1 / max(counted, 1)
        weights.append(means)
    return weights


def _sum_over_windows(op: Emitter, node: Node, g: str, window: Window, weights: list[Array]) -> str:
    """The transposed pooling. Windows of equal weight are pooled again or repeated, which is fast; others go axis by axis."""
    weight = math.prod(float(w.max()) for w in weights)
    flipped = [e - 1 - p for e, p in zip(window.extents * 2, window.begins + window.ends, strict=True)]
    plain = set(window.dilations) == {1} and all(np.array_equal(w > 0, w == w.max()) for w in weights)
    reach = [
        (k, *w.shape, b + e) for k, w, b, e in zip(window.kernel, weights, window.begins, window.ends, strict=True)
    ]
    if plain and set(window.strides) == {1} and min(flipped) >= 0 and all(o - 1 + k == n + p for k, o, n, p in reach):
        pooled = op.AveragePool(g, kernel_shape=window.kernel, pads=flipped, count_include_pad=1)
        scale = weight * math.prod(window.kernel)
        return pooled if scale == 1 else op.Mul(pooled, scale)
    if plain and window.strides == window.kernel and all(o * k == n and not p for k, o, n, p in reach):
        settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return op.Resize(op.Mul(g, weight), None, np.array([1, 1, *window.kernel], np.float32), **settings)
    for axis, means in enumerate(weights):
        g = along(op, g, 2 + axis, 2 + len(weights), means.T)
    return g


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
        return [op.Expand(share, op.Shape(x))]
    return [repeat_over_places(op, node, op.Mul(g, 1 / math.prod(size or 1 for size in sizes)))]


def repeat_over_places(op: Emitter, node: Node, value: str) -> str:
    """One number per channel, repeated to every place of the node's input.

    For few places by a pooling whose windows each see the one number and padding: that stays in the blocked layout, Expand does not.
    """
    sizes = [size or 1 for size in spatial(node)]
    if not stays_blocked(op, node) or math.prod(sizes) > 400:
        return op.repeat(value, node.input(0), list(range(2, 2 + len(sizes))))
    pads = [size - 1 for size in sizes] * 2
    return op.AveragePool(op.Mul(value, float(math.prod(sizes))), kernel_shape=sizes, pads=pads, count_include_pad=1)


@vjp("GlobalMaxPool")
def global_max_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the largest of all places;  those that are equal to y share g."""
    (x,), (y,) = node.inputs, node.outputs
    hits = op.Cast(op.Equal(x, y), to=op.dtype)
    axes = list(range(2, 2 + len(spatial(node))))
    return [op.Mul(hits, op.Div(g, op.ReduceSum(hits, axes)))]


@vjp("GlobalLpPool")
def global_lp_pool(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = (sum of |x|^p)^(1/p) over all places;  dx = g sign(x) (|x| / y)^(p-1), and 0 at y = 0."""
    (x,), (y,) = node.inputs, node.outputs
    power = float(node.attribute("p", 2)) - 1
    ratio = op.Div(op.Abs(x), op.Where(op.Greater(y, 0.0), y, 1.0))
    return [op.Mul(g, op.Mul(op.Sign(x), op.Pow(ratio, power)))]
