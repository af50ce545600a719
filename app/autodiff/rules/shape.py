"""Operators that only move numbers: their rule moves them back."""

from __future__ import annotations

import numpy as np

from app.autodiff.emit import Emitter
from app.autodiff.graph import Node
from app.autodiff.rule import Cotangents, unsupported, vjp


@vjp("Identity")
def identity(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x;  dx = g."""
    return [g]


@vjp("Cast")
def cast(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x in another floating type;  dx = g in the type of x."""
    return [op.Cast(g, to=op.graph.dtype(node.input(0)))]


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x in another shape;  dx = g in the shape of x."""
    return [op.reshape_like(g, node.input(0)), *[None] * (len(node.inputs) - 1)]


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


@vjp("Pad")
def pad(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x with a border;  dx = g without it."""
    if node.attribute("mode", "constant") != "constant":
        raise unsupported(node, "pads by reflection")
    pads, axes, rank = node.constant(1), node.constant(3), node.rank()
    if pads is None or rank is None or (node.input(3) and axes is None):
        raise unsupported(node, "has a border whose width is not fixed in the graph")
    chosen = list(range(rank)) if axes is None else [int(a) for a in axes]
    begins, ends = np.split(pads, 2)
    g = op.Slice(g, [int(b) for b in begins], [-int(e) if e else np.iinfo(np.int64).max for e in ends], chosen)
    return [g, *[None] * (len(node.inputs) - 1)]
