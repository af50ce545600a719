"""The fast way for models that are one tree ensemble with something before and after it.

What comes before (scalers, imputers, encoders) and after (labels, links) stays with the runtime; the trees between them
are walked by `TreeEvaluator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxplain.explainers.evaluators.tree_ensemble import TreeEnsemble, mean_depth
from onnxplain.model.graphs.graph import Graph
from onnxplain.model.runtime.sessions import Cancellation, Session
from onnxplain.model.tables.front import Front, cut_before, origin
from onnxplain.model.tables.trees import OPERATORS, read_ensemble

_NS_STEP = 5.0  # measured nanoseconds for one row, tree and repeat at one level of the tree
_NS_MOVED = 2.0  # measured nanoseconds more at each level for each level below, for rows that left their path


@dataclass(frozen=True)
class TreeModel:
    """A graph cut at its tree ensemble.

    Attributes:
        ensemble: the trees.
        front: computes what the trees see.
        labels: what the ensemble's label output says for each class; None for a regression.
        label: name of that output; empty for a regression.
        scores: name of its score output.
        tail: computes the model's outputs from these two; None where they are the outputs.
    """

    ensemble: TreeEnsemble
    front: Front
    labels: NDArray[Any] | None
    label: str
    scores: str
    tail: Session | None

    def outputs(self, sums: NDArray[np.float32], wanted: Sequence[str]) -> list[NDArray[Any]]:
        """The model's outputs from the sums of leaves, float32[m, planes]."""
        scores, classes = self.ensemble.finish(sums)
        made: dict[str, NDArray[Any]] = {self.scores: scores}
        if classes is not None and self.labels is not None:
            made[self.label] = self.labels[classes]
        if self.tail is None:
            return list(made.values())[: len(wanted)]
        return self.tail.run({name: made[name] for name in self.tail.inputs}, wanted)

    def is_faster(self, n_features: int, row_ms: float) -> bool:
        """Whether walking is expected to take less time than predicting each of `n_features` permuted copies."""
        depth = mean_depth(self.ensemble.trees)
        walk = len(self.ensemble.trees) * depth * (_NS_STEP + _NS_MOVED * depth)
        return walk < n_features * row_ms * 1e6


def cut_at_trees(
    model: ModelProto, scores: Sequence[str], label: str | None, cancellation: Cancellation
) -> TreeModel | None:
    """Cut the graph at its only tree ensemble; None where it has none, several, or one that is not supported.

    Args:
        model: with outputs `scores` and `label`.
        scores: the outputs that hold scores.
        label: the output that holds the predicted label.
        cancellation: stops the runs of both other parts.
    """
    graph = Graph(model)
    outputs = [*scores, *([label] if label else [])]
    needed = graph.needed_for(outputs)
    nodes = [n for n in model.graph.node if n.op_type in OPERATORS and any(name in needed for name in n.output)]
    if len(nodes) != 1 or not scores:
        return None
    node = nodes[0]
    source = node.input[0]
    classifier = node.op_type == "TreeEnsembleClassifier"
    score = node.output[1] if classifier else node.output[0]
    # What follows the trees must depend on nothing else.
    behind = graph.needed_for(outputs, stop=node.output)
    if behind & {value.name for value in graph.inputs}:
        return None
    width = _width(graph, source, node)
    ensemble = read_ensemble(node, width, cancellation.check)
    if ensemble is None:
        return None
    plain = [origin(graph, name) for name in outputs] == ([score, node.output[0]] if label else [score])
    tail = None if plain else _tail(graph, node, outputs, score, classifier, cancellation)
    return TreeModel(
        ensemble,
        cut_before(graph, source, cancellation),
        _labels(node) if classifier else None,
        node.output[0] if classifier else "",
        score,
        tail,
    )


def _width(graph: Graph, source: str, node: NodeProto) -> int:
    shape = graph.shape(source)
    features = next(attribute.ints for attribute in node.attribute if attribute.name == "nodes_featureids")
    used = max(features) + 1
    if shape is not None and len(shape) == 2 and isinstance(shape[1], int):
        return max(used, shape[1])
    return used


def _labels(node: NodeProto) -> NDArray[Any]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_int64s" and attribute.ints:
            return np.array(attribute.ints, dtype=np.int64)
        if attribute.name == "classlabels_strings" and attribute.strings:
            return np.array([text.decode() for text in attribute.strings], dtype=object)
    return np.empty(0, dtype=np.int64)


def _tail(
    graph: Graph, node: NodeProto, outputs: Sequence[str], score: str, classifier: bool, cancellation: Cancellation
) -> Session:
    values = [helper.make_tensor_value_info(score, TensorProto.FLOAT, [None, None])]
    if classifier:
        kind = TensorProto.STRING if _labels(node).dtype == object else TensorProto.INT64
        values.append(helper.make_tensor_value_info(node.output[0], kind, [None]))
    needed = graph.needed_for(outputs, stop=node.output)
    values = [value for value in values if value.name in needed]
    ends = [value for value in graph.model.graph.output if value.name in outputs]
    return Session(graph.extract(values, ends, graph.weights), cancellation, 1)
