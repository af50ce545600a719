"""Masks and repeats between convolutions, written in the few operators that ONNX Runtime runs in its blocked layout (NCHWc).

A convolution is fast in that layout, and every change into it and out of it is a pass over memory: as expensive as the gate itself. Mul,
Add, HardSigmoid, pooling and Resize stay inside; Greater, Cast, Where, Sub and Expand leave. So a mask is a HardSigmoid so steep that
it is a step. With ResNet-50 the input gradient then takes 2.5 forward passes instead of 3.0. Results are the same to the last bit,
except that numbers closer to the threshold than 1e-30 count as partly above it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Node

STEEP = 2.0**100  # a power of two, so that products with it are exact and a value at the threshold gives 0
BLOCK = 16  # channels that a block may hold; other numbers of channels are never blocked


def above(op: Emitter, g: str, value: str, threshold: float = 0.0) -> str:
    """g where value > threshold, else 0."""
    if op.dtype != TensorProto.FLOAT or abs(threshold) > 2.0**20:
        return op.Mul(g, op.Cast(op.Greater(value, threshold), to=op.dtype))
    return op.Mul(g, op.HardSigmoid(value, alpha=STEEP, beta=-threshold * STEEP))


def below(op: Emitter, g: str, value: str, threshold: float) -> str:
    """g where value < threshold, else 0."""
    if op.dtype != TensorProto.FLOAT or abs(threshold) > 2.0**20:
        return op.Mul(g, op.Cast(op.Less(value, threshold), to=op.dtype))
    return op.Mul(g, op.HardSigmoid(value, alpha=-STEEP, beta=threshold * STEEP))


def between(op: Emitter, g: str, value: str, low: float, high: float) -> str:
    """g where low < value < high, else 0, for a value that lies from low to high.

    In the blocked layout one mask is enough for a value that is never below 0. A depthwise convolution subtracts 2^-100, which makes
    0 a small negative number. A LeakyRelu, which ONNX Runtime fuses with that convolution, turns this number into `high`. One step
    at `high` then shuts both ends.
    """
    shape = op.graph.shape(value)
    blocked = op.dtype == TensorProto.FLOAT and shape is not None and len(shape) == 4 and shape[1] is not None
    if (
        not blocked
        or shape is None
        or shape[1] is None
        or shape[1] % BLOCK
        or low != 0
        or not 2.0**-20 < high < 2.0**20
    ):
        return below(op, above(op, g, value, low), value, high)
    ones, shift = np.ones((shape[1], 1, 1, 1), np.float32), np.full(shape[1], -1 / STEEP, np.float32)
    bent = op.LeakyRelu(op.Conv(value, ones, shift, group=shape[1]), alpha=-high * STEEP)
    return op.Mul(g, op.HardSigmoid(bent, alpha=-STEEP, beta=high * STEEP))


def complement(op: Emitter, share: str) -> str:
    """1 - share, for a share between 0 and 1."""
    return op.HardSigmoid(share, alpha=-1.0, beta=1.0) if op.dtype == TensorProto.FLOAT else op.Sub(1.0, share)


def halfway(op: Emitter, value: str) -> str:
    """(1 + value) / 2, for a value between -1 and 1; one pass instead of two."""
    if op.dtype == TensorProto.FLOAT:
        return op.HardSigmoid(value, alpha=0.5, beta=0.5)
    return op.Mul(op.Add(value, 1.0), 0.5)


def stays_blocked(op: Emitter, node: Node) -> bool:
    """Whether the gradient of the node's input goes on into the activation of a convolution that runs in the blocked layout."""
    shape, maker = node.shape(), op.graph.producers.get(node.input(0))
    blocked = shape is not None and len(shape) == 4 and (shape[1] or 1) % BLOCK == 0
    return (
        blocked
        and op.dtype == TensorProto.FLOAT
        and maker is not None
        and maker.op_type in ("Relu", "Clip", "Sigmoid", "Mul")
    )


def enter_blocks(op: Emitter, value: str, node: Node) -> str:
    """The same value, by a pooling of single places: a pooling asks for the blocked layout, where a transposed convolution has left it."""
    return op.MaxPool(value, kernel_shape=[1, 1]) if stays_blocked(op, node) else value
