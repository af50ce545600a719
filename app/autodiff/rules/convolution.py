"""Convolutions and matrix products. Weights are never differentiated: an explanation asks about data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.autodiff.emit import Emitter
from app.autodiff.graph import Array, Node
from app.autodiff.rule import Cotangents, unsupported, vjp


@dataclass(frozen=True)
class Window:
    """How a kernel slides over the spatial axes, with `auto_pad` resolved; one entry per axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """How far a dilated kernel reaches."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @staticmethod
    def of(node: Node, kernel: tuple[int, ...]) -> Window:
        """The window of a Conv or pooling node."""
        axes = len(kernel)
        strides = tuple(node.attribute("strides", [1] * axes))
        dilations = tuple(node.attribute("dilations", [1] * axes))
        pads = tuple(node.attribute("pads", [0] * 2 * axes))
        mode = node.attribute("auto_pad", "NOTSET")
        window = Window(kernel, strides, dilations, pads[:axes], pads[axes:])
        if mode == "VALID":
            return Window(kernel, strides, dilations, (0,) * axes, (0,) * axes)
        if mode.startswith("SAME"):
            totals = []
            for size, stride, extent in zip(spatial(node), strides, window.extents, strict=True):
                if size is None and stride > 1:
                    raise unsupported(
                        node, f"pads by {mode} for an unknown height or width, which must be declared in the graph"
                    )
                short = extent - stride if size is None else (-(-size // stride) - 1) * stride + extent - size
                totals.append(max(short, 0))
            small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
            begins, ends = (small, large) if mode == "SAME_UPPER" else (large, small)
            return Window(kernel, strides, dilations, begins, ends)
        return window


def spatial(node: Node) -> tuple[int | None, ...]:
    """Lengths of the axes after batch and channels of a node's first input."""
    shape = node.shape()
    if shape is None:
        raise unsupported(node, "has an input of unknown rank")
    return shape[2:]


def kernel_shape(node: Node) -> tuple[int, ...]:
    """The kernel's spatial shape, from its attribute or its weights."""
    shape = node.attribute("kernel_shape") or (node.shape(1) or ())[2:]
    if not shape or None in shape:
        raise unsupported(node, "has a kernel of unknown shape")
    return tuple(shape)


@vjp("Conv")
def conv(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = w * x;  dx = the transposed convolution of g with w.

    At stride 1 that is an ordinary convolution with the kernel rotated by 180 degrees and its channels swapped, which runs on the
    fast blocked kernels that a transposed convolution lacks.
    """
    window = Window.of(node, kernel_shape(node))
    others = [None] * (len(node.inputs) - 1)
    groups = node.attribute("group", 1)
    begins = [e - 1 - p for e, p in zip(window.extents, window.begins, strict=True)]
    ends = [e - 1 - p for e, p in zip(window.extents, window.ends, strict=True)]
    weights = node.constant(1)
    if weights is not None and set(window.strides) == {1} and min(begins + ends) >= 0:
        rotated = rotate(weights, groups)
        return [op.Conv(g, rotated, pads=begins + ends, dilations=window.dilations, group=groups), *others]
    return [_transposed(op, node, g, window), *others]


def rotate(weights: Array, groups: int) -> Array:
    """Kernels turned by 180 degrees, input and output channels of each group swapped: `[o, c/groups, ...]` -> `[c, o/groups, ...]`."""
    o, c, *kernel = weights.shape
    swapped = weights.reshape(groups, o // groups, c, *kernel).swapaxes(1, 2).reshape(groups * c, o // groups, *kernel)
    return np.flip(swapped, tuple(range(2, swapped.ndim)))


def _transposed(op: Emitter, node: Node, g: str, window: Window) -> str:
    """ConvTranspose to the input's exact size. `output_shape` would make the runtime choose pads of its own, so pads are given."""
    sizes = spatial(node)
    settings = {"strides": window.strides, "dilations": window.dilations, "group": node.attribute("group", 1)}
    if None not in sizes:
        rest = [
            (size + b + e - extent) % s
            for size, b, e, extent, s in zip(
                sizes, window.begins, window.ends, window.extents, window.strides, strict=True
            )
            if size is not None
        ]
        pads = [*window.begins, *window.ends]
        return op.ConvTranspose(g, node.input(1), pads=pads, output_padding=rest, **settings)
    axes = list(range(2, 2 + len(sizes)))
    full = op.ConvTranspose(g, node.input(1), **settings)
    size = op.Slice(op.Shape(node.input(0)), [2], [2 + len(sizes)])
    padded = op.Add(size, list(window.begins))
    short = op.Max(op.Sub(padded, op.Slice(op.Shape(full), [2], [2 + len(sizes)])), [0] * len(sizes))
    full = op.Pad(full, op.Concat([0] * len(sizes), short, axis=0), None, axes)
    return op.Slice(full, list(window.begins), padded, axes)


@vjp("Gemm")
def gemm(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = alpha a' b' + beta c, a' and b' transposed if asked;  da' = alpha g b'^T,  db' = alpha a'^T g,  dc = beta g."""
    a, b = node.inputs[:2]
    turn_a, turn_b = node.attribute("transA", 0), node.attribute("transB", 0)
    scale = {"alpha": node.attribute("alpha", 1.0)}
    da = db = dc = None
    if node.wanted[0]:
        da = op.Gemm(b, g, transA=turn_b, transB=1, **scale) if turn_a else op.Gemm(g, b, transB=1 - turn_b, **scale)
    if node.wanted[1]:
        db = op.Gemm(g, a, transA=1, transB=turn_a, **scale) if turn_b else op.Gemm(a, g, transA=1 - turn_a, **scale)
    if len(node.wanted) > 2 and node.wanted[2]:
        dc = op.sum_to(op.Mul(g, float(node.attribute("beta", 1.0))), op.graph.extents(node.outputs[0]), node.input(2))
    return [da, db, dc][: len(node.inputs)]


@vjp("MatMul")
def matmul(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a b;  da = g b^T,  db = a^T g; a vector is a matrix with one row (a) or one column (b)."""
    a, b = node.inputs
    rank_a, rank_b = node.rank(0), node.rank(1)
    if rank_a is None or rank_b is None:
        raise unsupported(node, "has an operand of unknown rank")
    if rank_a == 1:
        g, a = op.Unsqueeze(g, [-2] if rank_b > 1 else [0]), op.Unsqueeze(a, [0])
    if rank_b == 1:
        g, b = op.Unsqueeze(g, [-1]), op.Unsqueeze(b, [1])
    results: list[str | None] = [None, None]
    if node.wanted[0]:
        results[0] = _matrix_sum_to(op, node, 0, op.MatMul(g, transpose(op, node, 1, b)))
    if node.wanted[1]:
        results[1] = _matrix_sum_to(op, node, 1, op.MatMul(transpose(op, node, 0, a), g))
    return results


def transpose(op: Emitter, node: Node, index: int, value: str) -> str:
    """A matrix operand with its last two axes swapped; a constant is turned right here."""
    rank = max(node.rank(index) or 0, 2)
    constant = node.constant(index)
    if constant is not None:
        if constant.ndim == 1:
            constant = constant[None] if index == 0 else constant[:, None]
        return op.name_of(np.swapaxes(constant, -1, -2))
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _matrix_sum_to(op: Emitter, node: Node, index: int, value: str) -> str:
    """The cotangent of a matrix operand in its own shape: summed over broadcast batch axes, a vector as vector."""
    graph, name = op.graph, node.inputs[index]
    own, result, other = graph.extents(name), graph.extents(node.outputs[0]), graph.extents(node.inputs[1 - index])
    if len(own or ()) == 1 or len(other or ()) == 1:
        if len(own or ()) == 1:
            value = op.Squeeze(value, [-2 if index == 0 else -1])
            extents = None if own is None or result is None else (*result[:-1], *own)
            return op.sum_to(value, extents, name)
        return value
    extents = None if own is None or result is None else (*result[:-2], *own[-2:])
    return op.sum_to(value, extents, name)
