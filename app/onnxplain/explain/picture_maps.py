"""The maps of one picture by one method: its price, the layer it looks at, and the mean over augmented pictures."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from onnxplain.explain.picture_methods import MAPS, Floats, Map, Report, Seen, Targets
from onnxplain.facts.cards import GradientFact, Layer, ModelCard
from onnxplain.facts.errors import MethodNotApplicable, TooExpensive
from onnxplain.facts.methods import Method
from onnxplain.facts.options import STRENGTHS, ActivationOptions, PictureOptions
from onnxplain.facts.pricing import AUGMENTED
from onnxplain.model import ImageModel
from onnxplain.model.pictures.layer_run import LayerRun

_DIFFERENCES = 2  # runs behind the layer that a channel's finite difference takes


@dataclass(frozen=True)
class Pictured:
    """The maps f32[u, v] of one picture, one for each target, with the scores f32[k] and the layer (None: the input)."""

    scores: Floats
    targets: list[int]
    maps: list[Floats]
    layer: Layer | None
    gradient: GradientFact


def picture_maps(
    method: Method,
    model: ImageModel,
    x: Floats,
    targets: Targets,
    options: PictureOptions,
    max_cost_ms: float,
    report: Report,
) -> Pictured:
    """The maps of a picture f32[1, c, h, w].

    Args:
        method: a picture method's row of `onnxplain.facts.methods.METHODS`.
        model: the loaded model.
        x: the picture as the model takes it.
        targets: the classes to explain.
        options: the method's own.
        max_cost_ms: most milliseconds that the work may cost by estimate.
        report: takes the fraction that is done.

    Raises:
        KeyError: the row has no function.
        MethodNotApplicable: the model cannot be explained so.
        TooExpensive: the work costs more than the limit.
        LayerNotFound: the model has no such layer.
    """
    function = MAPS[method.name]
    _require_affordable(method, cost_ms(method, options, model.card), max_cost_ms)
    if isinstance(options, ActivationOptions):
        return _at_layer(method, function, model, x, targets, options, max_cost_ms, report)
    seen = Seen(model, x, targets, report)
    maps = function(seen, options)
    fact = model.card.gradient if method.needs == "input-gradient" else GradientFact()
    return Pictured(seen.scores, seen.targets, maps, None, fact)


def cost_ms(method: Method, options: PictureOptions, card: ModelCard) -> float:
    """Estimated milliseconds of one picture's explanation on one worker, decoding and rendering left out.

    `forward_ms` of the card is what the model measured when it was loaded.
    """
    assert method.price is not None
    return card.forward_ms * method.price(options, card)


def _require_affordable(method: Method, price_ms: float, limit_ms: float) -> None:
    if price_ms > limit_ms:
        raise TooExpensive(
            f"{method.name} on this model would take about {price_ms / 1e3:.1f} s, and at most {limit_ms / 1e3:.1f} s are "
            "allowed; ask for fewer samples, steps or targets, a larger stride or a later layer, or use a cheaper method "
            "such as gradcam."
        )


def _at_layer(
    method: Method,
    function: Map,
    model: ImageModel,
    x: Floats,
    targets: Targets,
    options: ActivationOptions,
    max_cost_ms: float,
    report: Report,
) -> Pictured:
    run = model.at_layer(x, options.layer)
    needs_gradient = method.needs == "layer-gradient"
    differences = needs_gradient and run.source == "finite-difference"
    if differences and not method.channel_means:
        raise MethodNotApplicable(
            f"An operator behind this layer has no gradient rule, and {method.name} needs the gradient at every place; use "
            "gradcam, whose channel means are found by finite differences, or a later layer."
        )
    if max_cost_ms < math.inf:
        tails = method.tails_a_channel + differences * _DIFFERENCES
        _require_affordable(method, _tails_ms(run, tails) * (AUGMENTED if options.aug_smooth else 1), max_cost_ms)
    seen = Seen(model, x, targets, report, run)
    maps = _augmented(function, seen, options) if options.aug_smooth else function(seen, options)
    fact = replace(model.card.gradient, source=run.source) if needs_gradient else GradientFact()
    return Pictured(seen.scores, seen.targets, maps, model.layer(options.layer), fact)


def _tails_ms(run: LayerRun, a_channel: int) -> float:
    """What so many runs a channel behind this very layer take. The first run makes the session, the second is timed."""
    if not a_channel:
        return 0.0
    run.tail(run.activations[None])
    began = time.perf_counter()
    run.tail(run.activations[None])
    return (time.perf_counter() - began) * 1e3 * a_channel * len(run.activations)


def _augmented(function: Map, seen: Seen, options: ActivationOptions) -> list[Floats]:
    """Mean of the maps of the picture and its mirror image, each at three strengths of the normalised tensor."""
    targets = Targets(tuple(seen.targets))
    total: list[Floats] = []
    for mirrored in (False, True):
        for strength in STRENGTHS:
            x = np.ascontiguousarray(seen.x[..., ::-1] if mirrored else seen.x) * np.float32(strength)
            run = seen.model.at_layer(x, options.layer)
            maps = function(Seen(seen.model, x, targets, seen.report, run), options)
            maps = [values[:, ::-1] if mirrored else values for values in maps]
            total = [a + b for a, b in zip(total, maps, strict=True)] if total else maps
    return [values / np.float32(AUGMENTED) for values in total]
