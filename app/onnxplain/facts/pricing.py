"""What an explanation of a picture costs, before it starts: the runs that its method needs, times the model's own time for one."""

from __future__ import annotations

from onnxplain.facts.cards import ModelCard
from onnxplain.facts.options import (
    ActivationOptions,
    IntegratedGradientsOptions,
    LayerOptions,
    OcclusionOptions,
    Options,
    PictureOptions,
    RiseOptions,
    SmoothGradOptions,
)

BACKWARD = 4.0  # cost of one gradient at the input, in forward runs of the model
_AUGMENTED_RUNS = 6
_TAIL = 0.02  # cost of running the layers behind the default layer, in forward runs of the whole model


def cost_ms(method: str, options: Options, card: ModelCard) -> float:
    """Estimated milliseconds of one picture's explanation on one worker, decoding and rendering left out.

    Args:
        method: a picture method of `onnxplain.facts.methods.METHODS`.
        options: the method's own.
        card: of the model; `forward_ms` is what it measured when it was loaded.
    """
    assert isinstance(options, PictureOptions)
    return card.forward_ms * (1 + _runs(method, options, card))


def _runs(method: str, options: PictureOptions, card: ModelCard) -> float:
    """Plain runs beyond the one that every method makes."""
    targets = len(options.target or ()) or options.top_k or 1
    again = _AUGMENTED_RUNS if isinstance(options, ActivationOptions) and options.aug_smooth else 0
    match options:
        case IntegratedGradientsOptions():
            return targets * options.steps * BACKWARD
        case SmoothGradOptions():
            return targets * options.samples * BACKWARD
        case RiseOptions():
            return float(options.samples)
        case OcclusionOptions():
            assert card.image is not None
            return float(occlusion_runs(card.image.size, *square(card.image.size, options)))
        case LayerOptions() if method in {"scorecam", "ablationcam"}:
            return (1 + again) * _channels(card, options.layer) * (1.0 if method == "scorecam" else _TAIL)
        case ActivationOptions():
            return again + targets * _TAIL
    return targets * BACKWARD * (2 if method == "fullgrad" else 1)


def square(size: tuple[int, int], options: OcclusionOptions) -> tuple[int, int]:
    """Window and stride of an occlusion on a picture of that height and width."""
    window = min(options.window or max(1, min(size) // 8), *size)
    return window, options.stride or max(1, window // 2)


def occlusion_runs(size: tuple[int, int], window: int, stride: int) -> int:
    """How many squares cover a picture: from edge to edge, the last one of a line ending at the edge."""
    height, width = (1 + -(-max(side - window, 0) // stride) for side in size)
    return height * width


def _channels(card: ModelCard, layer: str | None) -> int:
    shapes = [known.shape for known in card.layers if (known.default if layer is None else known.name == layer)]
    return shapes[0][0] if shapes else max((known.shape[0] for known in card.layers), default=1)
