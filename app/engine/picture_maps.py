"""Which function makes the map of which picture method, and what it asks of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.cards import GradientFact, Layer
from app.errors import MethodNotApplicable
from app.explainers import cam
from app.methods import METHODS
from app.model import ImageModel
from app.options import LayerOptions, PictureOptions

Floats = NDArray[np.float32]

_LAYER_CAMS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "gradcam": cam.grad_cam,
    "hirescam": cam.hires_cam,
    "layercam": cam.layer_cam,
}
_BRIGHTNESS = (0.9, 1.0, 1.1)


@dataclass(frozen=True)
class Pictured:
    """The maps f32[u, v] of one picture, one for each target, with the scores f32[k] and the layer (None: the input)."""

    scores: Floats
    targets: list[int]
    maps: list[Floats]
    layer: Layer | None
    gradient: GradientFact


def picture_maps(
    method: str,
    model: ImageModel,
    x: Floats,
    choose: Callable[[Floats], list[int]],
    options: PictureOptions,
    max_cost_ms: float | None,
    report: Callable[[float], None],
) -> Pictured:
    """The maps of a picture f32[1, c, h, w].

    Args:
        method: a picture method of `app.methods.METHODS`.
        model: the loaded model.
        x: the picture as the model takes it.
        choose: the classes to explain, given the scores f32[k].
        options: the method's own.
        max_cost_ms: most milliseconds that the work may cost by estimate, None for no limit.
        report: takes the fraction that is done.

    Raises:
        MethodNotApplicable: the model cannot be explained so.
        TooExpensive: the work costs more than the limit.
        LayerNotFound, BadParameter: an option does not fit the model.
    """
    assert isinstance(options, LayerOptions)
    run = model.at_layer(x, options.layer)
    targets = choose(run.scores)
    if run.source == "finite-difference" and not METHODS[method].channel_means:
        raise MethodNotApplicable(
            f"An operator behind this layer has no gradient rule, and {method} needs the gradient at every place; use gradcam, "
            "whose channel means are found by finite differences, or a later layer."
        )
    formula = _LAYER_CAMS[method]
    maps = [formula(run.activations, gradient) for gradient in run.gradient(targets)]
    if options.aug_smooth:
        maps = _smoothed(formula, model, x, options.layer, targets)
    return Pictured(
        run.scores, targets, maps, model.layer(options.layer), replace(model.card.gradient, source=run.source)
    )


def _smoothed(
    formula: Callable[[Floats, Floats], Floats], model: ImageModel, x: Floats, layer: str | None, targets: list[int]
) -> list[Floats]:
    """Mean of the maps of the picture and its mirror image, each at three strengths of the normalised tensor."""
    total: list[Floats] = []
    for mirrored in (False, True):
        for strength in _BRIGHTNESS:
            seen = np.ascontiguousarray(x[..., ::-1] if mirrored else x) * np.float32(strength)
            run = model.at_layer(seen, layer)
            maps = [formula(run.activations, gradient) for gradient in run.gradient(targets)]
            maps = [values[:, ::-1] if mirrored else values for values in maps]
            total = [a + b for a, b in zip(total, maps, strict=True)] if total else maps
    return [values / np.float32(2 * len(_BRIGHTNESS)) for values in total]
