"""A picture task in a worker: body -> picture -> tensor -> model -> map -> back onto the picture -> answer."""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.explain.picture_maps import Pictured, picture_maps
from onnxplain.explain.picture_methods import Targets
from onnxplain.facts.errors import BadParameter, InputRefusedByModel, MalformedInput, MethodNotApplicable, TooExpensive
from onnxplain.facts.methods import METHODS, Method
from onnxplain.facts.options import Options, PictureOptions, checked
from onnxplain.facts.tasks import (
    ExplainerFileTask,
    ExplainTask,
    Heatmap,
    ModelFile,
    PictureExplanation,
    Prediction,
    Predictions,
    PredictTask,
    Sent,
    TaskLimits,
)
from onnxplain.model import ImageModel, TabularModel
from onnxplain.pictures.decode import decode
from onnxplain.pictures.draw import encode_png, overlay, to_grey
from onnxplain.pictures.geometry import Geometry, place_back, to_tensor
from onnxplain.tables import strict_json

Floats = NDArray[np.float32]

JSON = "application/json"
SHOWN_CLASSES = 10
RENDERED = 4  # how many times the pixels of the largest picture taken one answer may hold


def explain_picture(task: ExplainTask, model: ImageModel, report: Callable[[float], None]) -> PictureExplanation:
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
    body, media_type, given = _unwrapped(task)
    options = checked(METHODS[task.method].options, given)
    assert isinstance(options, PictureOptions)
    drawn = {"both": ("heatmap", "overlay"), "one": (options.output,), "none": ()}[task.draw]
    picture, x, geometry = _decoded(task, model, body, media_type)
    decoded = time.perf_counter()
    targets = _targets(model, options)
    if task.draw == "one":
        targets = Targets(targets.wanted[:1], 1)
    _refuse_large_answer(task.limits, picture, (len(targets.wanted) or targets.best) * len(drawn))
    found = picture_maps(METHODS[task.method], model, x, targets, options, task.limits.max_cost_ms, report)
    ran = time.perf_counter()
    explanations = []
    for target, values in zip(_predictions(model, found.scores, found.targets), found.maps, strict=True):
        model.cancellation.check()
        explanations.append(_heatmap(METHODS[task.method], options, drawn, picture, geometry, found, target, values))
    ends = {"decode": decoded - began, "run": ran - decoded, "render": time.perf_counter() - ran}
    return PictureExplanation(
        _best(model, found.scores, max(SHOWN_CLASSES, options.top_k or 0)),
        tuple(explanations),
        found.gradient,
        {name: seconds * 1e3 for name, seconds in ends.items()},
        model.card.warnings,
    )


def predict_picture(task: PredictTask, model: ImageModel) -> Predictions:
    """The classes of one picture, best first; for a regression its numbers.

    Raises:
        InputError: the body, the picture or an option cannot be used.
    """
    began = time.perf_counter()
    body, media_type, given = _unwrapped(task)
    checked(Options, given)
    _, x, _ = _decoded(task, model, body, media_type)
    decoded = time.perf_counter()
    scores = model.predict(x)[0]
    ran = time.perf_counter()
    timings = {"decode": (decoded - began) * 1e3, "run": (ran - decoded) * 1e3}
    if model.card.task == "regression":
        return Predictions([scores.tolist()], timings)
    return Predictions([list(_best(model, scores, SHOWN_CLASSES))], timings)


def explainer_model(task: ExplainerFileTask, model: ImageModel | TabularModel) -> ModelFile:
    """The model and its explanation as one ONNX file.

    Raises:
        MethodNotApplicable: no such file can be made.
    """
    if not isinstance(model, ImageModel):
        raise MethodNotApplicable(
            "Explainer files hold heatmaps, and this model takes tables; use a model of pictures."
        )
    return ModelFile(model.explainer_file(task.method))


def _unwrapped(task: Sent) -> tuple[bytes, str, dict[str, Any]]:
    """The picture file, its media type, and all options: those of the query string, then those of a JSON body."""
    if task.media_type != JSON:
        return task.body, task.media_type, dict(task.options)
    document = strict_json.loads(task.body)
    if not isinstance(document, dict) or not isinstance(document.get("image"), str):
        raise MalformedInput('The JSON body must be an object with the picture in base64: {"image": "..."}.')
    try:
        body = b64decode("".join(document.pop("image").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedInput(
            "`image` is not base64; encode the bytes of the picture file with the standard alphabet."
        ) from error
    if "target" in document:
        # A number or a single label is as good as a list of one.
        targets = document["target"] if isinstance(document["target"], list) else [document["target"]]
        document["target"] = [str(target) if type(target) is int else target for target in targets]
    return body, "", {**task.options, **document}


def _decoded(task: Sent, model: ImageModel, body: bytes, media_type: str) -> tuple[Any, Floats, Geometry]:
    if not body:
        raise MalformedInput("The body is empty; send the bytes of a picture, a multipart file `image`, or JSON.")
    picture = decode(body, media_type, task.limits.max_pixels)
    assert model.card.image is not None
    x, geometry = to_tensor(picture, model.card.image)
    return picture, x, geometry


def _targets(model: ImageModel, options: PictureOptions) -> Targets:
    """The classes asked for, else the best `top_k`, else the best."""
    if options.target and options.top_k:
        raise BadParameter("Give `target` or `top_k`, not both: one names the classes, the other takes the best.")
    wanted = (_class_index(model.card.classes, target) for target in options.target or ())
    return Targets(tuple(dict.fromkeys(wanted)), min(options.top_k or 1, len(model.card.classes)))


def _refuse_large_answer(limits: TaskLimits, picture: NDArray[np.uint8], drawn: int) -> None:
    """Pictures are answered at the size they came in: many targets of a large one would make gigabytes."""
    height, width = picture.shape[:2]
    pixels, most = height * width * drawn, RENDERED * limits.max_pixels
    if pixels > most:
        raise TooExpensive(
            f"The answer would hold {drawn} pictures of {width} x {height} pixels, {pixels / 1e6:.0f} megapixels; at most "
            f"{most / 1e6:.0f} are made at once. Ask for fewer targets, or send a smaller picture."
        )


def _class_index(classes: tuple[str, ...], target: str) -> int:
    """The class of this label, else of this number."""
    count = classes.count(target)
    if count == 1:
        return classes.index(target)
    if count > 1:
        numbers = [index for index, label in enumerate(classes) if label == target]
        raise BadParameter(
            f"{count} classes have this label; give one of their numbers: {', '.join(map(str, numbers[:20]))}."
        )
    if target.isascii() and target.isdigit() and len(target) <= 9 and int(target) < len(classes):
        return int(target)
    some = ", ".join(f"'{label}'" for label in classes[:10]) + (", ..." if len(classes) > 10 else "")
    raise BadParameter(
        f"`target` is neither a label of this model nor a number from 0 to {len(classes) - 1}; its labels are {some}."
    )


def _best(model: ImageModel, scores: Floats, most: int) -> tuple[Prediction, ...]:
    """The classes with the highest scores, best first."""
    return _predictions(model, scores, np.argsort(-scores, kind="stable")[:most].tolist())


def _predictions(model: ImageModel, scores: Floats, classes: Sequence[int]) -> tuple[Prediction, ...]:
    """What the model says about these classes."""
    probabilities = model.probabilities(scores[None])
    return tuple(
        Prediction(
            index,
            model.card.classes[index],
            float(scores[index]),
            None if probabilities is None else float(probabilities[0, index]),
        )
        for index in classes
    )


def _heatmap(
    method: Method,
    options: PictureOptions,
    drawn: Sequence[str],
    picture: NDArray[np.uint8],
    geometry: Geometry,
    found: Pictured,
    target: Prediction,
    values: Floats,
) -> Heatmap:
    """One map as numbers and as pictures, as far as they are asked for."""
    if not np.isfinite(values).all():
        raise InputRefusedByModel(
            "The map of this picture is not finite: the model's numbers overflow on it. Check its preprocessing."
        )
    grey_png = overlay_png = None
    if drawn:
        shown = values if method.zero else values - values.min()
        grey = to_grey(place_back(shown, geometry))
        grey_png = encode_png(grey) if "heatmap" in drawn else None
        if "overlay" in drawn:
            overlay_png = encode_png(overlay(picture, grey, options.colormap, options.alpha))
    layer = found.layer
    return Heatmap(
        target,
        layer.name if layer else None,
        layer.shape if layer else None,
        float(values.max()),
        grey_png,
        overlay_png,
        values.tolist() if options.values else None,
    )
