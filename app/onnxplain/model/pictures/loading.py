"""From a graph to a loaded picture model: shapes, default layer, sessions, and a first run that proves them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxplain.autodiff import missing_rules
from onnxplain.autodiff.backward import QUANTISING
from onnxplain.facts.cards import GradientFact, Layer, ModelCard
from onnxplain.facts.errors import InputRefusedByModel, ModelRefused
from onnxplain.facts.methods import METHODS
from onnxplain.model.graphs.graph import Graph, assemble, trim, weights_of
from onnxplain.model.manifest import Identity, Manifest
from onnxplain.model.meaning.preparation import DEFAULT_SIZE, PictureGraph, picture_graph, tensor_facts
from onnxplain.model.pictures.layer_run import LayerSessions, Source, halves, in_place, seeds, tail_sessions
from onnxplain.model.pictures.layers import Candidate, SpatialLayers
from onnxplain.model.pictures.picture_model import ImageModel
from onnxplain.model.runtime.noise import Noise
from onnxplain.model.runtime.sessions import Cancellation, Session

SAMPLES = "samples"
_DEFAULT_TRIES = 12
SMALL = 1024  # elements of a weight that stays in memory; larger ones are read from the file when they are needed again
_BATCH_TOLERANCE = (
    1e-3  # largest difference of scores alone and in a batch, as a share of their range: rounding explains it
)


@dataclass(frozen=True)
class _Loaded:
    picture: PictureGraph
    finder: SpatialLayers
    candidates: list[Candidate]
    main: Session
    default: LayerSessions | None
    missing: tuple[str, ...]
    rounds: bool
    forward_ms: float


def load_image(
    model: ModelProto,
    manifest: Manifest,
    identity: Identity,
    folder: Path | None,
    read: Callable[[], ModelProto],
    cancellation: Cancellation,
    threads: int,
) -> ImageModel:
    """A picture model from its graph.

    Args:
        model: in the loading dialect; it is changed.
        manifest: what is said of it from outside.
        identity: name, version, hash.
        folder: where the model lies, None for a bare file.
        read: reads the same graph again, for sessions made later; meanwhile no copy of the weights is kept.
        cancellation: stops its runs.
        threads: threads inside one operator.

    Raises:
        ModelRefused: the graph cannot be used as a picture model.
    """
    inputs, outputs = tensor_facts(Graph(model).inputs), tensor_facts(model.graph.output)
    try:
        loaded = _load(model, manifest, cancellation, threads, batched=True) or _load(
            read(), manifest, cancellation, threads, batched=False
        )
    except ModelRefused as error:
        if manifest.image.size is not None or all(isinstance(length, int) for length in inputs[0].shape[1:]):
            raise
        height, width = DEFAULT_SIZE
        raise ModelRefused(
            f"{error} The graph leaves the picture's size open, and {height} x {width} was tried: if it takes another, set `size` "
            "under [image] in model.toml."
        ) from error
    assert loaded is not None  # one picture at a time always agrees with itself
    picture, default = loaded.picture, loaded.default
    source = default.source if default else "none" if loaded.missing else "exact"
    straight_through = default is not None and default.straight_through
    gradient = GradientFact(source, loaded.missing, straight_through or loaded.rounds)
    listed = list(loaded.candidates)
    if default and default.candidate not in listed:
        listed.append(default.candidate)
    layers = tuple(
        Layer(c.name, c.shape, c.operator, default=True, reason=_reason(c, manifest, cut=c in loaded.candidates))
        if default and c.name == default.candidate.name
        else Layer(c.name, c.shape, c.operator)
        for c in listed
    )
    card = ModelCard(
        name=identity.name,
        version=identity.version,
        sha256=identity.sha256,
        kind="image",
        task=manifest.task or "classification",
        description=manifest.description,
        inputs=inputs,
        outputs=outputs,
        score_output=picture.score,
        classes=picture.classes,
        image=picture.spec,
        layers=layers,
        gradient=gradient,
        explainers=_explainers(source if default else None, whole=not loaded.missing),
        samples=_samples(folder),
        warnings=picture.warnings,
        forward_ms=loaded.forward_ms,
    )
    return ImageModel(card, picture, loaded.finder, loaded.main, default, read, cancellation, threads)


def _load(
    model: ModelProto, manifest: Manifest, cancellation: Cancellation, threads: int, *, batched: bool
) -> _Loaded | None:
    """Sessions and facts; None if several pictures in one run do not get the scores that each gets alone."""
    in_file = {tensor.name for tensor in model.graph.initializer if math.prod(tensor.dims) > SMALL}
    picture = picture_graph(model, manifest, batched=batched)
    graph, weights = picture.graph, weights_of(model)
    missing = tuple(f"{rule.operator} at {rule.node}" for rule in missing_rules(model, picture.score, [picture.source]))
    finder = SpatialLayers(graph, picture.source, picture.score, picture.spec.size)
    candidates = finder.candidates()
    cuts = {candidate.name for candidate in candidates}
    # When branches meet only after their last maps, no single tensor cuts the graph. The last tensors of the branches are then tried.
    others = [candidate for candidate in finder.all() if candidate.name not in cuts][-_DEFAULT_TRIES:]
    unsure = [c.name for c in (*candidates, *others) if not finder.is_sure(c.name)]
    if unsure:
        placed = _placed(picture, finder, unsure, weights, cancellation, threads)
        candidates, others = (
            [c for old in found if (c := placed.get(old.name, old))] for found in (candidates, others)
        )
    default = _default(picture, finder, candidates, others, manifest.layer, weights, cancellation, threads)
    shown = (picture.score, *((default.candidate.name, *default.crossing) if default else ()))
    main = Session(trim(model, [graph.types[name] for name in shown]), cancellation, threads)
    forward_ms, agrees = _try_out(main, picture)
    if not agrees:
        return None
    picture = replace(picture, graph=Graph(_without(model, in_file)))
    finder = SpatialLayers(picture.graph, picture.source, picture.score, picture.spec.size)
    rounds = any(node.op_type in QUANTISING for node in picture.graph.model.graph.node)
    return _Loaded(picture, finder, candidates, main, default, missing, rounds, forward_ms)


def _placed(
    picture: PictureGraph,
    finder: SpatialLayers,
    names: Sequence[str],
    weights: Mapping[str, TensorProto],
    cancellation: Cancellation,
    threads: int,
) -> dict[str, Candidate | None]:
    """For each of these tensors the reading that keeps the picture's places, None where there is none."""
    graph = picture.graph
    part = graph.extract([graph.types[picture.source]], [graph.types[name] for name in names], weights)
    content = part.SerializeToString()
    del part  # before the runtime makes its own copies
    session = Session(content, cancellation, threads, optimise=False)
    try:
        pairs = halves(session, picture, names)
    except InputRefusedByModel:
        return {}  # the first run of the whole will say why
    return {name: in_place(finder.readings(name), *pair) for name, pair in zip(names, pairs, strict=True)}


def _default(
    picture: PictureGraph,
    finder: SpatialLayers,
    candidates: list[Candidate],
    others: list[Candidate],
    wanted: str | None,
    weights: Mapping[str, TensorProto],
    cancellation: Cancellation,
    threads: int,
) -> LayerSessions | None:
    """Sessions for the manifest's layer, or the last candidate on whose places the score depends.

    Behind the last attention of a transformer only the class token counts: the patches are still there, but change nothing.
    """
    if wanted is not None:
        candidate = next((c for c in candidates if c.name == wanted), None) or finder.candidate(wanted)
        if candidate is None:
            names = ", ".join(f"'{c.name}'" for c in candidates[-5:])
            raise ModelRefused(
                f"`layer` under [gradcam] names '{wanted}', which is no tensor with height and width on the way to the score"
                f"{f'; the last candidates are {names}' if names else ''}."
            )
        return tail_sessions(picture, candidate, weights, cancellation, threads)
    for candidate in [*candidates[: -_DEFAULT_TRIES - 1 : -1], *others[::-1]]:
        sessions = tail_sessions(picture, candidate, weights, cancellation, threads)
        if _depends(picture, sessions):
            return sessions
    return None


def _depends(picture: PictureGraph, sessions: LayerSessions) -> bool:
    """Whether the score depends on the places of a layer, on noise."""
    noise = Noise()
    candidate = sessions.candidate
    feeds = {
        name: noise.standard(_lengths(picture.graph.types[name])).astype(
            helper.tensor_dtype_to_np_dtype(picture.graph.element_type(name))
        )
        for name in (candidate.name, *sessions.crossing)
    }
    if sessions.gradient is not None:
        seeded = feeds | seeds([0])
        gradient = sessions.gradient.run({name: seeded[name] for name in sessions.gradient.inputs})[0]
        return bool(candidate.layout.to_maps(gradient).any())
    assert sessions.tail is not None
    maps = noise.standard((2, 1, *candidate.shape))
    first, second = (
        sessions.tail.run(feeds | {candidate.name: candidate.layout.from_maps(m, feeds[candidate.name])})[0]
        for m in maps
    )
    return not np.array_equal(first, second)


def _lengths(value: ValueInfoProto) -> list[int]:
    """The tensor's shape for one picture."""
    return [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]


def _reason(candidate: Candidate, manifest: Manifest, *, cut: bool) -> str:
    if manifest.layer == candidate.name:
        return "Named under [gradcam] in model.toml."
    _, height, width = candidate.shape
    tokens = (
        f", read from a sequence of patches behind {candidate.layout.prefix} other tokens"
        if candidate.layout.prefix
        else ""
    )
    if not cut:
        return (
            "The last tensor with height and width on whose places the score depends, in one of several branches that meet "
            f"only without them: {height} x {width} places made by {candidate.operator}{tokens}."
        )
    return (
        "The last tensor through which everything passes that still has height and width, and on whose places the score "
        f"depends: {height} x {width} places made by {candidate.operator}{tokens}."
    )


def _without(model: ModelProto, names: Collection[str]) -> ModelProto:
    """The graph for later questions, without these weights. It is a copy: deleting from a message does not free its memory."""
    small = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in names}
    types = {value.name: value for value in model.graph.value_info}
    return assemble(model, model.graph.node, model.graph.input, model.graph.output, small, types)


def _try_out(main: Session, picture: PictureGraph) -> tuple[float, bool]:
    """Milliseconds of one picture's run, and whether two pictures in one run get the scores that each gets alone."""
    sides = picture.graph.types[picture.source].type.tensor_type.shape.dim[1:]
    noise = Noise()
    x = noise.standard((2, *(dim.dim_value for dim in sides)))
    try:
        first = main.run({picture.source: x[:1]}, [picture.score])[0]
        began = time.perf_counter()
        second = main.run({picture.source: x[1:]}, [picture.score])[0]
        forward_ms = (time.perf_counter() - began) * 1e3
    except InputRefusedByModel as error:
        raise ModelRefused(
            f"The model does not run on a picture of {list(picture.spec.size)} ({error}); correct `size` or `layout` under [image]."
        ) from error
    if not picture.batched:
        return forward_ms, True
    try:
        both = main.run({picture.source: x}, [picture.score])[0]
    except InputRefusedByModel:
        return forward_ms, False
    alone = np.concatenate([first, second])
    if both.shape != alone.shape:
        return forward_ms, False
    span = float(np.ptp(alone)) + float(np.abs(alone).max()) * 1e-3 + 1e-12
    return forward_ms, bool(np.abs(both - alone).max() <= _BATCH_TOLERANCE * span)


def _explainers(layer: Source | None, *, whole: bool) -> tuple[str, ...]:
    """The methods that fit.

    Args:
        layer: where the gradient at the default layer comes from, None where there is no such layer.
        whole: whether every operator up to the input has a gradient rule.
    """
    fits = {
        "layer-gradient": layer == "exact",
        "activations": layer is not None,
        "input-gradient": whole,
        "forward": True,
        "predictions": False,
    }
    return tuple(
        method.name
        for method in METHODS.values()
        if method.kind == "image" and (fits[method.needs] or (layer == "finite-difference" and method.channel_means))
    )


def _samples(folder: Path | None) -> tuple[str, ...]:
    if folder is None or not (folder / SAMPLES).is_dir():
        return ()
    return tuple(sorted(path.name for path in (folder / SAMPLES).iterdir() if path.is_file()))
