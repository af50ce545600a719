"""Which function makes the map of which picture method, and what it asks of the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.pictures import attribution, cam
from onnxplain.facts.cards import GradientFact, ImageSpec, Layer
from onnxplain.facts.errors import InputRefusedByModel, MethodNotApplicable, TooExpensive
from onnxplain.facts.methods import METHODS
from onnxplain.facts.options import (
    ActivationOptions,
    IntegratedGradientsOptions,
    LayerOptions,
    OcclusionOptions,
    PictureOptions,
    RiseOptions,
    SmoothGradOptions,
)
from onnxplain.facts.pricing import cost_ms, square
from onnxplain.model import ImageModel
from onnxplain.model.pictures.layer_run import LayerRun

Floats = NDArray[np.float32]
Report = Callable[[float], None]


class _LayerCam(Protocol):
    def __call__(self, A: Floats, G: Floats, combine: cam.Combine = ...) -> Floats: ...


_LAYER_CAMS: dict[str, _LayerCam] = {
    "gradcam": cam.grad_cam,
    "hirescam": cam.hires_cam,
    "gradcam-elementwise": cam.grad_cam_elementwise,
    "gradcam-plusplus": cam.grad_cam_plusplus,
    "xgradcam": cam.x_grad_cam,
    "layercam": cam.layer_cam,
}
_STRENGTHS = (0.9, 1.0, 1.1)
_BATCH_VALUES = 16 * 3 * 224 * 224  # most numbers of the pictures in one run: more saves no time, but costs memory


@dataclass(frozen=True)
class Targets:
    """Which classes to explain: those of `wanted`, else the `best` best."""

    wanted: tuple[int, ...] = ()
    best: int = 1

    def of(self, scores: Floats) -> list[int]:
        """The classes, once the scores f32[k] are known.

        Raises:
            InputRefusedByModel: the scores are not finite.
        """
        if not np.isfinite(scores).all():
            raise InputRefusedByModel(
                "The model's scores for this picture are not finite numbers; check its preprocessing."
            )
        return list(self.wanted) or [int(index) for index in np.argsort(-scores, kind="stable")[: self.best]]


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
    targets: Targets,
    options: PictureOptions,
    max_cost_ms: float | None,
    report: Report,
) -> Pictured:
    """The maps of a picture f32[1, c, h, w].

    Args:
        method: a picture method of `onnxplain.facts.methods.METHODS`.
        model: the loaded model.
        x: the picture as the model takes it.
        targets: the classes to explain.
        options: the method's own.
        max_cost_ms: most milliseconds that the work may cost by estimate, None for no limit.
        report: takes the fraction that is done.

    Raises:
        MethodNotApplicable: the model cannot be explained so.
        TooExpensive: the work costs more than the limit.
        LayerNotFound: the model has no such layer.
    """
    _require_affordable(method, cost_ms(method, options, model.card), max_cost_ms)
    if isinstance(options, ActivationOptions):
        return _at_layer(method, model, x, targets, options, max_cost_ms, report)
    return _at_input(method, model, x, targets, options, report)


def _require_affordable(method: str, price_ms: float, limit_ms: float | None) -> None:
    if limit_ms is not None and price_ms > limit_ms:
        raise TooExpensive(
            f"{method} on this model would take about {price_ms / 1e3:.1f} s, and at most {limit_ms / 1e3:.1f} s are allowed; "
            "ask for fewer samples, steps or targets, a larger stride or a later layer, or use a cheaper method such as gradcam."
        )


def _at_layer(
    method: str,
    model: ImageModel,
    x: Floats,
    wanted: Targets,
    options: ActivationOptions,
    max_cost_ms: float | None,
    report: Report,
) -> Pictured:
    plain = options.layer is None and not options.aug_smooth and not getattr(options, "eigen_smooth", False)
    if plain and len(wanted.wanted or range(wanted.best)) == 1:
        at_once = model.explained(x, method, wanted.wanted[0] if wanted.wanted else None)
        if at_once is not None:
            scores, values = at_once
            return Pictured(scores, wanted.of(scores), [values], model.layer(None), model.card.gradient)
    run = model.at_layer(x, options.layer)
    targets = wanted.of(run.scores)
    needs_gradient = METHODS[method].needs == "layer-gradient"
    if needs_gradient and run.source == "finite-difference" and not METHODS[method].channel_means:
        raise MethodNotApplicable(
            f"An operator behind this layer has no gradient rule, and {method} needs the gradient at every place; use gradcam, "
            "whose channel means are found by finite differences, or a later layer."
        )
    runs_a_channel = 1 if method == "ablationcam" else 2 if needs_gradient and run.source == "finite-difference" else 0
    if runs_a_channel and max_cost_ms is not None:
        # What a run behind this very layer takes is known only now; the first one makes the session.
        run.tail(run.activations[None])
        began = time.perf_counter()
        run.tail(run.activations[None])
        pictures = 2 * len(_STRENGTHS) if options.aug_smooth else 1
        price = (time.perf_counter() - began) * 1e3 * runs_a_channel * len(run.activations) * pictures
        _require_affordable(method, price, max_cost_ms)
    if options.aug_smooth:
        maps = _augmented(method, model, x, targets, options, report)
    else:
        maps = _layer_maps(method, model, x, run, targets, options, report)
    fact = replace(model.card.gradient, source=run.source) if needs_gradient else GradientFact()
    return Pictured(run.scores, targets, maps, model.layer(options.layer), fact)


def _layer_maps(
    method: str,
    model: ImageModel,
    x: Floats,
    run: LayerRun,
    targets: list[int],
    options: ActivationOptions,
    report: Report,
) -> list[Floats]:
    A = run.activations
    smooth = isinstance(options, LayerOptions) and options.eigen_smooth
    combine = cam.first_component if smooth else cam.summed
    if method in _LAYER_CAMS:
        return [_LAYER_CAMS[method](A, G, combine) for G in run.gradient(targets)]
    match method:
        case "eigengradcam":
            return [cam.eigen_grad_cam(A, G) for G in run.gradient(targets)]
        case "eigencam":
            return [cam.eigen_cam(A)] * len(targets)
        case "scorecam":
            return cam.score_cam(A, x, model.predict, targets, combine, batch=_batch(x), report=report)
        case "ablationcam":
            return cam.ablation_cam(A, run.scores, run.tail, targets, combine, batch=_batch(A), report=report)
        case "activation":
            return [cam.activation(A)] * len(targets)
    raise AssertionError(f"{method} has a row in METHODS and no function")


def _augmented(
    method: str, model: ImageModel, x: Floats, targets: list[int], options: ActivationOptions, report: Report
) -> list[Floats]:
    """Mean of the maps of the picture and its mirror image, each at three strengths of the normalised tensor."""
    total: list[Floats] = []
    for mirrored in (False, True):
        for strength in _STRENGTHS:
            seen = np.ascontiguousarray(x[..., ::-1] if mirrored else x) * np.float32(strength)
            run = model.at_layer(seen, options.layer)
            maps = _layer_maps(method, model, seen, run, targets, options, report)
            maps = [values[:, ::-1] if mirrored else values for values in maps]
            total = [a + b for a, b in zip(total, maps, strict=True)] if total else maps
    return [values / np.float32(2 * len(_STRENGTHS)) for values in total]


def _at_input(
    method: str, model: ImageModel, x: Floats, wanted: Targets, options: PictureOptions, report: Report
) -> Pictured:
    fact = model.card.gradient if METHODS[method].needs == "input-gradient" else GradientFact()
    if method in {"saliency", "input-x-gradient"}:
        scores, targets, gradients = _input_gradients(model, x, wanted)
        to_map = attribution.saliency if method == "saliency" else partial(attribution.input_x_gradient, x[0])
        return Pictured(scores, targets, [to_map(gradient) for gradient in gradients], None, fact)
    scores = model.predict(x)[0]
    targets = wanted.of(scores)
    batch = _batch(x)

    def gradient_of(target: int) -> attribution.Gradient:
        return lambda pictures: model.input_gradient(pictures, [target] * len(pictures)).gradient

    def confidence(pictures: Floats) -> Floats:
        found = model.predict(pictures)
        probabilities = model.probabilities(found)
        return found if probabilities is None else probabilities

    match options:
        case IntegratedGradientsOptions() if method == "integrated-gradients":
            baseline = _baseline(model, options.baseline)
            maps = [
                attribution.integrated_gradients(
                    x, gradient_of(target), baseline, options.steps, batch=batch, report=_part(report, i, len(targets))
                )
                for i, target in enumerate(targets)
            ]
        case SmoothGradOptions() if method == "smoothgrad":
            maps = [
                attribution.smooth_grad(
                    x,
                    gradient_of(target),
                    options.samples,
                    options.noise,
                    options.seed,
                    batch=batch,
                    report=_part(report, i, len(targets)),
                )
                for i, target in enumerate(targets)
            ]
        case OcclusionOptions() if method == "occlusion":
            window, stride = square((x.shape[2], x.shape[3]), options)
            maps = attribution.occlusion(x, model.predict, targets, window, stride, batch=batch, report=report)
        case RiseOptions() if method == "rise":
            maps = attribution.rise(
                x,
                confidence,
                targets,
                options.samples,
                options.grid,
                options.kept,
                options.seed,
                batch=batch,
                report=report,
            )
        case _:
            if method != "fullgrad":
                raise AssertionError(f"{method} has a row in METHODS and no function")
            found = [model.bias_gradients(x, target) for target in targets]
            maps = [cam.full_grad(x[0], f.gradient, f.biases, f.gradients) for f in found]
    return Pictured(scores, targets, maps, None, fact)


def _input_gradients(model: ImageModel, x: Floats, wanted: Targets) -> tuple[Floats, list[int], list[Floats]]:
    """Scores, targets and their gradients f32[c, h, w]; the run that finds the top class gives its gradient, too."""
    asked = list(wanted.wanted) or [-1]
    scores, gradients = _stacked_gradients(model, x, asked)
    targets = wanted.of(scores)
    if len(targets) > len(asked):
        gradients += _stacked_gradients(model, x, targets[len(asked) :])[1]
    return scores, targets, gradients


def _stacked_gradients(model: ImageModel, x: Floats, targets: list[int]) -> tuple[Floats, list[Floats]]:
    """Scores f32[k], and the gradient f32[c, h, w] of each target; as many in one run as memory allows."""
    groups = [targets[start : start + _batch(x)] for start in range(0, len(targets), _batch(x))]
    runs = [model.input_gradient(np.repeat(x, len(group), axis=0), group) for group in groups]
    return runs[0].scores[0], [gradient for run in runs for gradient in run.gradient]


def _part(report: Report, index: int, count: int) -> Report:
    """Reports the progress of one of several equal parts."""
    return lambda fraction: report((index + fraction) / count)


def _batch(values: Floats) -> int:
    return max(1, min(32, _BATCH_VALUES // int(np.prod(values.shape[-3:]))))


def _baseline(model: ImageModel, name: str) -> Floats:
    """The picture without information, as the model takes it, f32[1, c, 1, 1]."""
    spec = model.card.image
    assert isinstance(spec, ImageSpec)
    pixel = {"mean": None, "black": 0.0, "white": 255.0}[name]
    if pixel is None:
        return np.zeros((1, len(spec.mean), 1, 1), np.float32)
    levels = [(pixel / spec.scale - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    return np.array(levels, np.float32).reshape(1, -1, 1, 1)
