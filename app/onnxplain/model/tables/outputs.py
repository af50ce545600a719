"""What a table model answers: which outputs hold labels, probabilities or values, and what its classes are called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxplain.facts.cards import Task
from onnxplain.facts.errors import ModelRefused
from onnxplain.model.graphs.graph import Graph
from onnxplain.model.manifest import Manifest
from onnxplain.model.meaning.scores import FLOATS

Link = Literal["probabilities", "positive", "values", "one-hot"]
"""How scores are read: probabilities [n, k]; one column with that of the second class; regression values; labels only."""

_WHOLE = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.STRING, TensorProto.BOOL})
_TRANSPARENT = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_PICKERS = frozenset({"ArrayFeatureExtractor", "Gather", "LabelEncoder"})
PROBABILITIES = "onnxplain_probabilities"


@dataclass(frozen=True)
class Answer:
    """How the outputs of a graph are read.

    Attributes:
        task: classification or regression.
        link: how `scores` are read.
        scores: outputs with floats; more than one where each class has an output of its own.
        label: output with the predicted label, if there is one.
        classes: labels in the order of the scores, as the manifest or else the graph names them.
        graph_classes: the same as the graph's own label output names them.
        warnings: what a user should know.
    """

    task: Task
    link: Link
    scores: tuple[str, ...]
    label: str | None
    classes: tuple[str, ...]
    graph_classes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_answer(model: ModelProto, manifest: Manifest) -> Answer:
    """Cut dictionaries off the outputs (in place) and tell what is left.

    Raises:
        ModelRefused: the outputs are neither labels and probabilities nor numbers; or the classes do not fit them.
    """
    names = _cut_zipmaps(model)
    graph = Graph(model)
    scores = [value.name for value in model.graph.output if _element(value) in FLOATS]
    labels = [value.name for value in model.graph.output if _element(value) in _WHOLE]
    if manifest.score_output is not None:
        if manifest.score_output not in scores:
            raise ModelRefused(f"`score_output` names '{manifest.score_output}', but the float outputs are {scores}.")
        scores = [manifest.score_output]
    if not scores and not labels:
        raise ModelRefused(
            "The outputs are sequences or maps that hold no single table of scores (a model of several labels, perhaps); "
            "export it with options={'zipmap': False}, one model for each label."
        )
    label = labels[0] if labels else None
    if label is None and not (manifest.task == "classification" or manifest.classes or _ends_in(graph, scores[0])):
        return _values(model, scores, manifest)
    known = names or _class_names(graph, label or scores[0])
    answer = _classification(model, graph, scores, label, manifest, known)
    if label is not None and not known and _is_argmax(graph, label):
        return replace(answer, graph_classes=tuple(map(str, range(len(answer.classes)))))
    return answer


def _values(model: ModelProto, scores: list[str], manifest: Manifest) -> Answer:
    width = _width(model, scores[0])
    warnings = []
    if manifest.task is None and width is not None and width > 1:
        warnings.append(
            f"The output '{scores[0]}' is taken for {width} regression targets; if they are scores of classes, "
            'set task = "classification" in model.toml.'
        )
    if len(scores) > 1:
        warnings.append(
            f"The model has several outputs; '{scores[0]}' is explained. Set `score_output` for another one."
        )
    return Answer("regression", "values", (scores[0],), None, (), warnings=tuple(warnings))


def _classification(
    model: ModelProto, graph: Graph, scores: list[str], label: str | None, manifest: Manifest, known: tuple[str, ...]
) -> Answer:
    if not scores:
        classes = manifest.classes or known
        if len(classes) < 2:
            raise ModelRefused(
                "The model answers with labels only and does not say which there are; list `classes` in model.toml."
            )
        return Answer("classification", "one-hot", (), label, classes, _as_graph(known, classes))
    if len(scores) > 1 and len(scores) in {len(manifest.classes), len(known)}:  # one output for each class
        classes = manifest.classes or known
        return Answer("classification", "probabilities", tuple(scores), label, classes, _as_graph(known, classes))
    output = scores[0]
    if label is None and not _ends_in(graph, output):
        output = _append_activation(model, output, _width(model, output))
    width = _width(model, output) or len(manifest.classes or known)
    classes = manifest.classes or known or tuple(map(str, range(max(2, width))))
    if width == 1 and len(classes) == 2:
        return Answer("classification", "positive", (output,), label, classes, _as_graph(known, classes))
    # Some exporters declare one column where two come; the classes decide.
    if len(classes) < 2 or (manifest.classes and width > 1 and width != len(classes)):
        raise ModelRefused(
            f"The model gives {width} scores, but {len(classes)} classes are named; correct `classes` in model.toml."
        )
    return Answer("classification", "probabilities", (output,), label, classes, _as_graph(known, classes))


def _is_argmax(graph: Graph, label: str | None) -> bool:
    """Whether the label is the place of the greatest score, as ArgMax gives it: a number that is no class's name."""
    node = graph.producer.get(label or "")
    while node is not None and node.op_type in _TRANSPARENT:
        node = graph.producer.get(node.input[0])
    return node is not None and node.op_type == "ArgMax"


def _as_graph(known: tuple[str, ...], classes: tuple[str, ...]) -> tuple[str, ...]:
    """What the label output says for each class: the graph's own names, or those that stand for numbers 0 to k - 1."""
    if known and len(known) != len(classes):
        raise ModelRefused(
            f"The graph knows {len(known)} classes, but {len(classes)} are named; correct `classes` in model.toml."
        )
    return known or classes


def _cut_zipmaps(model: ModelProto) -> tuple[str, ...]:
    """Replace every ZipMap output by the tensor that it takes apart; returns its class names."""
    names: tuple[str, ...] = ()
    zipmaps = {node.output[0]: node for node in model.graph.node if node.op_type == "ZipMap"}
    outputs = list(model.graph.output)
    del model.graph.output[:]
    for value in outputs:
        node = zipmaps.get(value.name)
        if node is None:
            model.graph.output.append(value)
            continue
        names = _labels_of(node)
        model.graph.output.append(helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, [None, len(names)]))
        model.graph.node.remove(node)
    return names


def _labels_of(node: NodeProto) -> tuple[str, ...]:
    """`classlabels_int64s` or `classlabels_strings` (`_ints` in classifiers) of a node."""
    for attribute in node.attribute:
        if attribute.name in {"classlabels_int64s", "classlabels_ints", "classlabels_strings"}:
            labels = tuple(
                label.decode() if isinstance(label, bytes) else str(label)
                for label in helper.get_attribute_value(attribute)
            )
            if labels:
                return labels
    return ()


def _upstream(graph: Graph, name: str) -> Iterator[NodeProto]:
    """The nodes behind a tensor, nearest first."""
    seen, waiting = set(), [name]
    while waiting:
        node = graph.producer.get(waiting.pop(0))
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            yield node
            waiting += [source for source in node.input if source]


def _class_names(graph: Graph, output: str) -> tuple[str, ...]:
    """What the graph itself makes labels from: a classifier's own list, or a constant that an index picks from.

    Lists that names are picked from count only where nothing but picking lies between them and the output: further back stand the codes
    of an encoder at the model's input.
    """
    picking = {output}
    for node in _upstream(graph, output):
        if labels := _labels_of(node):
            return labels
        if picking.isdisjoint(node.output):
            continue
        if node.op_type in _TRANSPARENT | _PICKERS:
            picking.update(node.input)
        if (
            node.op_type in {"ArrayFeatureExtractor", "Gather"}
            and (tensor := graph.weights.get(node.input[0])) is not None
        ):
            values = numpy_helper.to_array(tensor).ravel()
            if values.dtype.kind in "iSUO" and len(values) > 1:
                return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist())
        if node.op_type == "LabelEncoder":
            for attribute in node.attribute:
                if attribute.name in {"values_strings", "values_int64s"}:
                    values = helper.get_attribute_value(attribute)
                    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
    return ()


def _ends_in(graph: Graph, output: str) -> bool:
    """Whether an activation makes probabilities of the scores just before the output."""
    node = graph.producer.get(output)
    while node is not None and node.op_type in _TRANSPARENT:
        node = graph.producer.get(node.input[0])
    return node is not None and (node.op_type in {"Softmax", "Sigmoid"} or bool(_labels_of(node)))


def _append_activation(model: ModelProto, output: str, width: int | None) -> str:
    """Probabilities of logits, as a new output in the place of the old one."""
    if width == 1:
        node = helper.make_node("Sigmoid", [output], [PROBABILITIES], name=PROBABILITIES)
    else:
        node = helper.make_node("Softmax", [output], [PROBABILITIES], name=PROBABILITIES, axis=-1)
    model.graph.node.append(node)
    for value in model.graph.output:
        if value.name == output:
            value.name = PROBABILITIES
    return PROBABILITIES


def _element(value: ValueInfoProto) -> Any:
    return value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else None


def _width(model: ModelProto, output: str) -> int | None:
    """Columns of an output as declared: 1 for [n], None where it is not said."""
    value = next(value for value in model.graph.output if value.name == output)
    shape = value.type.tensor_type.shape.dim
    if len(shape) == 1:
        return 1
    return shape[-1].dim_value or None if len(shape) == 2 and shape[-1].HasField("dim_value") else None


def class_indices(label: np.ndarray[Any, Any], classes: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Labels of the graph as indices into `classes`, intp[n].

    Raises:
        ModelRefused: the graph answers with a label that is no class.
    """
    flat = label.reshape(len(label), -1)[:, 0]
    numbered = flat.dtype.kind in "iu" and classes == tuple(map(str, range(len(classes))))
    if numbered and len(flat):
        indices = flat.astype(np.intp, copy=False)
        if indices.view(np.uintp).max() < len(classes):  # a negative index, read as unsigned, is huge
            return indices
    values, inverse = np.unique(flat, return_inverse=True)
    place = {name: index for index, name in enumerate(classes)}
    try:
        known = np.array([place[str(value)] for value in values.tolist()], dtype=np.intp)
    except KeyError as error:
        raise ModelRefused(
            f"The model answers with the label {error}, which is not one of its classes; list them as `classes` in model.toml."
        ) from None
    return known[inverse]
