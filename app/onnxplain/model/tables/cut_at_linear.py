"""The fast way for models that are one linear map with something before and after it.

What comes before (scalers, imputers, encoders) and after (links, labels) stays with the runtime; the map between them is
computed by `LinearEvaluator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxplain.explainers.evaluators.linear import LinearMap
from onnxplain.model.graphs.graph import Graph, assemble
from onnxplain.model.meaning.scores import FLOATS
from onnxplain.model.runtime.sessions import Cancellation, Session
from onnxplain.model.tables.front import Front, cut_before

_OWN_WEIGHTS = frozenset({"LinearClassifier", "LinearRegressor"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
# Operators that may follow the map: a small change of the sums changes their result little, and never the order of classes.
_LINKS = frozenset({"Softmax", "Sigmoid", "Normalizer"})
_LABELS = frozenset({"ArgMax", "ArrayFeatureExtractor", "LabelEncoder"})
_FORMS = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Flatten", "Slice"})
_PAYS_MS = 20.0  # a repeat that the runtime predicts in less time is left to it, whose digits are the reference
_SUMS = "onnxplain_sums"


@dataclass(frozen=True)
class LinearModel:
    """A graph cut around its linear map.

    Attributes:
        front: computes what the map sees.
        linear: the map.
        tail: computes the model's outputs from the sums, float32[m, k].
    """

    front: Front
    linear: LinearMap
    tail: Session

    def outputs(self, sums: NDArray[np.float32], wanted: Sequence[str]) -> list[NDArray[Any]]:
        """The model's outputs from the sums."""
        return self.tail.run({_SUMS: sums}, wanted)


def pays(predictions: int, row_ms: float, threads: int) -> bool:
    """Whether the runtime would take long enough for so many predictions."""
    return predictions * row_ms / threads > _PAYS_MS


def cut_at_linear(model: ModelProto, outputs: Sequence[str], cancellation: Cancellation) -> LinearModel | None:
    """Cut the graph around its only linear map; None where it has none, several, or does more with it than make links and labels.

    Args:
        model: with these outputs.
        outputs: those that hold scores, and the label where there is one.
        cancellation: stops the runs of both other parts.
    """
    graph = Graph(model)
    needed = graph.needed_for(outputs)
    nodes = [node for node in model.graph.node if needed.intersection(node.output)]
    maps = [node for node in nodes if node.op_type in _OWN_WEIGHTS | _PRODUCTS]
    if len(maps) != 1:
        return None
    (node,) = maps
    cut = _own_weights(node) if node.op_type in _OWN_WEIGHTS else _product(graph, node)
    if cut is None:
        return None
    linear, made, ends = cut
    behind = graph.needed_for(outputs, stop=ends)
    after = [n for n in nodes if behind.difference(ends).intersection(n.output)]
    if behind & {value.name for value in graph.inputs} or not all(_is_plain(graph, n) for n in after):
        return None
    sums = helper.make_tensor_value_info(_SUMS, TensorProto.FLOAT, [None, len(linear.intercepts)])
    wanted = [value for value in model.graph.output if value.name in outputs]
    tail = assemble(model, [made, *after], [sums], wanted, graph.weights, graph.types)
    return LinearModel(cut_before(graph, node.input[0], cancellation), linear, Session(tail, cancellation, 1))


def _is_plain(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is one of those, and makes no whole numbers of scores."""
    if node.op_type == "Cast":
        to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        return to in FLOATS or _is_label(graph, node.input[0])
    return node.op_type in _LINKS | _LABELS | _FORMS


def _is_label(graph: Graph, name: str) -> bool:
    node = graph.producer.get(name)
    while node is not None and node.op_type in _FORMS:
        name = node.input[0]
        node = graph.producer.get(name)
    return node is not None and (
        node.op_type in _LABELS or (node.op_type == "LinearClassifier" and name == node.output[0])
    )


_Cut = tuple[LinearMap, NodeProto, list[str]]
"""The map; a node that makes of its sums what the graph made; and the names of that."""


def _own_weights(node: NodeProto) -> _Cut | None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    classifier = node.op_type == "LinearClassifier"
    post = attributes.get("post_transform", b"NONE")
    intercepts = np.array(attributes.get("intercepts", ()), dtype=np.float64)
    k = len(intercepts) if classifier else attributes.get("targets", 1)
    # A classifier's scores of one class are compared with a bound that depends on the labels: left to the runtime.
    if (k < 2 or post not in {b"LOGISTIC", b"SOFTMAX"}) if classifier else post != b"NONE":
        return None
    weights = np.array(attributes["coefficients"], dtype=np.float64).reshape(k, -1).T
    made = NodeProto()
    made.CopyFrom(node)
    made.input[0] = _SUMS
    del made.attribute[:]
    made.attribute.extend(a for a in node.attribute if a.name not in {"coefficients", "intercepts"})
    made.attribute.append(helper.make_attribute("coefficients", np.eye(k).ravel().tolist()))
    made.attribute.append(helper.make_attribute("intercepts", [0.0] * k))
    return LinearMap(weights, intercepts if len(intercepts) else np.zeros(k)), made, list(node.output)


def _product(graph: Graph, node: NodeProto) -> _Cut | None:
    """x B + C, with B and C known: a Gemm, or a MatMul and what is added to it."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
    others, end = list(node.input[1:]), node.output[0]
    readers = graph.consumers.get(end, [])
    if node.op_type == "MatMul" and len(readers) == 1 and readers[0].op_type == "Add":
        others += [name for name in readers[0].input if name != end]
        end = readers[0].output[0]
    if not plain or any(name not in graph.weights for name in others):
        return None
    factor, *added = [numpy_helper.to_array(graph.weights[name]) for name in others]
    if factor.ndim != 2 or factor.dtype != np.float32:
        return None
    weights = (factor.T if attributes.get("transB", 0) else factor).astype(np.float64)
    intercepts = np.zeros(weights.shape[1])
    for term in added:
        intercepts += term.astype(np.float64).reshape(-1)
    return LinearMap(weights, intercepts), helper.make_node("Identity", [_SUMS], [end]), [end]
