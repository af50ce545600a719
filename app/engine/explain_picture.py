"""A picture task in a worker: body -> picture -> tensor -> model -> map -> back onto the picture -> answer."""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import images, strict_json
from app.engine.task import ExplainTask, Heatmap, ModelFile, PictureExplanation, Prediction, Predictions
from app.errors import BadParameter, InputRefusedByModel, MalformedInput
from app.explainers import cam
from app.methods import METHODS
from app.model import ImageModel
from app.options import LayerOptions, Options, PictureOptions, checked

Floats = NDArray[np.float32]
Report = Callable[[float], None]

JSON = "application/json"
SHOWN_CLASSES = 10
_AUGMENTATIONS = tuple((mirrored, factor) for mirrored in (False, True) for factor in (0.9, 1.0, 1.1))

_LAYER_CAMS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "gradcam": cam.grad_cam,
    "hirescam": cam.hires_cam,
    "layercam": cam.layer_cam,
}


def explain_picture(task: ExplainTask, model: ImageModel, report: Report) -> PictureExplanation:
    """The maps of one picture for each target, by the task's method.

    Args:
        task: `body` is a picture file, or JSON that holds one.
        model: the loaded model.
        report: takes the fraction that is done.

    Raises:
        InputError: the body, the picture or an option cannot be used.
        ModelError: the method does not fit the model.
    """
    began = time.perf_counter()
    body, media_type, options = _read(task, METHODS[task.method].options)
    assert isinstance(options, PictureOptions)
    picture, x, geometry = _decode(task, model, body, media_type)
    decoded = time.perf_counter()
    scores, targets, maps, layer = _maps(task.method, model, x, options, report)
    ran = time.perf_counter()
    predictions = _predictions(model, scores)
    by_index = {prediction.index: prediction for prediction in predictions}
    explanations = []
    for target, values in zip(targets, maps, strict=True):
        heatmap = overlay = None
        if task.pictures:
            grey = images.to_grey(images.place_back(values, geometry))
            heatmap = images.encode_png(grey) if "heatmap" in task.pictures else None
            if "overlay" in task.pictures:
                overlay = images.encode_png(images.overlay(picture, grey, options.colormap, options.alpha))
        explanations.append(
            Heatmap(
                by_index[target],
                layer.name if layer else None,
                layer.shape if layer else None,
                float(values.max()),
                heatmap,
                overlay,
                values.tolist() if options.values else None,
            )
        )
    done = time.perf_counter()
    timings = {"decode": decoded - began, "run": ran - decoded, "render": done - ran}
    return PictureExplanation(
        predictions[: max(SHOWN_CLASSES, options.top_k or 0)],
        tuple(explanations),
        model.card.gradient,
        {name: seconds * 1e3 for name, seconds in timings.items()},
        model.card.warnings,
    )
