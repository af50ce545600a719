"""Normalisations: by stored statistics, or by those of the values themselves."""

from __future__ import annotations

import numpy as np

from app.autodiff.emit import Emitter
from app.autodiff.graph import Node
from app.autodiff.rule import Cotangents, unsupported, vjp


@vjp("BatchNormalization")
def batch_normalization(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = gamma (x - mean) / sqrt(var + eps) + beta with stored statistics;  dx = g gamma / sqrt(var + eps)."""
    if node.attribute("training_mode", 0):
        raise unsupported(node, "is in training mode; export the model in inference mode")
    rank = node.rank()
    if rank is None:
        raise unsupported(node, "has an input of unknown rank")
    gamma, variance = node.constant(1), node.constant(4)
    epsilon = float(node.attribute("epsilon", 1e-5))
    others = [None] * (len(node.inputs) - 1)
    shape = [-1] + [1] * (rank - 2)
    if gamma is not None and variance is not None:
        slope = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        return [op.Mul(g, slope.astype(op.numpy_dtype).reshape(shape)), *others]
    slope_name = op.Div(node.input(1), op.Sqrt(op.Add(node.input(4), epsilon)))
    return [op.Mul(g, op.Reshape(slope_name, shape)), *others]


@vjp("Dropout")
def dropout(op: Emitter, node: Node, g: str) -> Cotangents:
    """y = x outside training;  dx = g."""
    training = node.constant(2)
    if node.input(2) and (training is None or training):
        raise unsupported(node, "may be in training mode; export the model in inference mode")
    return [g, *[None] * (len(node.inputs) - 1)]
