"""A picture model in a worker: predictions, gradients at a layer or at the input, and what a layer's change does to the score.

One session serves predictions and the default layer: it runs the whole graph once and shows the layer beside the scores, which
costs no fusion, since the layer lies behind its activation. What lies behind the layer is small; its gradient runs in a second
session. Every other layer, and the gradient at the input, get sessions of their own when they are first asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from onnxplain.autodiff import differentiate
from onnxplain.facts.cards import Layer, ModelCard
from onnxplain.facts.errors import LayerNotFound, MethodNotApplicable, UnsupportedOperator
from onnxplain.model.graphs.graph import trim, weights_of
from onnxplain.model.meaning.preparation import PictureGraph
from onnxplain.model.pictures.biases import biases_of
from onnxplain.model.pictures.explainer_file import explainer_file
from onnxplain.model.pictures.layer_run import (
    COTANGENT,
    LayerGradient,
    LayerRun,
    LayerSessions,
    halves,
    in_place,
    seeds,
    tail_sessions,
)
from onnxplain.model.pictures.layers import Candidate, SpatialLayers
from onnxplain.model.pictures.tails import PICKED, cut_head, cut_tail, pick_scores
from onnxplain.model.runtime.sessions import Cancellation, Session, release_memory

Floats = NDArray[np.float32]

_KEPT_LAYERS = 2  # sessions of layers other than the default one


@dataclass(frozen=True)
class InputGradient:
    """Scores f32[n, k], and f32[n, c, h, w]: the gradient of each picture's target with respect to the picture."""

    scores: Floats
    gradient: Floats


@dataclass(frozen=True)
class BiasGradients:
    """Of one picture: the gradient of the target's score f32[ch, h, w] at the input, each layer's bias f32[c], and the gradient
    f32[c, u, v] at that layer's output.
    """  # noqa: D205

    gradient: Floats
    biases: list[Floats]
    gradients: list[Floats]


class ImageModel:
    """A loaded picture model. Pictures are always f32[n, c, h, w] in the model's channel order; scores f32[n, k].

    Made by `onnxplain.model.pictures.loading`.
    """

    def __init__(
        self,
        card: ModelCard,
        picture: PictureGraph,
        finder: SpatialLayers,
        main: Session,
        default: LayerSessions | None,
        read: Callable[[], ModelProto],
        cancellation: Cancellation,
        threads: int,
    ) -> None:
        self.card = card
        self.batched = picture.batched
        self._types = picture.graph.types
        self.cancellation = cancellation
        self._picture = picture
        self._finder = finder
        self._main = main
        self._default = default
        self._read = read
        self._threads = threads
        self._layers: OrderedDict[str, LayerSessions] = OrderedDict()
        self._tails: OrderedDict[str, Session] = OrderedDict()
        self._input_gradient: tuple[Session, str] | None = None
        self._bias_gradients: tuple[Session, list[str], list[Floats]] | None = None

    def predict(self, x: Floats) -> Floats:
        """Scores f32[n, k] of pictures f32[n, c, h, w]."""
        parts = [
            self._main.run({self._picture.source: self._laid_out(part)}, [self._picture.score])[0]
            for part in self._runs(x)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def probabilities(self, scores: Floats) -> Floats | None:
        """What the model makes of scores f32[n, k]: softmax or sigmoid; None for a regression."""
        if self._picture.activation == "none":
            return None
        if self._picture.activation == "sigmoid":
            return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)), np.float32)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)

    def at_layer(self, x: Floats, layer: str | None = None) -> LayerRun:
        """Run one picture f32[1, c, h, w] and stop at a layer (default: the model's default layer).

        Raises:
            LayerNotFound: there is no such layer, or it has no height and width.
            MethodNotApplicable: the model has no layer with height and width at all.
        """
        sessions = self._sessions(layer)
        names = [sessions.candidate.name, *sessions.crossing]
        feeds = {self._picture.source: self._laid_out(x)}
        if sessions.head is None:
            scores, *tensors = self._main.run(feeds, [self._picture.score, *names])
            return self._run(sessions, dict(zip(names, tensors, strict=True)), scores[0])
        found = dict(zip(names, sessions.head.run(feeds, names), strict=True))
        behind = self._tail_session(sessions)
        scores = behind.run({name: found[name] for name in behind.inputs})[0]
        return self._run(sessions, found, scores[0])

    def layer_gradient(self, x: Floats, layer: str | None, targets: Sequence[int]) -> LayerGradient:
        """Scores, activations and the gradient of each target at a layer, for one picture f32[1, c, h, w]."""
        run = self.at_layer(x, layer)
        return LayerGradient(run.scores, run.activations, run.gradient(targets), run.source)

    def input_gradient(self, x: Floats, targets: Sequence[int]) -> InputGradient:
        """The scores, and the gradient of one target's score a picture with respect to that picture; a target of -1 is the top class.

        Raises:
            MethodNotApplicable: an operator of the model has no gradient rule.
        """
        if self._input_gradient is None:
            session, names = self._differentiated([self._picture.source], self._weights())
            self._input_gradient = session, names[0]
            release_memory()
        session, gradient_name = self._input_gradient
        scores, gradients, start = [], [], 0
        for part in self._runs(x):
            feeds = self._seeded(session, part, targets[start : start + len(part)])
            found = session.run(feeds, [self._picture.score, gradient_name])
            scores.append(found[0])
            gradients.append(self._channels_first(found[1]))
            start += len(part)
        return InputGradient(np.concatenate(scores), np.ascontiguousarray(np.concatenate(gradients)))

    def bias_gradients(self, x: Floats, target: int) -> BiasGradients:
        """Gradients at the input and at every layer with a bias, for one picture f32[1, c, h, w].

        Raises:
            MethodNotApplicable: an operator of the model has no gradient rule.
        """
        if self._bias_gradients is None:
            weights = self._weights()
            biases = biases_of(self._picture, weights)
            session, names = self._differentiated([self._picture.source, *biases], weights)
            self._bias_gradients = session, names, list(biases.values())
            release_memory()
        session, names, values = self._bias_gradients
        gradient, *gradients = session.run(self._seeded(session, x, [target]), names)
        return BiasGradients(self._channels_first(gradient)[0], values, [found[0] for found in gradients])

    def explainer_file(self, method: str) -> bytes:
        """This model with the maps of `method` at its default layer, as one ONNX file.

        Raises:
            MethodNotApplicable: no such file can be made.
        """
        candidate = self._default.candidate if self._default is not None else None
        try:
            return explainer_file(self._picture, candidate, method, self._weights(), self.card)
        except UnsupportedOperator as error:
            raise MethodNotApplicable(
                f"{error} So no explainer file can be made of model '{self.card.name}'."
            ) from error

    def layer(self, name: str | None) -> Layer:
        """The facts of a layer, listed on the card or not."""
        candidate = self._sessions(name).candidate
        listed = next((layer for layer in self.card.layers if layer.name == candidate.name), None)
        return listed or Layer(candidate.name, candidate.shape, candidate.operator)

    def _run(self, sessions: LayerSessions, tensors: Mapping[str, Floats], scores: Floats) -> LayerRun:
        return LayerRun(
            sessions, tensors, scores, self._types, lambda: self._tail_session(sessions), batched=self.batched
        )

    def _tail_session(self, sessions: LayerSessions) -> Session:
        """A session from the layer to the scores, without gradient."""
        if sessions.tail is not None:
            return sessions.tail
        name = sessions.candidate.name
        if name not in self._tails:
            while len(self._tails) > _KEPT_LAYERS:
                self._tails.popitem(last=False)
            part = cut_tail(self._picture, name)
            self._tails[name] = Session(part.model(self._weights()), self.cancellation, self._threads)
        return self._tails[name]

    def _weights(self) -> Mapping[str, TensorProto]:
        """The weights, read from the file again: between requests only the sessions hold them."""
        return weights_of(self._read()) | self._picture.graph.weights

    def _runs(self, x: Floats) -> list[Floats]:
        return [x] if self.batched or len(x) == 1 else [x[i : i + 1] for i in range(len(x))]

    def _laid_out(self, x: Floats) -> Floats:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if self._picture.spec.layout == "NHWC" else x

    def _sessions(self, name: str | None) -> LayerSessions:
        if self._default is not None and name in {None, self._default.candidate.name}:
            return self._default
        if name is None:
            raise MethodNotApplicable(
                f"Model '{self.card.name}' has no layer with height and width that its score depends on, so there is nothing "
                "to map; use a method that works on the input, such as occlusion."
            )
        if name in self._layers:
            self._layers.move_to_end(name)
            return self._layers[name]
        readings = self._finder.readings(name)
        if not readings:
            known = ", ".join(f"'{layer.name}'" for layer in self.card.layers[-5:])
            raise LayerNotFound(
                f"'{name}' is not a layer of model '{self.card.name}' with height, width and a way to the score; use one that "
                f"GET /v1/models/{self.card.name} lists{f', such as {known}' if known else ''}."
            )
        weights = self._weights()
        sessions = tail_sessions(self._picture, readings[0], weights, self.cancellation, self._threads)
        head = Session(cut_head(self._picture, name, sessions.crossing, weights), self.cancellation, self._threads)
        candidate: Candidate | None = readings[0]
        if not self._finder.is_sure(name):
            (pair,) = halves(head, self._picture, [name])
            candidate = in_place(readings, *pair)
        if candidate is None:
            raise LayerNotFound(
                f"The places of '{name}' do not stand as they do in the picture, so no heatmap can be laid over it; use the "
                "default layer."
            )
        sessions = replace(sessions, candidate=candidate, head=head)
        while len(self._layers) >= _KEPT_LAYERS:
            self._layers.popitem(last=False)
        self._layers[name] = sessions
        del weights, head
        release_memory()
        return sessions

    def _channels_first(self, gradient: Floats) -> Floats:
        return gradient.transpose(0, 3, 1, 2) if self._picture.spec.layout == "NHWC" else gradient

    def _seeded(self, session: Session, x: Floats, targets: Sequence[int]) -> dict[str, Any]:
        feeds = {self._picture.source: self._laid_out(x), **seeds(targets)}
        return {name: feeds[name] for name in session.inputs}

    def _differentiated(self, tensors: Sequence[str], weights: Mapping[str, TensorProto]) -> tuple[Session, list[str]]:
        """A session of the whole model that gives the scores and the gradient of one of them at these tensors; the gradients' names."""
        picture = self._picture
        graph = picture.graph
        whole = graph.extract([graph.types[picture.source]], [graph.types[picture.score]], weights)
        # Each copy that is still held when the runtime makes its own counts towards what a worker must have.
        del weights
        pick_scores(whole, picture.score, keep=True)
        try:
            found = differentiate(whole, PICKED, tensors, COTANGENT)
        except UnsupportedOperator as error:
            raise MethodNotApplicable(
                f"{error} So the gradient at the input of model '{self.card.name}' is not known; use gradcam, or a method "
                "that only runs the model, such as occlusion."
            ) from error
        del whole
        names = [found.gradients[tensor] for tensor in tensors]
        gradients = [value for value in found.model.graph.output if value.name in names]
        model = trim(found.model, [graph.types[picture.score], *gradients])
        del found
        return Session(model, self.cancellation, self._threads), names
