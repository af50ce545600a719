"""Normalisations: by stored statistics, or by those of the values themselves."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Node
from onnxplain.autodiff.rule import Cotangents, unsupported, vjp


@vjp("BatchNormalization")
def batch_normalization(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = gamma (x - mean) / sqrt(var + eps) + beta with stored statistics;  dx = g gamma / sqrt(var + eps)."""
    if node.attribute("training_mode", 0):
        raise unsupported(node, "is in training mode; export the model in inference mode")
    shape = per_channel(node)
    gamma, variance = node.constant(1), node.constant(4)
    epsilon = float(node.attribute("epsilon", 1e-5))
    if gamma is not None and variance is not None:
        slope = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        dx = op.Mul(g, slope.astype(op.numpy_dtype).reshape(shape))
    else:
        dx = op.Mul(g, op.Reshape(op.Div(node.input(1), op.Sqrt(op.Add(node.input(4), epsilon))), shape))
    return [dx, *[None] * (len(node.inputs) - 1)]


def per_channel(node: Node) -> list[int]:
    """The shape in which a vector with one number per channel broadcasts against the input."""
    rank = node.rank()
    if rank is None:
        raise unsupported(node, "has an input of unknown rank")
    return [-1] + [1] * (rank - 2)


def project(op: Emitter, g: str, unit: str, inverse: str, axes: list[int], centred: bool = True) -> str:
    """The cotangent through u = (x - mean(x)) / deviation(x): what is left of g without its mean and its part along u.

    dx = (g - mean(g) - u mean(g u)) / deviation;  without centring the middle term is absent.
    """
    along = op.Mul(unit, op.ReduceMean(op.Mul(g, unit), axes))
    rest = op.Sub(op.Sub(g, op.ReduceMean(g, axes)), along) if centred else op.Sub(g, along)
    return op.Mul(rest, inverse)


@vjp("LayerNormalization")
def layer_normalization(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = gamma u + beta, u = (x - mean) / deviation over the last axes;  du = g gamma, and dx by `project`."""
    x, gamma, rank = node.input(0), node.input(1), node.rank()
    if rank is None:
        raise unsupported(node, "has an input of unknown rank")
    axes = list(range(node.attribute("axis", -1) % rank, rank))
    _, mean, inverse = op.emit("LayerNormalization", *node.inputs, outputs=3, **node.attributes)
    if op.dtype == TensorProto.FLOAT16:  # both are float32 even then
        mean, inverse = (op.Cast(value, to=op.dtype) for value in (mean, inverse))
    unit = op.Mul(op.Sub(x, mean), inverse)
    return [project(op, op.Mul(g, gamma), unit, inverse, axes), *[None] * (len(node.inputs) - 1)]


@vjp("RMSNormalization")
def rms_normalization(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = gamma u, u = x / sqrt(mean(x^2) + eps) over the last axes;  du = g gamma, and dx by `project` without centring."""
    x, gamma, rank = node.input(0), node.input(1), node.rank()
    if rank is None:
        raise unsupported(node, "has an input of unknown rank")
    axes = list(range(node.attribute("axis", -1) % rank, rank))
    inverse = _inverse_deviation(op, x, axes, float(node.attribute("epsilon", 1e-5)))
    return [project(op, op.Mul(g, gamma), op.Mul(x, inverse), inverse, axes, centred=False), None]


def _inverse_deviation(op: Emitter, centred: str, axes: list[int], epsilon: float) -> str:
    return op.Reciprocal(op.Sqrt(op.Add(op.ReduceMean(op.Mul(centred, centred), axes), epsilon)))


@vjp("InstanceNormalization")
def instance_normalization(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = gamma u + beta, u normalised over all places of one channel;  du = g gamma, and dx by `project`."""
    x, shape = node.input(0), per_channel(node)
    axes = list(range(2, len(shape) + 1))
    centred = op.Sub(x, op.ReduceMean(x, axes))
    inverse = _inverse_deviation(op, centred, axes, float(node.attribute("epsilon", 1e-5)))
    du = op.Mul(g, op.Reshape(node.input(1), shape))
    return [project(op, du, op.Mul(centred, inverse), inverse, axes), None, None]


@vjp("GroupNormalization")
def group_normalization(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = gamma u + beta, u normalised over groups of channels;  du = g gamma, and dx by `project` on `[n, groups, rest]`."""
    x, groups = node.input(0), node.attribute("num_groups")
    grouped = np.array([0, groups, -1], np.int64)
    if op.graph.opset[""] < 21:
        raise unsupported(node, "is of its withdrawn form before opset 21, with one gamma per group")
    du = op.Reshape(op.Mul(g, op.Reshape(node.input(1), per_channel(node))), grouped)
    rows = op.Reshape(x, grouped)
    centred = op.Sub(rows, op.ReduceMean(rows, [2]))
    inverse = _inverse_deviation(op, centred, [2], float(node.attribute("epsilon", 1e-5)))
    return [op.reshape_like(project(op, du, op.Mul(centred, inverse), inverse, [2]), x), None, None]


@vjp("LpNormalization")
def lp_normalization(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x / |x|_p along an axis;  dx = (g - d|x|_p/dx sum(g y)) / |x|_p, the norm's slope being y for p = 2 and sign(x) for p = 1."""
    (x,), (y,) = node.inputs, node.outputs
    axes = [node.attribute("axis", -1)]
    norm, slope = (op.ReduceL2(x, axes), y) if node.attribute("p", 2) == 2 else (op.ReduceL1(x, axes), op.Sign(x))
    dx = op.Div(op.Sub(g, op.Mul(slope, op.ReduceSum(op.Mul(g, y), axes))), norm)
    return [op.Where(op.Greater(norm, 0.0), dx, 0.0)]


@vjp("LRN")
def lrn(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x s^-b, s = k + a/n sum of x^2 over n neighbouring channels;  dx = g s^-b - 2ab/n x sum'(g y / s).

    The second sum runs over the channels whose window holds this one: the window mirrored.
    """
    (x,), (y,) = node.inputs, node.outputs
    size, bias, shape = node.attribute("size"), float(node.attribute("bias", 1.0)), node.shape()
    alpha, beta = float(node.attribute("alpha", 1e-4)), float(node.attribute("beta", 0.75))
    if shape is None or shape[1] is None:
        raise unsupported(node, "has an unknown number of channels")
    before, after, columns = (size - 1) // 2, size // 2, np.array([0, 1, shape[1], -1], np.int64)

    def window_mean(value: str, first: int, last: int) -> str:
        pads = [first, 0, last, 0]
        mean = op.AveragePool(op.Reshape(value, columns), kernel_shape=[size, 1], pads=pads, count_include_pad=1)
        return op.reshape_like(mean, x)

    s = op.Add(op.Mul(window_mean(op.Mul(x, x), before, after), alpha), bias)
    spill = window_mean(op.Div(op.Mul(g, y), s), after, before)
    return [op.Sub(op.Mul(g, op.Pow(s, -beta)), op.Mul(op.Mul(x, spill), 2 * alpha * beta))]


@vjp("Dropout")
def dropout(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x outside training;  dx = g."""
    training = node.constant(2)
    if node.input(2) and (training is None or training):
        raise unsupported(node, "may be in training mode; export the model in inference mode")
    return [g, *[None] * (len(node.inputs) - 1)]
