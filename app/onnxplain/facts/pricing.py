"""What an explanation of a picture costs, before it starts: the runs that its method makes, times the model's own time for one.

A function here is the price column of a method's row: options and card -> plain forward runs of the model, those included that
tell its scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxplain.facts.cards import ModelCard
from onnxplain.facts.options import (
    STRENGTHS,
    ActivationOptions,
    IntegratedGradientsOptions,
    OcclusionOptions,
    PictureOptions,
    RiseOptions,
    SmoothGradOptions,
)

Price = Callable[[Any, ModelCard], float]

BACKWARD = 4.0  # cost of one gradient at the input, in forward runs of the model
AUGMENTED = 2 * len(STRENGTHS)  # pictures whose maps are averaged: each strength, as it is and mirrored
TAIL = 0.02  # cost of running the layers behind the default layer, in forward runs of the whole model


def at_layer(options: ActivationOptions, _: ModelCard) -> float:
    """One run to the layer, and for each target one of what lies behind it; again for each augmented picture."""
    pictures = AUGMENTED if options.aug_smooth else 1
    return 1 + (AUGMENTED if options.aug_smooth else 0) + pictures * _targets(options) * TAIL


def masked_channels(options: ActivationOptions, card: ModelCard) -> float:
    """A run of the whole model for each channel of the layer (Score-CAM)."""
    return _each_channel(options, card, 1.0)


def ablated_channels(options: ActivationOptions, card: ModelCard) -> float:
    """A run of what lies behind the layer for each of its channels (Ablation-CAM)."""
    return _each_channel(options, card, TAIL)


def input_gradient(options: PictureOptions, _: ModelCard) -> float:
    """A gradient at the input for each target."""
    return 1 + _targets(options) * BACKWARD


def bias_gradients(options: PictureOptions, _: ModelCard) -> float:
    """For each target a gradient at the input and at every bias (FullGrad)."""
    return 1 + _targets(options) * BACKWARD * 2


def integral(options: IntegratedGradientsOptions, _: ModelCard) -> float:
    """A gradient for each target and step."""
    return 1 + _targets(options) * options.steps * BACKWARD


def noisy_gradients(options: SmoothGradOptions, _: ModelCard) -> float:
    """A gradient for each target and sample."""
    return 1 + _targets(options) * options.samples * BACKWARD


def covered_squares(options: OcclusionOptions, card: ModelCard) -> float:
    """A run for each square, whatever the targets."""
    assert card.image is not None
    return 1.0 + occlusion_runs(card.image.size, *square(card.image.size, options))


def masks(options: RiseOptions, _: ModelCard) -> float:
    """A run for each mask, whatever the targets."""
    return 1.0 + options.samples


def square(size: tuple[int, int], options: OcclusionOptions) -> tuple[int, int]:
    """Window and stride of an occlusion on a picture of that height and width."""
    window = min(options.window or max(1, min(size) // 8), *size)
    return window, options.stride or max(1, window // 2)


def occlusion_runs(size: tuple[int, int], window: int, stride: int) -> int:
    """How many squares cover a picture: from edge to edge, the last one of a line ending at the edge."""
    height, width = (1 + -(-max(side - window, 0) // stride) for side in size)
    return height * width


def _targets(options: PictureOptions) -> int:
    return len(options.target or ()) or options.top_k or 1


def _each_channel(options: ActivationOptions, card: ModelCard, run: float) -> float:
    """The first run; with augmentation one for each of its pictures; and for each picture `run` for each channel."""
    shapes = [
        known.shape
        for known in card.layers
        if (known.default if options.layer is None else known.name == options.layer)
    ]
    channels = shapes[0][0] if shapes else max((known.shape[0] for known in card.layers), default=1)
    again = AUGMENTED if options.aug_smooth else 0
    return 1 + again + max(again, 1) * channels * run
