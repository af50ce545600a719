"""One layer of a picture model at work: its activations, the gradient there, and what a change there does to the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto

from onnxplain.autodiff import differentiate
from onnxplain.facts.errors import MethodNotApplicable, UnsupportedOperator
from onnxplain.model.graphs.graph import trim
from onnxplain.model.meaning.preparation import PictureGraph
from onnxplain.model.meaning.scores import FLOATS
from onnxplain.model.pictures.layers import Candidate
from onnxplain.model.pictures.tails import PICKED, TARGETS, cut_tail, pick_scores, repeated
from onnxplain.model.runtime.noise import Noise
from onnxplain.model.runtime.sessions import Cancellation, Session

Floats = NDArray[np.float32]
Source = Literal["exact", "finite-difference", "none"]

COTANGENT = "cotangent"
_TAIL_BATCH = 32
# How many times as much the right half of a map must change as the left, when the right half of the picture changes. Measured: 0.7
# to 1.3 for patches in a wrong order, 2.7 and more in the right one.
_SHARP = 2.0
_STEP = 1e-2  # step of a finite difference, in standard deviations of the activations


def seeds(targets: Sequence[int]) -> dict[str, Any]:
    """What tells a gradient session which score to differentiate, one a picture."""
    return {TARGETS: np.array(targets, np.int64), COTANGENT: np.ones(len(targets), np.float32)}


@dataclass(frozen=True)
class LayerGradient:
    """What the model did at a layer.

    Attributes:
        scores: f32[k], before softmax.
        activations: f32[c, u, v].
        gradient: f32[t, c, u, v], of each target's score. From finite differences it is each channel's mean, everywhere.
        source: where the gradient comes from.
    """

    scores: Floats
    activations: Floats
    gradient: Floats
    source: Source


@dataclass(frozen=True)
class LayerSessions:
    """The sessions around a layer: `head` makes it and what crosses beside it, `tail` makes scores of these.

    `head` is None where the main session shows the layer, `gradient` where an operator behind the layer has no rule; only
    then is `tail` sure to be there. `straight_through`: the gradient passes rounding with slope one. `rounded`: there is no rule, and
    whole numbers lie between layer and score, on which a small step has no effect.
    """

    candidate: Candidate
    crossing: tuple[str, ...]
    gradient: Session | None = None
    gradient_name: str = ""
    head: Session | None = None
    tail: Session | None = None
    straight_through: bool = False
    rounded: bool = False

    @property
    def source(self) -> Source:
        """Where the gradient comes from."""
        return "exact" if self.gradient is not None else "none" if self.rounded else "finite-difference"


def tail_sessions(
    picture: PictureGraph,
    candidate: Candidate,
    weights: Mapping[str, TensorProto],
    cancellation: Cancellation,
    threads: int,
) -> LayerSessions:
    """The sessions behind a layer: its gradient, or where a rule is missing, the tail alone for finite differences."""
    part = cut_tail(picture, candidate.name)
    model = part.model(weights)
    try:
        pick_scores(model, picture.score)
        found = differentiate(model, PICKED, [candidate.name], COTANGENT)
    except UnsupportedOperator:
        tail = Session(part.model(weights), cancellation, threads)
        between = picture.graph.between(candidate.name, picture.score)
        rounded = any(picture.graph.element_type(name) not in FLOATS for name in between)
        return LayerSessions(candidate, part.crossing, tail=tail, rounded=rounded)
    name = found.gradients[candidate.name]
    # Without the scores among its outputs, a linear head is not run forward again.
    model = trim(found.model, [value for value in found.model.graph.output if value.name == name])
    session = Session(model, cancellation, threads)
    return LayerSessions(candidate, part.crossing, session, name, straight_through=found.straight_through)


def halves(session: Session, picture: PictureGraph, names: Sequence[str]) -> list[tuple[Floats, Floats]]:
    """What these tensors are for a picture of noise, and for the same with another right half."""
    sides = picture.graph.types[picture.source].type.tensor_type.shape.dim[1:]
    columns = 2 if picture.spec.layout == "NHWC" else 3
    x = Noise().standard((2, *(dim.dim_value for dim in sides))).swapaxes(columns, -1)
    x[1, ..., : _middle(x)] = x[0, ..., : _middle(x)]
    rows = np.ascontiguousarray(x.swapaxes(columns, -1))
    return list(zip(*(session.run({picture.source: row[None]}, names) for row in rows), strict=True))


def in_place(readings: Sequence[Candidate], before: Floats, after: Floats) -> Candidate | None:
    """The reading of a layer whose places are those of the picture, None if none is.

    Of a sequence of patches the graph does not say which axis it is, nor in what order they stand: some networks sort them by
    windows. Where the right half of a picture changes, the right half of the maps has to change more than the left.

    Args:
        readings: of one tensor.
        before: the tensor for a picture.
        after: the tensor for the same with another right half.
    """

    def sharpness(candidate: Candidate) -> float:
        maps = (candidate.layout.to_maps(tensor)[0].astype(np.float32) for tensor in (before, after))
        moved = np.abs(np.subtract(*maps)).mean(axis=0)
        return float(moved[:, _middle(moved) :].mean() / max(moved[:, : _middle(moved)].mean(), 1e-30))

    return max((c for c in readings if sharpness(c) > _SHARP), key=sharpness, default=None)


def _middle(maps: Floats) -> int:
    """Where the right half begins."""
    width: int = maps.shape[-1]
    return width - width // 2


class LayerRun:
    """One picture run up to a layer, and what can be asked there without running the head again.

    Attributes:
        scores: f32[k] of the unchanged picture.
        activations: f32[c, u, v].

    Args:
        sessions: around the layer.
        tensors: of the layer and what crosses beside it.
        scores: of the picture.
        types: of these tensors.
        tail: gives the session from the layer to the scores.
        batched: whether several pictures fit into one run.
    """

    def __init__(
        self,
        sessions: LayerSessions,
        tensors: Mapping[str, Floats],
        scores: Floats,
        types: Mapping[str, ValueInfoProto],
        tail: Callable[[], Session],
        *,
        batched: bool,
    ) -> None:
        self._sessions = sessions
        self._types = types
        self._tail = tail
        self._batched = batched
        self._tensors = tensors
        self._layout = sessions.candidate.layout
        self.scores = scores
        maps = self._layout.to_maps(tensors[sessions.candidate.name])[0]
        self.activations: Floats = np.ascontiguousarray(maps, np.float32)  # a model may compute in half precision

    @property
    def source(self) -> Source:
        """Where `gradient` comes from."""
        return self._sessions.source

    def gradient(self, targets: Sequence[int]) -> Floats:
        """f32[t, c, u, v]: the gradient of each target's score with respect to the activations, all in one run.

        Raises:
            MethodNotApplicable: an operator behind the layer has no rule, and rounding makes differences meaningless.
        """
        session = self._sessions.gradient
        if self._sessions.rounded:
            raise MethodNotApplicable(
                "Behind this layer the model computes with whole numbers by operators that have no gradient rule; use "
                "ablationcam or scorecam, or export the model with QuantizeLinear and DequantizeLinear (QDQ)."
            )
        if session is None:
            return self._mean_gradient(targets)
        parts = []
        for group in [list(targets)] if self._batched else [[target] for target in targets]:
            feeds = self._feeds(len(group)) | seeds(group)
            parts.append(self._layout.to_maps(session.run(feeds, [self._sessions.gradient_name])[0]))
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts), np.float32)

    def tail(self, maps: Floats) -> Floats:
        """f32[m, k]: the scores if the layer's activations were `maps` f32[m, c, u, v]."""
        session = self._tail()
        own = self._tensors[self._sessions.candidate.name]
        step = _TAIL_BATCH if self._batched else 1
        parts = []
        for start in range(0, len(maps), step):
            group = maps[start : start + step]
            changed = self._layout.from_maps(group.astype(own.dtype, copy=False), own)
            feeds = self._feeds(len(group)) | {self._sessions.candidate.name: changed}
            parts.append(session.run({name: feeds[name] for name in session.inputs})[0])
        return np.concatenate(parts)

    def _feeds(self, times: int) -> dict[str, Floats]:
        return {name: repeated(tensor, self._types[name], times) for name, tensor in self._tensors.items()}

    def _mean_gradient(self, targets: Sequence[int]) -> Floats:
        """Each channel's mean gradient by central differences of the tail: two runs a channel, not two an activation.

        A step on a whole channel is a directional derivative, `d/de Y(A + e 1_c) = sum_uv G_c`, and Grad-CAM asks for no more.
        """
        activations = self.activations
        c, u, v = activations.shape
        step = np.float32(_STEP * float(activations.std()) or _STEP)
        slopes = np.empty((c, len(targets)), np.float32)
        channels = max(1, _TAIL_BATCH // 2)
        for start in range(0, c, channels):
            chosen = range(start, min(start + channels, c))
            moved = np.repeat(activations[None], 2 * len(chosen), axis=0)
            for row, channel in enumerate(chosen):
                moved[2 * row, channel] += step
                moved[2 * row + 1, channel] -= step
            scores = self.tail(moved)[:, list(targets)]
            slopes[start : start + len(chosen)] = (scores[::2] - scores[1::2]) / (2 * step)
        mean = slopes.T / np.float32(u * v)
        return np.ascontiguousarray(np.broadcast_to(mean[:, :, None, None], (len(targets), c, u, v)))
