"""Picking and placing by index: the rule of a gather is a scatter, and the other way round."""

from __future__ import annotations

import numpy as np

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Array, Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp


@vjp("Gather")
def gather(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x[.., i, ..];  dx = g added at the places i.

    Fixed indices that name no place twice, such as the class token's, need no scatter: each place of x takes the slice of g that
    it went to, or zeros.
    """
    shape = node.shape()
    if shape is None:
        raise unsupported(node, "has an input of unknown rank")
    axis = node.attribute("axis", 0) % len(shape)
    places, length = node.constant(1), shape[axis]
    if places is not None and length is not None and places.ndim <= 1:
        places = places % length
        if 0 < places.size == np.unique(places).size:
            g = op.Unsqueeze(g, [axis]) if places.ndim == 0 else g
            return [place(op, g, len(shape), axis, places.ravel(), length), None]
    return [_scatter_along(op, node, g, node.input(1), node.rank(1), axis, len(shape)), None]


@vjp("Compress")
def compress(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x where the condition holds along an axis;  dx = g there, zeros elsewhere."""
    x, rank, axis = node.input(0), node.rank(), node.attribute("axis")
    places = op.Squeeze(op.NonZero(node.input(1)), [0])
    if axis is None:
        zeros = op.ConstantOfShape(op.Reshape(op.Size(x), [1]), value=op.zero())
        return [op.reshape_like(op.ScatterND(zeros, op.Unsqueeze(places, [-1]), g), x), None]
    if rank is None:
        raise unsupported(node, "has an input of unknown rank")
    return [_scatter_along(op, node, g, places, 1, axis % rank, rank), None]


def _scatter_along(op: Emitter, node: Node, g: str, places: str, index_rank: int | None, axis: int, rank: int) -> str:
    """Zeros like the first input, with the slices of g added at the places along an axis, which is brought to the front for it."""
    zeros, indices = zeros_like(op, node.input(0)), op.Unsqueeze(places, [-1])
    if axis == 0:
        return op.ScatterND(zeros, indices, g, reduction="add")
    if index_rank is None:
        raise unsupported(node, "has indices of unknown rank")
    front = [axis, *range(axis), *range(axis + 1, rank)]
    picked = list(range(axis, axis + index_rank))
    order = [*picked, *(i for i in range(rank - 1 + index_rank) if i not in picked)]
    total = op.ScatterND(op.Transpose(zeros, perm=front), indices, op.Transpose(g, perm=order), reduction="add")
    return op.Transpose(total, perm=[int(i) for i in np.argsort(front)])


def place(op: Emitter, g: str, rank: int, axis: int, places: Array, length: int) -> str:
    """Slices of g at distinct places along an axis of the given length, zeros elsewhere."""
    first, count = int(places[0]), places.size
    if np.array_equal(places, np.arange(first, first + count)):
        return op.pad(g, rank, {axis: (first, length - first - count)})
    source = np.full(length, count)
    source[places] = np.arange(count)
    if count < length:
        g = op.pad(g, rank, {axis: (0, 1)})
    return op.Gather(g, source.astype(np.int64), axis=axis)


def zeros_like(op: Emitter, like: str) -> str:
    """Zeros in the shape of a forward tensor."""
    return op.ConstantOfShape(op.Shape(like), value=op.zero())


@vjp("GatherElements")
def gather_elements(op: Emitter, node: Node, g: str) -> Cotangents:
    """y[p] = x[p with p_axis = i[p]];  dx = g added at those places."""
    x, places = node.inputs
    return [op.ScatterElements(zeros_like(op, x), places, g, axis=node.attribute("axis", 0), reduction="add"), None]


@vjp("GatherND")
def gather_nd(op: Emitter, node: Node, g: str) -> Cotangents:
    """y[p] = x[i[p]];  dx = g added at those places, numbered through where axes of x and i go together (batch_dims)."""
    x, places = node.inputs
    batch, rank = node.attribute("batch_dims", 0), node.rank(1)
    if batch:
        if rank is None:
            raise unsupported(node, "has indices of unknown rank")
        shape = op.Shape(op.Slice(places, [0], [1], [-1]))
        for axis in reversed(range(batch)):
            numbers = op.Range(0, op.Gather(shape, axis), 1)
            column = op.Unsqueeze(numbers, [i for i in range(rank) if i != axis])
            places = op.Concat(op.Expand(column, shape), places, axis=-1)
    return [op.ScatterND(zeros_like(op, x), places, g, reduction="add"), None]


@vjp("ScatterElements")
def scatter_elements(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x with u set (added) at places i;  dx = g with zeros there (g),  du = g at those places."""
    places, axis = node.input(1), node.attribute("axis", 0)
    dx = None
    if node.wanted[0]:
        dx = g if _adds(node) else op.ScatterElements(g, places, zeros_like(op, node.input(2)), axis=axis)
    return [dx, None, op.GatherElements(g, places, axis=axis) if node.wanted[2] else None]


@vjp("ScatterND")
def scatter_nd(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x with u set (added) at places i;  dx = g with zeros there (g),  du = g at those places."""
    places = node.input(1)
    dx = None
    if node.wanted[0]:
        dx = g if _adds(node) else op.ScatterND(g, places, zeros_like(op, node.input(2)))
    return [dx, None, op.GatherND(g, places) if node.wanted[2] else None]


def _adds(node: Node) -> bool:
    reduction = node.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise unsupported(node, f"combines by {reduction!r}")
    return bool(reduction == "add")
