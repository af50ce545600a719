"""The two halves of a picture model around a layer: the head makes the layer, the tail makes scores of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxplain.model.graphs.graph import BATCH, Graph, assemble, reads, trim
from onnxplain.model.meaning.preparation import PictureGraph

TARGETS = "targets"
PICKED = "picked"
_BATCH_TENSOR = "onnxplain_batch"


@dataclass(frozen=True)
class Tail:
    """The part of a model from a layer to the scores.

    Attributes:
        picture: the whole.
        layer: name of the layer's tensor.
        crossing: tensors that reach the score beside the layer, such as a skip connection; none where the layer is a cut.
        nodes: of the part, in order.
        constants: weights that the part needs beside those of the whole.
    """

    picture: PictureGraph
    layer: str
    crossing: tuple[str, ...]
    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, TensorProto]

    def model(self, weights: Mapping[str, TensorProto]) -> ModelProto:
        """The part as a model: its inputs are the layer and what crosses, its output the scores."""
        graph = self.picture.graph
        inputs = [graph.types[name] for name in (self.layer, *self.crossing)]
        outputs = [graph.types[self.picture.score]]
        return assemble(graph.model, self.nodes, inputs, outputs, {**weights, **self.constants}, graph.types)


def cut_tail(picture: PictureGraph, layer: str) -> Tail:
    """The part of a model behind `layer`.

    Sizes that the tail would read from tensors before the layer, or from the picture itself, are worked out from the layer's
    own batch size, so that the tail can run on another batch than the head.
    """
    graph = picture.graph
    downstream = graph.reached_from([layer], through_shapes=False)
    moving = graph.reached_from([picture.source], through_shapes=False)
    wanted: set[str] = set()
    crossing: dict[str, None] = {}
    replaced: dict[str, list[NodeProto]] = {}
    constants: dict[str, TensorProto] = {}
    waiting = [picture.score]
    while waiting:
        name = waiting.pop()
        node = graph.producer.get(name)
        if name in wanted or name == layer or node is None:
            continue
        if name not in downstream and name in moving:
            crossing[name] = None
            continue
        wanted.add(name)
        if node.op_type == "Shape" and node.input[0] not in downstream:
            if node.output[0] not in replaced:
                replaced[node.output[0]] = _sizes(graph, node, constants)
            continue
        waiting += reads(node)
    nodes: list[NodeProto] = []
    for node in graph.model.graph.node:
        if wanted.intersection(node.output):
            nodes += replaced.get(node.output[0], [node])
    if any(_BATCH_TENSOR in node.input for node in nodes):
        axis = _batch_axis(graph.types[layer])
        batch = helper.make_node("Shape", [layer], [_BATCH_TENSOR], name=_BATCH_TENSOR, start=axis, end=axis + 1)
        nodes.insert(0, batch)
    return Tail(picture, layer, tuple(crossing), tuple(nodes), constants)


def cut_head(
    picture: PictureGraph, layer: str, crossing: tuple[str, ...], weights: Mapping[str, TensorProto]
) -> ModelProto:
    """The part of a model that makes `layer`, and what else its tail needs."""
    graph = picture.graph
    outputs = [graph.types[name] for name in (layer, *crossing)]
    return graph.extract([graph.types[picture.source]], outputs, weights)


def pick_scores(model: ModelProto, score: str, *, keep: bool = False) -> None:
    """Let a model compute one score f32[n] a picture, the tensor `picked`, from its class in the new input `targets` i64[n].

    Where the scores end in a linear layer, `x W + b`, the wanted one is `sum_j x_j W_jt`: its gradient reads one row of W, where the
    scores' own would read all of it, and the bias does not matter.

    Args:
        model: changed in place.
        score: the scores f32[n, k].
        keep: let the model compute these, too; a negative target then asks for the top class.
    """
    graph = Graph(model)
    names = [f"{PICKED}_{part}" for part in ("top", "open", "wanted", "rows", "columns", "product", "one", "zero")]
    top, is_open, wanted, rows, columns, product, one, zero = names
    nodes = []
    if keep:
        nodes += [
            helper.make_node("ArgMax", [score], [top], axis=1, keepdims=0),
            helper.make_node("Less", [TARGETS, zero], [is_open]),
            helper.make_node("Where", [is_open, top, TARGETS], [wanted]),
        ]
    else:
        wanted = TARGETS
    end = _linear_end(graph, score)
    if end is None:
        nodes += [
            helper.make_node("Unsqueeze", [wanted, one], [columns]),
            helper.make_node("GatherElements", [score, columns], [product], axis=1),
            helper.make_node("Squeeze", [product, one], [PICKED]),
        ]
    else:
        x, weight, turned = end
        if turned:
            nodes.append(helper.make_node("Gather", [weight, wanted], [rows], axis=0))
        else:
            nodes.append(helper.make_node("Gather", [weight, wanted], [columns], axis=1))
            nodes.append(helper.make_node("Transpose", [columns], [rows], perm=[1, 0]))
        nodes.append(helper.make_node("Mul", [x, rows], [product]))
        nodes.append(helper.make_node("ReduceSum", [product, one], [PICKED], keepdims=0))
    for name, value in ((one, 1), (zero, 0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    model.graph.node.extend(nodes)
    model.graph.input.append(helper.make_tensor_value_info(TARGETS, TensorProto.INT64, [BATCH]))
    kept = [value for value in model.graph.output if keep and value.name == score]
    trim(model, [*kept, helper.make_tensor_value_info(PICKED, TensorProto.FLOAT, [BATCH])])


def _linear_end(graph: Graph, score: str) -> tuple[str, str, bool] | None:
    """Input and weights `[d, k]` of the linear layer that makes the scores, and whether these are `[k, d]`; None for another end."""
    last = graph.producer[score]
    if last.op_type == "Add":
        last = next((graph.producer[name] for name in last.input if name in graph.producer), last)
    options = {a.name: a.i if a.name.startswith("trans") else a.f for a in last.attribute}
    is_linear = last.op_type == "MatMul" or (
        last.op_type == "Gemm" and not options.get("transA", 0) and options.get("alpha", 1.0) == 1.0
    )
    if not is_linear or len(last.input) < 2 or len(graph.shape(last.input[0]) or ()) != 2:
        return None
    weight = graph.weights.get(last.input[1])
    if weight is None or len(weight.dims) != 2:
        return None
    return last.input[0], weight.name, bool(options.get("transB", 0))


def repeated(tensor: np.ndarray, value: ValueInfoProto, times: int) -> np.ndarray:
    """The tensor with its one picture repeated along the batch axis; itself where it has none."""
    names = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    return np.repeat(tensor, times, axis=names.index(BATCH)) if times > 1 and BATCH in names else tensor


def _batch_axis(value: ValueInfoProto) -> int:
    names = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    return names.index(BATCH) if BATCH in names else 0


def _sizes(graph: Graph, node: NodeProto, constants: dict[str, TensorProto]) -> list[NodeProto]:
    """Nodes that give what `node`, a Shape, gives: static lengths as they are, the batch from the layer.

    A length that follows the batch in another way is left to the Shape itself.
    """
    bounds = {a.name: a.i for a in node.attribute}
    shape = graph.shape(node.input[0])
    if shape is None or any(length is None for length in shape):
        return [node]
    output = node.output[0]
    parts = []
    for axis, length in enumerate(shape[bounds.get("start", 0) : bounds.get("end", len(shape))]):
        if isinstance(length, int):
            part = f"{output}_{axis}"
            constants[part] = numpy_helper.from_array(np.array([length], np.int64), part)
            parts.append(part)
        else:
            parts.append(_BATCH_TENSOR)
    return [helper.make_node("Concat", parts, [output], name=f"{output}_sizes", axis=0)]
