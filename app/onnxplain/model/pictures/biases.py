"""The biases of a picture model, for FullGrad: what a layer adds to its output whatever the picture shows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnxplain.model.meaning.preparation import PictureGraph

Floats = NDArray[np.float32]


def biases_of(picture: PictureGraph, weights: Mapping[str, TensorProto]) -> dict[str, Floats]:
    """For each convolution and batch normalisation of maps, on the way to the score: its output's name and its bias f32[c].

    A batch normalisation adds `beta - mean gamma / sqrt(variance + epsilon)`; one that was folded into a convolution has become
    that convolution's bias, which is the same number.
    """
    on_the_way = picture.graph.between(picture.source, picture.score)
    found = {}
    for node in picture.graph.model.graph.node:
        if node.output[0] not in on_the_way or len(picture.graph.shape(node.output[0]) or ()) != 4:
            continue  # heads normalise their features, too, but where there is no height and width there is no map
        constants = [numpy_helper.to_array(weights[name]) for name in node.input[1:] if name in weights]
        if node.op_type == "Conv" and len(constants) == 2:
            found[node.output[0]] = constants[1].astype(np.float32)
        elif node.op_type == "BatchNormalization" and len(constants) == 4:
            scale, shift, mean, variance = constants
            epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
            found[node.output[0]] = (shift - mean * scale / np.sqrt(variance + epsilon)).astype(np.float32)
    return found
