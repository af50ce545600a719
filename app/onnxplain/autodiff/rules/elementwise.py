"""Arithmetic, number by number. Cotangents have the output's shape; the driver sums them over broadcast axes."""

from __future__ import annotations

import math

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Node
from onnxplain.autodiff.rule import Cotangents, vjp


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
    return [op.Mul(g, b) if node.wanted[0] else None, op.Mul(g, a) if node.wanted[1] else None]


@vjp("Div", broadcasts=True)
def div(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a / b;  da = g / b,  db = -y g / b."""
    (y,) = node.outputs
    _, b = node.inputs
    da = op.Div(g, b)
    return [da, op.Neg(op.Mul(da, y)) if node.wanted[1] else None]


@vjp("Mod", broadcasts=True)
def mod(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a - n b with a whole number n;  da = g,  db = -n g."""
    a, b = node.inputs
    (y,) = node.outputs
    return [g, op.Mul(g, op.Div(op.Sub(y, a), b)) if node.wanted[1] else None]


@vjp("Pow", broadcasts=True)
def pow_(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a^b;  da = g b a^(b-1),  db = g y log(a) where a > 0."""
    a, b = node.inputs
    (y,) = node.outputs
    da = db = None
    if node.wanted[0]:
        exponent = node.constant(1)
        if exponent is not None and exponent.size == 1 and exponent.item() == 2:
            da = op.Mul(g, op.Mul(a, 2.0))
        elif exponent is not None:
            power = exponent.astype(op.numpy_dtype)
            da = op.Mul(g, op.Mul(power, op.Pow(a, power - 1)))
        else:
            power_name = op.Cast(b, to=op.dtype)
            da = op.Mul(g, op.Mul(power_name, op.Pow(a, op.Sub(power_name, 1.0))))
    if node.wanted[1]:
        db = op.Mul(g, op.Mul(y, op.Log(op.Where(op.Greater(a, 0.0), a, 1.0))))
    return [da, db]


@vjp("Sum", broadcasts=True)
def sum_(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a + b + ...;  each takes g."""
    return [g] * len(node.inputs)


@vjp("Mean", broadcasts=True)
def mean(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = (a + b + ...) / n;  each takes g / n."""
    return [op.Mul(g, 1 / len(node.inputs))] * len(node.inputs)


@vjp("Max", "Min", broadcasts=True)
def extreme(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = the largest (smallest) of a, b, ...;  those that are equal to y share g."""
    (y,) = node.outputs
    hits = [op.Cast(op.Equal(x, y), to=op.dtype) for x in node.inputs]
    share = op.Div(g, op.Sum(*hits)) if len(hits) > 1 else g
    return [op.Mul(share, hit) for hit in hits]


@vjp("Where", broadcasts=True)
def where(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = a where the condition holds, else b;  da = g there,  db = g elsewhere."""
    condition = node.input(0)
    return [None, op.Where(condition, g, 0.0), op.Where(condition, 0.0, g)]


@vjp("Neg")
def neg(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = -x;  dx = -g."""
    return [op.Neg(g)]


@vjp("Abs")
def abs_(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = |x|;  dx = g sign(x), nothing at 0."""
    return [op.Mul(g, op.Sign(node.input(0)))]


@vjp("Sqrt")
def sqrt(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sqrt(x);  dx = g / (2 y)."""
    (y,) = node.outputs
    return [op.Div(g, op.Mul(y, 2.0))]


@vjp("Reciprocal")
def reciprocal(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = 1 / x;  dx = -g y^2."""
    (y,) = node.outputs
    return [op.Neg(op.Mul(g, op.Mul(y, y)))]


@vjp("Exp")
def exp(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = exp(x);  dx = g y."""
    (y,) = node.outputs
    return [op.Mul(g, y)]


@vjp("Log")
def log(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = log(x);  dx = g / x."""
    return [op.Div(g, node.input(0))]


@vjp("Erf")
def erf(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = erf(x);  dx = g 2/sqrt(pi) exp(-x^2)."""
    (x,) = node.inputs
    return [op.Mul(g, op.Mul(op.Exp(op.Neg(op.Mul(x, x))), 2 / math.sqrt(math.pi)))]


@vjp("Sin")
def sin(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sin(x);  dx = g cos(x)."""
    return [op.Mul(g, op.Cos(node.input(0)))]


@vjp("Cos")
def cos(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = cos(x);  dx = -g sin(x)."""
    return [op.Neg(op.Mul(g, op.Sin(node.input(0))))]


@vjp("Tan")
def tan(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = tan(x);  dx = g (1 + y^2)."""
    (y,) = node.outputs
    return [op.Mul(g, op.Add(op.Mul(y, y), 1.0))]


@vjp("Asin")
def asin(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = asin(x);  dx = g / sqrt(1 - x^2)."""
    (x,) = node.inputs
    return [op.Div(g, op.Sqrt(op.Sub(1.0, op.Mul(x, x))))]


@vjp("Acos")
def acos(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = acos(x);  dx = -g / sqrt(1 - x^2)."""
    (x,) = node.inputs
    return [op.Neg(op.Div(g, op.Sqrt(op.Sub(1.0, op.Mul(x, x)))))]


@vjp("Atan")
def atan(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = atan(x);  dx = g / (1 + x^2)."""
    (x,) = node.inputs
    return [op.Div(g, op.Add(op.Mul(x, x), 1.0))]


@vjp("Sinh")
def sinh(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = sinh(x);  dx = g cosh(x)."""
    return [op.Mul(g, op.Cosh(node.input(0)))]


@vjp("Cosh")
def cosh(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = cosh(x);  dx = g sinh(x)."""
    return [op.Mul(g, op.Sinh(node.input(0)))]


@vjp("Asinh")
def asinh(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = asinh(x);  dx = g / sqrt(x^2 + 1)."""
    (x,) = node.inputs
    return [op.Div(g, op.Sqrt(op.Add(op.Mul(x, x), 1.0)))]


@vjp("Acosh")
def acosh(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = acosh(x);  dx = g / sqrt(x^2 - 1)."""
    (x,) = node.inputs
    return [op.Div(g, op.Sqrt(op.Sub(op.Mul(x, x), 1.0)))]


@vjp("Atanh")
def atanh(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = atanh(x);  dx = g / (1 - x^2)."""
    (x,) = node.inputs
    return [op.Div(g, op.Sub(1.0, op.Mul(x, x)))]
