"""Arithmetic, number by number. Cotangents have the output's shape; the driver sums them over broadcast axes."""

from __future__ import annotations

from app.autodiff.emit import Emitter
from app.autodiff.graph import Node
from app.autodiff.rule import Cotangents, vjp


@vjp("Add", broadcasts=True)
def add(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a + b;  da = db = g."""
    return [g, g]


@vjp("Sub", broadcasts=True)
def sub(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a - b;  da = g,  db = -g."""
    return [g, op.Neg(g) if node.wanted[1] else None]


@vjp("Mul", broadcasts=True)
def mul(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a b;  da = g b,  db = g a."""
    a, b = node.inputs
    return [op.Mul(g, b), op.Mul(g, a)]


@vjp("Div", broadcasts=True)
def div(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a / b;  da = g / b,  db = -g y / b."""
    (y,) = node.outputs
    _, b = node.inputs
    da = op.Div(g, b)
    return [da, op.Neg(op.Mul(da, y)) if node.wanted[1] else None]
