"""The fast way for models that are one tree ensemble with something before and after it.

What comes before (scalers, imputers, encoders) and after (labels, links) stays with the runtime; the trees between them
are walked by `TreeEvaluator`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from app.explainers.permutation import Rows
from app.explainers.table import Table
from app.explainers.tree_ensemble import TreeEnsemble, mean_depth
from app.model.graph import Graph
from app.model.session import Cancellation, Session
from app.model.trees import OPERATORS, read_ensemble

_NS_STEP = 5.0  # a (row, tree, repeat) triple at one level, and
_NS_MOVED = 2.0  # what those that turn off add a level below it, both measured
_TRIAL_ROWS = 2048
_SILENT = frozenset({"Identity", "Cast"})


@dataclass(frozen=True)
class TreeModel:
    """A graph cut at its tree ensemble.

    Attributes:
        ensemble: the trees.
        head: computes what the trees see; None where they see the input itself.
        source: the tensor that they see.
        labels: what the ensemble's label output says for each class; None for a regression.
        label: name of that output; empty for a regression.
        scores: name of its score output.
        tail: computes the model's outputs from these two; None where they are the outputs.
    """

    ensemble: TreeEnsemble
    head: Session | None
    source: str
    labels: NDArray[Any] | None
    label: str
    scores: str
    tail: Session | None

    def seen(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """float32[n, columns]: what the trees see of these inputs."""
        seen: NDArray[np.float32] = feeds[self.source] if self.head is None else self.head.run(feeds, [self.source])[0]
        return seen

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
    inputs = {value.name: value for value in graph.inputs}
    direct = source in inputs and graph.element_type(source) == TensorProto.FLOAT
    classifier = node.op_type == "TreeEnsembleClassifier"
    score = node.output[1] if classifier else node.output[0]
    # What follows the trees must depend on nothing else.
    behind = graph.needed_for(outputs, stop=node.output)
    if behind & set(inputs):
        return None
    width = _width(graph, source, node)
    ensemble = read_ensemble(node, width)
    if ensemble is None:
        return None
    head = None
    if not direct:
        value = helper.make_tensor_value_info(source, TensorProto.FLOAT, [None, None])
        head = Session(graph.extract(list(graph.inputs), [value], graph.weights), cancellation, 1)
    plain = [_origin(graph, name) for name in outputs] == ([score, node.output[0]] if label else [score])
    tail = None if plain else _tail(graph, node, outputs, score, classifier, cancellation)
    return TreeModel(
        ensemble, head, source, _labels(node) if classifier else None, node.output[0] if classifier else "", score, tail
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


def _origin(graph: Graph, name: str) -> str:
    """The tensor behind copies of it."""
    while (node := graph.producer.get(name)) is not None and node.op_type in _SILENT:
        name = node.input[0]
    return name


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


def columns_read(
    trees: TreeModel, table: Table, feeds: Callable[[Table], dict[str, NDArray[Any]]], offsets: dict[str, int]
) -> dict[int, tuple[int, ...]] | None:
    """For each feature of the table the columns of the trees that it alone determines; None where columns mix features.

    Where something stands before the trees, each feature is permuted in some rows and the columns that change are taken for
    its own. Then all features are permuted at once, in all rows and each in its own order: every column must follow its
    feature, and those of no feature must stay as they are.
    """
    n_features = table.n_features
    if trees.head is None:
        first = offsets[trees.source]
        width = feeds(table)[trees.source].shape[1]
        return {j: (j - first,) if first <= j < first + width else () for j in range(n_features)}
    random = np.random.default_rng(0)
    some = table.take(random.permutation(table.n_rows)[:_TRIAL_ROWS])
    base, order = trees.seen(feeds(some)), random.permutation(some.n_rows)
    reads: dict[int, tuple[int, ...]] = {}
    for j in range(n_features):
        changed = trees.seen(feeds(_with_orders(some, {j: order})))
        reads[j] = tuple(np.flatnonzero(~_equal_columns(changed, base)).tolist())
    if len({column for columns in reads.values() for column in columns}) < sum(map(len, reads.values())):
        return None
    orders = {j: random.permutation(table.n_rows) for j in range(n_features)}
    expected = trees.seen(feeds(table)).copy()
    for j, columns in reads.items():
        expected[:, columns] = expected[orders[j]][:, columns]
    changed = trees.seen(feeds(_with_orders(table, orders)))
    return reads if _equal_columns(changed, expected).all() else None


def _equal_columns(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Columns in which all values are equal, or missing in both."""
    equal: NDArray[np.bool_] = ((a == b) | (np.isnan(a) & np.isnan(b))).all(axis=0)
    return equal


def _with_orders(table: Table, orders: dict[int, Rows]) -> Table:
    """The table with the values of some features in other orders of the rows."""
    changed = Table(tuple(block.copy() for block in table.blocks))
    for feature, order in orders.items():
        changed.column(feature)[:] = table.column(feature)[order]
    return changed
