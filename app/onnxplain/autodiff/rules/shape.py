"""Operators that only move numbers: their rule moves them back."""

from __future__ import annotations

import numpy as np

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp
from onnxplain.autodiff.rules.indexing import place, zeros_like


@vjp("Identity")
def identity(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x;  dx = g."""
    return [g]


@vjp("Cast", "CastLike", flat=(1,))
def cast(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x in another floating type;  dx = g in the type of x."""
    others = [None] * (len(node.inputs) - 1)
    return [op.Cast(g, to=op.graph.dtype(node.input(0))) if op.graph.is_float(node.input(0)) else g, *others]


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x in another shape;  dx = g in the shape of x."""
    return [op.reshape_like(g, node.input(0), of=node.outputs[0]), *[None] * (len(node.inputs) - 1)]


@vjp("Expand", broadcasts=True)
def expand(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x repeated by broadcasting;  dx = g summed over the repeats."""
    return [g, None]


@vjp("Tile")
def tile(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x repeated r times along each axis;  dx = g summed over the repeats, once each axis is split into (r, length)."""
    x, repeats = node.inputs
    rank = node.rank()
    if rank is None:
        raise unsupported(node, "has an input of unknown rank")
    pairs = op.Concat(op.Unsqueeze(repeats, [1]), op.Unsqueeze(op.Shape(x), [1]), axis=1)
    return [op.ReduceSum(op.Reshape(g, op.Reshape(pairs, [-1])), list(range(0, 2 * rank, 2)), keepdims=0), None]


@vjp("Transpose")
def transpose(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x with axes in the order of perm;  dx = g with axes in the inverse order."""
    order = node.attribute("perm")
    return [op.Transpose(g, perm=None if order is None else [int(i) for i in np.argsort(order)])]


@vjp("Concat")
def concat(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = parts one after the other;  each part takes its piece of g."""
    axis = node.attribute("axis")
    lengths = []
    for index in range(len(node.inputs)):
        shape = node.shape(index)
        lengths.append(None if shape is None else shape[axis])
    if None in lengths:
        sizes = op.Concat(*(op.Gather(op.Shape(x), [axis]) for x in node.inputs), axis=0)
    else:
        sizes = op.name_of([n or 0 for n in lengths])
    return op.emit("Split", g, sizes, outputs=len(node.inputs), axis=axis)


@vjp("Split", every_output=True)
def split(op: Emitter, node: Node, *g: str | None) -> Cotangents:
    """y_1, y_2, ... = pieces of x;  dx = their cotangents one after the other, zeros for an unused piece."""
    pieces = [zeros_like(op, y) if piece is None else piece for y, piece in zip(node.outputs, g, strict=True)]
    return [op.Concat(*pieces, axis=node.attribute("axis", 0)), *[None] * (len(node.inputs) - 1)]


@vjp("Slice")
def slice_(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x[start:end:step];  dx = g at the places it came from, zeros elsewhere."""
    shape = node.shape()
    others = [None] * (len(node.inputs) - 1)
    starts, ends = node.constant(1), node.constant(2)
    if shape is not None and starts is not None and ends is not None:
        axes = np.arange(starts.size) if not node.input(3) else node.constant(3)
        steps = np.ones_like(starts) if not node.input(4) else node.constant(4)
        if axes is not None and steps is not None:
            cuts = [
                (int(axis) % len(shape), slice(*_bounds(int(start), int(end), int(step))))
                for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
            ]
            cuts = [(axis, cut) for axis, cut in cuts if cut != slice(0, None, 1)]
            if all(shape[axis] is not None for axis, _ in cuts):
                for axis, cut in cuts:
                    length = shape[axis] or 0
                    places = np.arange(length)[cut]
                    if not places.size:
                        return [zeros_like(op, node.input(0)), *others]
                    g = place(op, g, len(shape), axis, places, length)
                return [g, *others]
    return [_unslice_at_run_time(op, node, g), *others]


def _bounds(start: int, end: int, step: int) -> tuple[int | None, int | None, int]:
    """Start, end and step as Python counts them: an end far beyond either side is left open."""
    huge = 1 << 30
    if step > 0:
        return (0 if start < -huge else start), (None if end >= huge else end), step
    return (None if start >= huge else start), (None if end < -huge else end), step


def _unslice_at_run_time(op: Emitter, node: Node, g: str) -> str:
    """Number the places of x, slice the numbers like x, and put g where they say."""
    x = node.input(0)
    count = op.Size(x)
    numbers = op.Reshape(op.Range(0, count, 1), op.Shape(x))
    places = op.Reshape(op.Slice(numbers, *node.inputs[1:]), [-1])
    zeros = op.ConstantOfShape(op.Reshape(count, [1]), value=op.zero())
    return op.reshape_like(op.ScatterElements(zeros, places, op.Reshape(g, [-1]), axis=0), x)


@vjp("Pad")
def pad(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x with a border;  dx = g, the border's part added at the places that the border copied."""
    mode, others = node.attribute("mode", "constant"), [None] * (len(node.inputs) - 1)
    pads, axes, shape = node.constant(1), node.constant(3), node.shape()
    if pads is None or shape is None or (node.input(3) and axes is None):
        raise unsupported(node, "has a border whose width is not fixed in the graph")
    chosen = list(range(len(shape))) if axes is None else [int(a) % len(shape) for a in axes]
    begins, ends = (part.tolist() for part in np.split(pads, 2))
    if mode == "constant":
        borders = list(zip(begins, ends, chosen, strict=True))
        if min(begins + ends) < 0:  # a negative border cut x: give zeros back there
            g = op.pad(g, len(shape), {a: (max(-b, 0), max(-e, 0)) for b, e, a in borders})
        kept = [(b, e, a) for b, e, a in borders if b > 0 or e > 0]
        if kept:
            far = np.iinfo(np.int64).max
            g = op.Slice(
                g, [max(b, 0) for b, _, _ in kept], [-e if e > 0 else far for _, e, _ in kept], [a for _, _, a in kept]
            )
        return [g, *others]
    for begin, end, axis in zip(begins, ends, chosen, strict=True):
        if begin or end:
            length = shape[axis]
            if length is None:
                raise unsupported(node, f"pads an axis of unknown length by mode {mode!r}")
            g = add_along(op, g, len(shape), axis, _sources(mode, length, begin, end), length)
    return [g, *others]


def _sources(mode: str, length: int, begin: int, end: int) -> Array:
    """For each place of the padded axis the place of x that it copies."""
    places = np.arange(-begin, length + end)
    if mode == "edge":
        return np.clip(places, 0, length - 1)
    if mode == "wrap":
        return places % length
    period = max(2 * (length - 1), 1)
    return (length - 1) - np.abs(places % period - (length - 1))


def add_along(op: Emitter, g: str, rank: int, axis: int, sources: Array, length: int) -> str:
    """Add the slices of g along an axis at the places that they came from: one gather for each time a place was copied."""
    order = np.argsort(sources, kind="stable")
    starts = np.searchsorted(sources[order], np.arange(length))
    counts = np.bincount(sources, minlength=length)
    g = op.pad(g, rank, {axis: (0, 1)})
    total = None
    for time in range(int(counts.max())):
        chosen = np.where(counts > time, order[np.minimum(starts + time, order.size - 1)], sources.size)
        piece = op.Gather(g, chosen.astype(np.int64), axis=axis)
        total = piece if total is None else op.Add(total, piece)
    assert total is not None
    return total


@vjp("Trilu")
def trilu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the upper or lower triangle of x;  dx = that of g."""
    return [op.Trilu(g, *node.inputs[1:], upper=node.attribute("upper", 1)), *[None] * (len(node.inputs) - 1)]


@vjp("ReverseSequence")
def reverse_sequence(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x with the head of each sequence turned round;  dx = g turned round the same way."""
    return [op.ReverseSequence(g, node.input(1), **node.attributes), None]


@vjp("SpaceToDepth")
def space_to_depth(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = blocks of x as channels;  dx = channels of g as blocks."""
    return [op.DepthToSpace(g, blocksize=node.attribute("blocksize"), mode="DCR")]


@vjp("DepthToSpace")
def depth_to_space(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = channels of x as blocks;  dx = blocks of g as channels, in the order of the node's mode."""
    block, shape = node.attribute("blocksize"), node.shape()
    if node.attribute("mode", "DCR") == "DCR":
        return [op.SpaceToDepth(g, blocksize=block)]
    if shape is None or None in shape[1:]:
        raise unsupported(node, "needs channels, height and width declared in the graph")
    _, c, h, w = (n or 0 for n in shape)
    blocks = op.Reshape(g, np.array([-1, c // block**2, h, block, w, block], np.int64))
    return [op.Reshape(op.Transpose(blocks, perm=[0, 1, 3, 5, 2, 4]), np.array([-1, c, h, w], np.int64))]
