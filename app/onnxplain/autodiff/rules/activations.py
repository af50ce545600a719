"""Activation functions, in terms of the output y wherever possible: reading y leaves Conv and activation fused, reading x does not."""

from __future__ import annotations

import math

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.gates import above, below, between, complement, halfway
from onnxplain.autodiff.graph import Node
from onnxplain.autodiff.rule import Cotangents, vjp


@vjp("Relu")
def relu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = max(x, 0);  dx = g where y > 0."""
    (y,) = node.outputs
    gated = op.gated.get((y, g))
    return [gated(op) if gated else above(op, g, y)]


@vjp("LeakyRelu")
def leaky_relu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x where x > 0, else alpha x;  dx = g, else alpha g. The sign of y is that of x unless alpha is negative."""
    alpha = float(node.attribute("alpha", 0.01))
    positive = op.Greater(node.outputs[0] if alpha >= 0 else node.input(0), 0.0)
    return [op.Mul(g, op.Where(positive, 1.0, alpha))]


@vjp("PRelu", broadcasts=True)
def prelu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x where x >= 0, else a x;  dx = g, else a g;  da = g x where x < 0."""
    x, slope = node.inputs
    negative = op.Less(x, 0.0)
    da = op.Where(negative, op.Mul(g, x), 0.0) if node.wanted[1] else None
    return [op.Where(negative, op.Mul(g, slope), g), da]


@vjp("Elu")
def elu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x where x > 0, else a (exp(x) - 1);  dx = g, else g (y + a)."""
    (x,), (y,) = node.inputs, node.outputs
    alpha = float(node.attribute("alpha", 1.0))
    return [op.Where(op.Greater(y if alpha >= 0 else x, 0.0), g, op.Mul(g, op.Add(y, alpha)))]


@vjp("Selu")
def selu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = c x where x > 0, else c a (exp(x) - 1);  dx = c g, else g (y + c a)."""
    (y,) = node.outputs
    alpha = float(node.attribute("alpha", 1.67326319217681884765625))
    gamma = float(node.attribute("gamma", 1.05070102214813232421875))
    return [op.Mul(g, op.Where(op.Greater(y, 0.0), gamma, op.Add(y, gamma * alpha)))]


@vjp("Celu")
def celu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x where x > 0, else a (exp(x/a) - 1);  dx = g, else g (y/a + 1)."""
    (y,) = node.outputs
    alpha = float(node.attribute("alpha", 1.0))
    return [op.Where(op.Greater(y, 0.0), g, op.Mul(g, op.Add(op.Mul(y, 1 / alpha), 1.0)))]


@vjp("ThresholdedRelu")
def thresholded_relu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x where x > alpha, else 0;  dx = g there."""
    return [above(op, g, node.input(0), float(node.attribute("alpha", 1.0)))]


@vjp("Shrink")
def shrink(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x + bias where x < -lambda, x - bias where x > lambda, else 0;  dx = g where |x| > lambda."""
    return [above(op, g, op.Abs(node.input(0)), float(node.attribute("lambd", 0.5)))]


@vjp("Sigmoid")
def sigmoid(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = 1 / (1 + exp(-x));  dx = g y (1 - y)."""
    (y,) = node.outputs
    return [op.Mul(op.Mul(g, y), complement(op, y))]


@vjp("HardSigmoid")
def hard_sigmoid(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = min(max(a x + b, 0), 1);  dx = a g where 0 < y < 1."""
    (y,) = node.outputs
    sloped = below(op, above(op, g, y), y, 1.0)
    return [op.Mul(sloped, float(node.attribute("alpha", 0.2)))]


@vjp("HardSwish")
def hard_swish(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x h with h = min(max(x/6 + 1/2, 0), 1);  dx = g (h + x/6 where 0 < h < 1)."""
    (x,) = node.inputs
    h = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
    sloped = below(op, above(op, x, h), h, 1.0)
    return [op.Mul(g, op.Add(h, op.Mul(sloped, 1 / 6)))]


@vjp("Tanh")
def tanh(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = tanh(x);  dx = g (1 - y^2)."""
    (y,) = node.outputs
    return [op.Mul(g, op.Sub(1.0, op.Mul(y, y)))]


@vjp("Softplus")
def softplus(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = log(1 + exp(x));  dx = g (1 - exp(-y))."""
    (y,) = node.outputs
    return [op.Mul(g, op.Sub(1.0, op.Exp(op.Neg(y))))]


@vjp("Softsign")
def softsign(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x / (1 + |x|);  dx = g (1 - |y|)^2."""
    (y,) = node.outputs
    rest = op.Sub(1.0, op.Abs(y))
    return [op.Mul(g, op.Mul(rest, rest))]


@vjp("Mish")
def mish(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x t with t = tanh(softplus(x));  dx = g (t + x (1 - t^2) sigmoid(x))."""
    (x,) = node.inputs
    t = op.Tanh(op.Softplus(x))
    return [op.Mul(g, op.Add(t, op.Mul(op.Mul(x, op.Sigmoid(x)), op.Sub(1.0, op.Mul(t, t)))))]


@vjp("Swish")
def swish(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x s with s = sigmoid(a x);  dx = g (s + a y (1 - s))."""
    (x,), (y,) = node.inputs, node.outputs
    alpha = float(node.attribute("alpha", 1.0))
    if alpha != 1:
        x, y = op.Mul(x, alpha), op.Mul(y, alpha)
    s = op.Sigmoid(x)
    return [op.Mul(g, op.Add(s, op.Mul(y, complement(op, s))))]


@vjp("Gelu")
def gelu(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x P(x), P the normal distribution or its tanh approximation;  dx = g (P(x) + x P'(x)).

    P = (1 + erf(x/sqrt 2)) / 2 has P' = exp(-x^2/2) / sqrt(2 pi);
    P = (1 + t) / 2 with t = tanh(c (x + k x^3)) has P' = (1 - t^2) c (1 + 3 k x^2) / 2.
    """
    (x,) = node.inputs
    if node.attribute("approximate", "none") == "tanh":
        c, k = math.sqrt(2 / math.pi), 0.044715
        square = op.Mul(x, x)
        t = op.Tanh(op.Mul(x, op.Add(op.Mul(square, c * k), c)))
        slope = op.Mul(op.Sub(1.0, op.Mul(t, t)), op.Add(op.Mul(square, 1.5 * c * k), 0.5 * c))
    else:
        z = op.Mul(x, math.sqrt(0.5))
        t = op.Erf(z)
        slope = op.Exp(op.Sub(-0.5 * math.log(2 * math.pi), op.Mul(z, z)))
    return [op.Mul(g, op.Add(halfway(op, t), op.Mul(x, slope)))]


@vjp("Clip")
def clip(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = min(max(x, low), high);  dx = g where low < y < high."""
    (y,) = node.outputs
    low, high = node.constant(1), node.constant(2)
    if low is not None and high is not None:
        return [between(op, g, y, low.item(), high.item()), None, None]
    if node.input(1):
        g = above(op, g, y, low.item()) if low is not None else op.Where(op.Greater(y, node.input(1)), g, 0.0)
    if node.input(2):
        g = below(op, g, y, high.item()) if high is not None else op.Where(op.Less(y, node.input(2)), g, 0.0)
    return [g, *[None] * (len(node.inputs) - 1)]


@vjp("Softmax")
def softmax(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = exp(x) / sum(exp(x));  dx = y (g - sum(g y))."""
    (y,) = node.outputs
    gy = op.Mul(g, y)
    return [op.Sub(gy, op.Mul(y, op.ReduceSum(gy, [node.attribute("axis", -1)])))]


@vjp("LogSoftmax")
def log_softmax(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x - log(sum(exp(x)));  dx = g - exp(y) sum(g)."""
    (y,) = node.outputs
    return [op.Sub(g, op.Mul(op.Exp(y), op.ReduceSum(g, [node.attribute("axis", -1)])))]
