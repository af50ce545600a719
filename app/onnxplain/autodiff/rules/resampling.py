"""Resampling. In Resize every output place is a fixed mixture of input places, axis by axis: the rule is the transposed mixture.

The mixtures are those of the ONNX specification (opset 19), built as one matrix per axis. GridSample mixes where the grid says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp
from onnxplain.autodiff.rules.indexing import zeros_like
from onnxplain.autodiff.rules.pooling import along


@vjp("Resize")
def resize(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = M_h x M_w^T;  dx = M_h^T g M_w."""
    shape, result = node.shape(), op.graph.shape(node.outputs[0])
    others = [None] * (len(node.inputs) - 1)
    if shape is None or result is None:
        raise unsupported(node, "has an input of unknown rank")
    if node.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise unsupported(node, "crops while it resizes")
    scales = _scales(node, len(shape))
    if None in scales:
        raise unsupported(node, "resizes to a size that is not fixed in the graph")
    changed = [a for a in range(len(shape)) if scales[a] != 1 or shape[a] != result[a]]
    if any(shape[a] is None or result[a] is None for a in changed):
        raise unsupported(node, "needs its height and width declared in the graph")
    mixtures = {axis: mixture(node, shape[axis] or 0, result[axis] or 0, scales[axis] or 1.0) for axis in changed}
    factors = {axis: _repeats(matrix) for axis, matrix in mixtures.items()}
    if len(shape) == 4 and changed and min(changed) >= 2 and all(factors.values()):
        kernel = [factors.get(axis) or 1 for axis in (2, 3)]
        return [op.Mul(op.AveragePool(g, kernel_shape=kernel, strides=kernel), float(math.prod(kernel))), *others]
    for axis, matrix in mixtures.items():
        g = along(op, g, axis, len(shape), matrix.T)
    return [g, *others]


def _scales(node: Node, rank: int) -> list[float | None]:
    """The scale of every axis: as given, or the ratio of the sizes."""
    axes = node.attribute("axes", list(range(rank)))
    given, sizes, shape = node.constant(2), node.constant(3), node.shape() or ()
    result = node.graph.shape(node.outputs[0]) or ()
    scales: list[float | None] = [1.0] * rank
    if given is not None and given.size:
        for axis, scale in zip(axes, given.tolist(), strict=True):
            scales[axis] = scale
        return scales
    if not node.input(3):
        return [None] * rank
    stretched = node.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
    if not stretched:
        if sizes is None or any(shape[a] is None for a in axes):
            return [None] * rank
        pick = min if node.attribute("keep_aspect_ratio_policy") == "not_larger" else max
        common = pick(int(size) / (shape[a] or 1) for size, a in zip(sizes, axes, strict=True))
        for axis in axes:
            scales[axis] = common
        return scales
    for axis in axes:
        before, after = shape[axis], result[axis]
        extents, extents_after = node.graph.extents(node.input(0)), node.graph.extents(node.outputs[0])
        if before and after:
            scales[axis] = after / before
        elif extents is None or extents_after is None or extents[axis] != extents_after[axis] or extents[axis] is None:
            scales[axis] = None
    return scales


def _repeats(matrix: Array) -> int | None:
    """How often the matrix repeats every place, None if it does anything else."""
    count, size = matrix.shape
    factor, rest = divmod(count, size)
    return factor if not rest and np.array_equal(matrix, np.repeat(np.eye(size), factor, axis=0)) else None


def mixture(node: Node, size: int, count: int, scale: float) -> Array:
    """`[count, size]`: the share that each input place has in each output place along one axis."""
    mode = node.attribute("mode", "nearest")
    antialias = bool(node.attribute("antialias", 0)) and scale < 1
    stretch = 1 / scale if antialias else 1.0
    outside = node.attribute("exclude_outside", 0)
    cubic = float(node.attribute("cubic_coeff_a", -0.75))
    kernel: Callable[[Array], Array] = _triangle if mode == "linear" else (lambda d: _cubic(d, cubic))
    reach = math.ceil((1 if mode == "linear" else 2) * stretch)
    shares = np.zeros((count, size))
    for o in range(count):
        x = _coordinate(node.attribute("coordinate_transformation_mode", "half_pixel"), o, size, count, scale)
        if mode == "nearest":
            shares[o, min(max(_nearest(x, node.attribute("nearest_mode", "round_prefer_floor")), 0), size - 1)] = 1
            continue
        taps = np.arange(math.floor(x) - reach + 1, math.floor(x) + reach + 1)
        weights = kernel((taps - x) / stretch)
        if outside:
            weights = np.where((taps >= 0) & (taps < size), weights, 0)
        if outside or antialias:
            weights = weights / weights.sum()
        np.add.at(shares[o], np.clip(taps, 0, size - 1), weights)
    return shares


def _coordinate(mode: str, o: int, size: int, count: int, scale: float) -> float:
    """Where output place o lies between the input places, in float32 as ONNX Runtime reckons it: that decides between neighbours."""
    place, half, step = np.float32(o), np.float32(0.5), np.float32(scale)
    if mode == "asymmetric":
        return float(place / step)
    if mode == "align_corners":
        return float(place * np.float32(size - 1) / np.float32(count - 1)) if count > 1 else 0.0
    if mode == "pytorch_half_pixel" and count == 1:
        return 0.0
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - count / (scale * size)) + (o + 0.5) / scale - 0.5
    return float((place + half) / step - half)


def _nearest(x: float, mode: str) -> int:
    if mode == "floor":
        return math.floor(x)
    if mode == "ceil":
        return math.ceil(x)
    return math.floor(x + 0.5) if mode == "round_prefer_ceil" else math.ceil(x - 0.5)


def _triangle(d: Array) -> Array:
    """The kernel of linear interpolation."""
    weights: Array = np.maximum(1 - np.abs(d), 0)
    return weights


def _cubic(d: Array, a: float) -> Array:
    """The kernel of cubic convolution (Keys 1981)."""
    d = np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@vjp("GridSample")
def grid_sample(op: Emitter, node: Node, g: str) -> Cotangents:
    """y[p] = sum of w_k x[q_k] over the corners q_k around the grid's point p (four, or the nearest one), w = (1 - |dh|) (1 - |dw|).

    dx = w_k g added at q_k;  dgrid = sum of dw_k <x[q_k], g>, scaled from [-1, 1] to places.
    """
    x, grid = node.inputs
    shape = node.shape()
    mode = node.attribute("mode", "linear").replace("bilinear", "linear")
    padding = node.attribute("padding_mode", "zeros")
    if mode not in ("linear", "nearest") or padding not in ("zeros", "border"):
        raise unsupported(node, f"samples by mode {mode!r} with padding {padding!r}")
    if shape is None or len(shape) != 4 or None in shape[2:]:
        raise unsupported(node, "needs height and width declared in the graph")
    places = [
        _grid_axis(op, node, grid, axis, float(shape[3 - axis] or 1)) for axis in (1, 0)
    ]  # rows first; the grid has columns first
    last = op.Transpose(x, perm=[0, 2, 3, 1])
    turned = op.Transpose(g, perm=[0, 2, 3, 1])
    rows = op.Squeeze(op.Slice(op.Shape(grid), [0], [1]), [0])
    numbers = op.Expand(op.Reshape(op.Range(0, rows, 1), [-1, 1, 1, 1]), op.Shape(op.Slice(grid, [0], [1], [3])))
    total = zeros_like(op, last)
    slopes: tuple[list[str], list[str]] = ([], [])
    for h in (0, 1) if mode == "linear" else (0,):
        for w in (0, 1) if mode == "linear" else (0,):
            (row, near_h, in_h), (column, near_w, in_w) = (
                place[side] for place, side in zip(places, (h, w), strict=True)
            )
            inside = op.Mul(in_h, in_w)
            corner = op.Concat(
                numbers, op.Cast(row, to=TensorProto.INT64), op.Cast(column, to=TensorProto.INT64), axis=-1
            )
            weight = op.Mul(op.Mul(near_h, near_w), inside)
            total = op.ScatterND(total, corner, op.Mul(turned, weight), reduction="add")
            if node.wanted[1] and mode == "linear":
                gain = op.Mul(op.ReduceSum(op.Mul(op.GatherND(last, corner), turned), [-1]), inside)
                slopes[0].append(op.Mul(gain, near_w if h else op.Neg(near_w)))
                slopes[1].append(op.Mul(gain, near_h if w else op.Neg(near_h)))
    dx = op.Transpose(total, perm=[0, 3, 1, 2])
    if not node.wanted[1]:
        return [dx, None]
    if mode == "nearest":
        return [dx, zeros_like(op, grid)]
    scaled = [
        op.Mul(
            op.Mul(op.Sum(*parts), _places_per_unit(node, float(shape[2 + axis] or 1))),
            _moves(op, node, grid, axis, float(shape[2 + axis] or 1)),
        )
        for axis, parts in enumerate(slopes)
    ]
    return [dx, op.Concat(scaled[1], scaled[0], axis=-1)]


def _places_per_unit(node: Node, length: float) -> float:
    return (length - 1) / 2 if node.attribute("align_corners", 0) else length / 2


def _grid_point(op: Emitter, node: Node, grid: str, axis: int, length: float) -> str:
    """Where the grid points to along x (axis 0) or y (1), counted in places, `[n, h, w, 1]`."""
    return op.Add(op.Mul(op.Slice(grid, [axis], [axis + 1], [3]), _places_per_unit(node, length)), (length - 1) / 2)


def _moves(op: Emitter, node: Node, grid: str, row: int, length: float) -> str:
    """1 where a move of the grid moves the point; 0 where the point is held at the border. Rows are the grid's second number."""
    point = _grid_point(op, node, grid, 1 - row, length)
    held = node.attribute("padding_mode", "zeros") == "border"
    within = op.And(op.Greater(point, 0.0), op.Less(point, length - 1.0))
    return op.Cast(within, to=op.dtype) if held else op.name_of(1.0)


def _grid_axis(op: Emitter, node: Node, grid: str, axis: int, length: float) -> list[tuple[str, str, str]]:
    """For the place before and the place after each point along one axis: its number, its weight, and 1 if it is inside."""
    point = _grid_point(op, node, grid, axis, length)
    if node.attribute("padding_mode", "zeros") == "border":
        point = op.Clip(point, 0.0, length - 1)
    if node.attribute("mode", "linear") == "nearest":
        corners = [(op.Round(point), op.name_of(1.0))]
    else:
        before = op.Floor(point)
        after = op.Sub(point, before)
        corners = [(before, op.Sub(1.0, after)), (op.Add(before, 1.0), after)]
    found = []
    for number, weight in corners:
        inside = op.And(op.GreaterOrEqual(number, 0.0), op.LessOrEqual(number, length - 1))
        found.append((op.Clip(number, 0.0, length - 1), weight, op.Cast(inside, to=op.dtype)))
    return found
