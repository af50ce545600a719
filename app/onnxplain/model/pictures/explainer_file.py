"""A model and its explanation in one ONNX file: picture and class in, scores and heatmap out, in any ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxplain.autodiff import differentiate
from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Graph as ProbedGraph
from onnxplain.facts.cards import ModelCard
from onnxplain.facts.errors import MethodNotApplicable
from onnxplain.model.graphs.graph import all_nodes, trim
from onnxplain.model.meaning.preparation import PictureGraph
from onnxplain.model.pictures.layers import Candidate, Layout

PICTURE, TARGET, SCORES, HEATMAP = "picture", "target", "scores", "heatmap"
_COTANGENT = "onnxplain/cotangent"

Formula = Callable[[Emitter, str, str], str]


def _weighted_sum(op: Emitter, weights: str, activations: str) -> str:
    total: str = op.Relu(op.ReduceSum(op.Mul(weights, activations), [1], keepdims=0))
    return total


def _grad_cam(op: Emitter, A: str, G: str) -> str:
    return _weighted_sum(op, op.ReduceMean(G, [2, 3], keepdims=1), A)


def _hires_cam(op: Emitter, A: str, G: str) -> str:
    return _weighted_sum(op, G, A)


def _layer_cam(op: Emitter, A: str, G: str) -> str:
    return _weighted_sum(op, op.Relu(G), A)


def _grad_cam_plusplus(op: Emitter, A: str, G: str) -> str:
    squares = op.Mul(G, G)
    cubes = op.Mul(op.ReduceSum(A, [2, 3], keepdims=1), op.Mul(squares, G))
    # Where G is 0 so are its square and alpha.
    alpha = op.Div(squares, op.Add(op.Add(op.Mul(squares, 2.0), cubes), 1e-6))
    alpha = op.Where(op.Equal(G, 0.0), 0.0, alpha)
    return _weighted_sum(op, op.ReduceSum(op.Mul(alpha, op.Relu(G)), [2, 3], keepdims=1), A)


FORMULAS: dict[str, Formula] = {
    "gradcam": _grad_cam,
    "hirescam": _hires_cam,
    "layercam": _layer_cam,
    "gradcam-plusplus": _grad_cam_plusplus,
}
METHODS = (*FORMULAS, "saliency")


def explainer_file(
    picture: PictureGraph, candidate: Candidate | None, method: str, weights: Mapping[str, TensorProto], card: ModelCard
) -> bytes:
    """A model with the inputs `picture` (as the model takes it) and `target` i64[n], and the outputs `scores` f32[n, k] and
    `heatmap` f32[n, u, v]: the raw map, at the layer's size, or at the input's for saliency.

    A negative target asks for the top class. How a picture becomes the input stands in the metadata.

    Args:
        picture: the model.
        candidate: the layer to explain; not used by saliency.
        method: one of `METHODS`.
        weights: those of the model.
        card: what is written into the metadata.

    Raises:
        MethodNotApplicable: no such file for this method, no layer, or an operator that not every runtime has.
        UnsupportedOperator: an operator has no gradient rule.
    """  # noqa: D205
    if method not in METHODS:
        raise MethodNotApplicable(f"No explainer file is made for {method}; those are made for {', '.join(METHODS)}.")
    explained = picture.source if method == "saliency" else candidate.name if candidate else None
    if explained is None:
        raise MethodNotApplicable("This model has no layer with height and width; ask for method=saliency.")
    graph = picture.graph
    whole = graph.extract([graph.types[picture.source]], [graph.types[picture.score]], weights)
    inner = _make_room(whole)
    source, score, explained = (inner.get(name, name) for name in (picture.source, picture.score, explained))
    foreign = sorted({node.domain for node in whole.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise MethodNotApplicable(
            f"The model has operators of {', '.join(foreign)}, which not every ONNX runtime has; export it with standard ones."
        )
    model = differentiate(whole, score, [explained], _COTANGENT).model
    op = Emitter(ProbedGraph(model))
    _cotangent(op, score, len(picture.classes))
    asked, op.nodes = op.nodes, []
    gradient = f"gradient/{explained}"
    if method == "saliency":
        channels = 3 if picture.spec.layout == "NHWC" else 1
        heatmap = op.ReduceMax(op.Abs(gradient), [channels], keepdims=0)
        size = picture.spec.size
    else:
        assert candidate is not None
        names = [explained, gradient]
        if picture.graph.element_type(candidate.name) != TensorProto.FLOAT:
            names = [op.Cast(name, to=TensorProto.FLOAT) for name in names]
        maps, slopes = (_as_maps(op, name, candidate.layout, candidate.channels) for name in names)
        heatmap = FORMULAS[method](op, maps, slopes)
        size = candidate.layout.grid
    op.nodes.append(helper.make_node("Identity", [heatmap], [HEATMAP], HEATMAP))
    op.nodes.append(helper.make_node("Identity", [score], [SCORES], SCORES))
    nodes = list(model.graph.node)
    made = next(index for index, node in enumerate(nodes) if score in node.output)
    first = helper.make_node("Identity", [PICTURE], [source], PICTURE)
    del model.graph.node[:]
    model.graph.node.extend([first, *nodes[: made + 1], *asked, *nodes[made + 1 :], *op.nodes])
    model.graph.initializer.extend(op.constants.values())
    batch = "N" if picture.batched else 1
    _name_ends(model, picture, batch, size)
    for key, value in _metadata(method, explained, card).items():
        model.metadata_props.add(key=f"onnxplain.{key}", value=value)
    model.producer_name = "onnxplain"
    try:
        return model.SerializeToString()
    except ValueError as error:  # protobuf's own limit
        raise MethodNotApplicable(
            "Model and gradient together are larger than 2 GiB, more than one ONNX file can hold."
        ) from error


def _as_maps(op: Emitter, tensor: str, layout: Layout, channels: int) -> str:
    """The tensor as `[n, c, u, v]`, tokens before the patches left out."""
    order = [layout.batch, layout.channel, *layout.places]
    if order != sorted(order):
        tensor = op.Transpose(tensor, perm=order)
    if len(layout.places) == 1:
        if layout.prefix:
            tensor = op.Slice(tensor, [layout.prefix], [np.iinfo(np.int64).max], [2])
        tensor = op.Reshape(tensor, [-1, channels, *layout.grid])
    return tensor


def _make_room(model: ModelProto) -> dict[str, str]:
    """Rename, in place, tensors of the model that have one of the names that the file promises; old name to new."""
    renamed = {name: f"model/{name}" for name in (PICTURE, TARGET, SCORES, HEATMAP)}
    for node in all_nodes(model.graph):
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    graph = model.graph
    for part in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in part:
            value.name = renamed.get(value.name, value.name)
    return renamed


def _cotangent(op: Emitter, score: str, count: int) -> None:
    """Nodes that make the cotangent of class numbers; negative ones mean the top class."""
    top = op.ArgMax(score, axis=1, keepdims=0)
    wanted = op.Where(op.Less(TARGET, 0), top, TARGET)
    depth, values = op.name_of([count]), op.name_of(np.array([0, 1], np.float32))
    op.nodes.append(helper.make_node("OneHot", [wanted, depth, values], [_COTANGENT], _COTANGENT))


def _name_ends(model: ModelProto, picture: PictureGraph, batch: str | int, size: tuple[int, int]) -> None:
    """Give inputs and outputs the names and types that the file promises."""
    source = picture.graph.types[picture.source]
    sides = [dim.dim_value for dim in source.type.tensor_type.shape.dim][1:]
    del model.graph.input[:]
    model.graph.input.extend(
        [
            helper.make_tensor_value_info(PICTURE, TensorProto.FLOAT, [batch, *sides]),
            helper.make_tensor_value_info(TARGET, TensorProto.INT64, [batch]),
        ]
    )
    outputs: list[ValueInfoProto] = [
        helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [batch, len(picture.classes)]),
        helper.make_tensor_value_info(HEATMAP, TensorProto.FLOAT, [batch, *size]),
    ]
    trim(model, outputs)


def _metadata(method: str, explained: str, card: ModelCard) -> dict[str, str]:
    assert card.image is not None
    return {
        "method": method,
        "explained_tensor": explained,
        "model": card.name,
        "model_sha256": card.sha256,
        "classes": json.dumps(card.classes),
        "preprocessing": json.dumps(asdict(card.image)),
    }
