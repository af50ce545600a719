"""The function of every picture method: from what the model shows of a picture to one map a target.

Its counterpart with equal keys is the table of facts, `onnxplain.facts.methods.METHODS`: a method is a row there and a function here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.pictures import attribution, cam
from onnxplain.facts.cards import ImageSpec
from onnxplain.facts.errors import InputRefusedByModel
from onnxplain.facts.options import (
    IntegratedGradientsOptions,
    LayerOptions,
    OcclusionOptions,
    RiseOptions,
    SmoothGradOptions,
)
from onnxplain.facts.pricing import square
from onnxplain.model import ImageModel
from onnxplain.model.pictures.layer_run import LayerRun

Floats = NDArray[np.float32]
Report = Callable[[float], None]

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


class Seen:
    """One picture in front of a model: what a method may ask. The model runs when the first of it is asked for.

    Attributes:
        model: the loaded model.
        x: the picture f32[1, c, h, w] as the model takes it.
        report: takes the fraction of the method's work that is done.
    """

    def __init__(
        self, model: ImageModel, x: Floats, wanted: Targets, report: Report, layer: LayerRun | None = None
    ) -> None:
        self.model = model
        self.x = x
        self.report = report
        self._wanted = wanted
        self._layer = layer

    @property
    def layer(self) -> LayerRun:
        """What the model did at the layer; only methods whose row needs a layer have one."""
        assert self._layer is not None
        return self._layer

    @cached_property
    def scores(self) -> Floats:
        """The model's scores f32[k]."""
        return self.model.predict(self.x)[0] if self._layer is None else self._layer.scores

    @cached_property
    def targets(self) -> list[int]:
        """The classes to explain."""
        return self._wanted.of(self.scores)

    def parts(self) -> Iterator[tuple[int, Report]]:
        """Each target, with what takes the fraction of its own part of the work."""
        for index, target in enumerate(self.targets):
            yield target, partial(self._report_part, index)

    def _report_part(self, index: int, fraction: float) -> None:
        self.report((index + fraction) / len(self.targets))

    def input_gradients(self) -> list[Floats]:
        """The gradient f32[c, h, w] of each target at the input; the run that finds the top class gives its gradient, too."""
        asked = list(self._wanted.wanted) or [-1]
        self.scores, gradients = self._stacked_gradients(asked)
        return gradients + self._stacked_gradients(self.targets[len(asked) :])[1]

    def _stacked_gradients(self, targets: list[int]) -> tuple[Floats, list[Floats]]:
        """Scores f32[k], and the gradient f32[c, h, w] of each target; as many in one run as memory allows."""
        at_once = batch(self.x)
        groups = [targets[start : start + at_once] for start in range(0, len(targets), at_once)]
        runs = [self.model.input_gradient(np.repeat(self.x, len(group), axis=0), group) for group in groups]
        scores = runs[0].scores[0] if runs else np.empty(0, np.float32)
        return scores, [gradient for run in runs for gradient in run.gradient]

    def gradient_of(self, target: int) -> attribution.Gradient:
        """The gradient of a target's score, as a function of pictures f32[n, c, h, w]."""
        return lambda pictures: self.model.input_gradient(pictures, [target] * len(pictures)).gradient

    def confidence(self, pictures: Floats) -> Floats:
        """Probabilities f32[n, k] of pictures f32[n, c, h, w]; the scores where the model gives none."""
        found = self.model.predict(pictures)
        probabilities = self.model.probabilities(found)
        return found if probabilities is None else probabilities


Map = Callable[[Seen, Any], list[Floats]]


class _LayerCam(Protocol):
    def __call__(self, A: Floats, G: Floats, combine: cam.Combine = ...) -> Floats: ...


def _weighted(formula: _LayerCam) -> Map:
    """The method of a formula on activations and gradient."""

    def maps(seen: Seen, options: LayerOptions) -> list[Floats]:
        combine = _combine(options)
        return [formula(seen.layer.activations, G, combine) for G in seen.layer.gradient(seen.targets)]

    return maps


def _eigen_grad_cam(seen: Seen, _: object) -> list[Floats]:
    return [cam.eigen_grad_cam(seen.layer.activations, G) for G in seen.layer.gradient(seen.targets)]


def _without_class(formula: Callable[[Floats], Floats]) -> Map:
    """The method of a formula on activations alone: every target gets the same map."""
    return lambda seen, _: [formula(seen.layer.activations)] * len(seen.targets)


def _score_cam(seen: Seen, options: LayerOptions) -> list[Floats]:
    A, at_once = seen.layer.activations, batch(seen.x)
    return cam.score_cam(
        A, seen.x, seen.model.predict, seen.targets, _combine(options), batch=at_once, report=seen.report
    )


def _ablation_cam(seen: Seen, options: LayerOptions) -> list[Floats]:
    run = seen.layer
    A, at_once = run.activations, batch(run.activations)
    return cam.ablation_cam(A, run.scores, run.tail, seen.targets, _combine(options), batch=at_once, report=seen.report)


def _combine(options: LayerOptions) -> cam.Combine:
    return cam.first_component if options.eigen_smooth else cam.summed


def _full_grad(seen: Seen, _: object) -> list[Floats]:
    found = (seen.model.bias_gradients(seen.x, target) for target in seen.targets)
    return [cam.full_grad(seen.x[0], f.gradient, f.biases, f.gradients) for f in found]


def _saliency(seen: Seen, _: object) -> list[Floats]:
    return [attribution.saliency(gradient) for gradient in seen.input_gradients()]


def _input_x_gradient(seen: Seen, _: object) -> list[Floats]:
    return [attribution.input_x_gradient(seen.x[0], gradient) for gradient in seen.input_gradients()]


def _integrated_gradients(seen: Seen, options: IntegratedGradientsOptions) -> list[Floats]:
    baseline, at_once = _baseline(seen.model, options.baseline), batch(seen.x)
    return [
        attribution.integrated_gradients(
            seen.x, seen.gradient_of(target), baseline, options.steps, batch=at_once, report=report
        )
        for target, report in seen.parts()
    ]


def _smooth_grad(seen: Seen, options: SmoothGradOptions) -> list[Floats]:
    samples, noise, seed = options.samples, options.noise, options.seed
    return [
        attribution.smooth_grad(
            seen.x, seen.gradient_of(target), samples, noise, seed, batch=batch(seen.x), report=report
        )
        for target, report in seen.parts()
    ]


def _occlusion(seen: Seen, options: OcclusionOptions) -> list[Floats]:
    x = seen.x
    window, stride = square((x.shape[2], x.shape[3]), options)
    return attribution.occlusion(
        x, seen.model.predict, seen.targets, window, stride, batch=batch(x), report=seen.report
    )


def _rise(seen: Seen, options: RiseOptions) -> list[Floats]:
    x, targets, masks = seen.x, seen.targets, (options.samples, options.grid, options.kept, options.seed)
    return attribution.rise(x, seen.confidence, targets, *masks, batch=batch(x), report=seen.report)


MAPS: dict[str, Map] = {
    "gradcam": _weighted(cam.grad_cam),
    "hirescam": _weighted(cam.hires_cam),
    "gradcam-elementwise": _weighted(cam.grad_cam_elementwise),
    "gradcam-plusplus": _weighted(cam.grad_cam_plusplus),
    "xgradcam": _weighted(cam.x_grad_cam),
    "layercam": _weighted(cam.layer_cam),
    "eigencam": _without_class(cam.eigen_cam),
    "eigengradcam": _eigen_grad_cam,
    "scorecam": _score_cam,
    "ablationcam": _ablation_cam,
    "fullgrad": _full_grad,
    "activation": _without_class(cam.activation),
    "saliency": _saliency,
    "input-x-gradient": _input_x_gradient,
    "integrated-gradients": _integrated_gradients,
    "smoothgrad": _smooth_grad,
    "occlusion": _occlusion,
    "rise": _rise,
}


def batch(values: Floats) -> int:
    """How many pictures or activations f32[..., c, h, w] go through the model in one run."""
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
