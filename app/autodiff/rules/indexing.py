"""Picking and placing by index: the rule of a gather is a scatter, and the other way round."""

from __future__ import annotations

import numpy as np

from app.autodiff.emit import Emitter
from app.autodiff.graph import Array, Node
from app.autodiff.rule import Cotangents, unsupported, vjp


@vjp("Gather")
def gather(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x[.., i, ..];  dx = g added at the places i.

    Fixed indices that name no place twice, such as the class token's, need no scatter: each place of x takes the slice of g that
    it went to, or zeros.
    """
    rank, shape = node.rank(), node.shape()
    if rank is None or shape is None:
        raise unsupported(node, "has an input of unknown rank")
    axis = node.attribute("axis", 0) % rank
    places, length = node.constant(1), shape[axis]
    if places is not None and length is not None:
        places = places % length
        if places.ndim <= 1 and 0 < places.size == np.unique(places).size:
            return [_place(op, g, places, axis, length), None]
    indices = op.Unsqueeze(node.input(1), [-1])
    zeros = zeros_like(op, node.input(0))
    if axis == 0:
        return [op.ScatterND(zeros, indices, g, reduction="add"), None]
    index_rank = node.rank(1)
    if index_rank is None:
        raise unsupported(node, "has indices of unknown rank")
    front = [axis, *range(axis), *range(axis + 1, rank)]
    picked = list(range(axis, axis + index_rank))
    order = [*picked, *(i for i in range(rank - 1 + index_rank) if i not in picked)]
    total = op.ScatterND(op.Transpose(zeros, perm=front), indices, op.Transpose(g, perm=order), reduction="add")
    return [op.Transpose(total, perm=[int(i) for i in np.argsort(front)]), None]


def _place(op: Emitter, g: str, places: Array, axis: int, length: int) -> str:
    """Slices of g at distinct places along an axis of the given length, zeros elsewhere."""
    if places.ndim == 0:
        g = op.Unsqueeze(g, [axis])
    flat = places.ravel()
    if np.array_equal(flat, np.arange(flat[0], flat[0] + flat.size)):
        return op.Pad(g, [int(flat[0]), int(length - flat[0] - flat.size)], None, [axis])
    source = np.full(length, flat.size)
    source[flat] = np.arange(flat.size)
    if flat.size < length:
        g = op.Pad(g, [0, 1], None, [axis])
    return op.Gather(g, source.astype(np.int64), axis=axis)


def zeros_like(op: Emitter, like: str) -> str:
    """Zeros in the shape of a forward tensor."""
    return op.ConstantOfShape(op.Shape(like), value=op.zero())
