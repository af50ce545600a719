"""Reverse-mode differentiation from ONNX to ONNX: `differentiate()` adds to a graph the nodes that compute gradients.

Only the nodes between the output and the wanted tensors are walked, last first. Each hands its cotangent to its rule, which
returns one per input; cotangents that meet in one tensor are added, and nodes that nothing reads are dropped. The cotangent of
the output is an input of the new graph, so that one session serves every class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper

from onnxplain.autodiff import rules as _rules  # noqa: F401 - fills the table
from onnxplain.autodiff.composites import composed
from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import FLOATS, Graph, Node, captured
from onnxplain.autodiff.lowering import lower
from onnxplain.autodiff.normalise import expand, is_function, normalise, write_out_shapes
from onnxplain.autodiff.recurrent import RECURRENT, unroll
from onnxplain.autodiff.rule import RULES, ZERO_DERIVATIVE, unsupported
from onnxplain.facts.errors import UnsupportedOperator

# Their integers stand for numbers, so a cotangent has to pass through them; other integers end the path.
QUANTISING = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"}


@dataclass(frozen=True)
class Differentiated:
    """A model that computes gradients beside its output.

    Attributes:
        model: inputs are those of the forward graph that are needed and the cotangent; outputs are the output, the tensors asked
            for and their gradients.
        gradients: for each tensor asked for, the output that is its gradient.
        straight_through: quantisation steps were passed with slope one; the true slope is zero almost everywhere.
    """

    model: onnx.ModelProto
    gradients: dict[str, str]
    straight_through: bool = False


@dataclass(frozen=True)
class MissingRule:
    """A node between output and wanted tensors whose operator has no rule."""

    operator: str
    node: str


def differentiate(
    model: onnx.ModelProto, output: str, wrt: Sequence[str], cotangent: str = "cotangent"
) -> Differentiated:
    """The vector-Jacobian product of `output` with respect to each tensor of `wrt`, as a graph of ordinary operators.

    Args:
        model: any model; it is brought into the dialect of `normalise` first and not changed.
        output: the tensor to differentiate, often the scores `[n, k]`.
        wrt: inputs or inner tensors, of a floating type.
        cotangent: name of the new input, of the output's type and shape. A one-hot row asks for the gradient of one score.

    Raises:
        UnsupportedOperator: a node on the way has no rule, or its rule does not cover how the node is used.
    """
    graph, path = _prepare(model, output, wrt)
    _require_rules(graph, path, output)
    path = composed(graph, path, {output, *wrt})
    op = Emitter(graph)
    arrived: dict[str, list[str]] = {output: [cotangent]}
    on_path = {name for node in path for name, wanted in zip(node.inputs, node.wanted, strict=True) if wanted}
    for node in reversed(path):
        cotangents = [_sum(op, arrived, name) for name in node.outputs]
        if all(g is None for g in cotangents):
            continue
        op.dtype = next(_float_type(graph, o) for o, g in zip(node.outputs, cotangents, strict=True) if g)
        for name, value in zip(node.inputs, _apply(op, node, cotangents), strict=True):
            if value is not None and name in on_path:
                arrived.setdefault(name, []).append(value)
    gradients = {
        name: _sum(op, arrived, name) or op.ConstantOfShape(op.Shape(name), value=_zero(graph, name)) for name in wrt
    }
    return _assemble(graph, op, output, cotangent, gradients, path)


def missing_rules(model: onnx.ModelProto, output: str, wrt: Sequence[str]) -> list[MissingRule]:
    """The nodes between `output` and `wrt` that have no rule; where it is empty, `differentiate` may still refuse a usage."""
    _, path = _prepare(model, output, wrt)
    return [MissingRule(node.operator, node.name) for node in path if node.operator not in RULES]


def _prepare(model: onnx.ModelProto, output: str, wrt: Sequence[str]) -> tuple[Graph, list[Node]]:
    """The graph and its path; operators without a rule are replaced by their function bodies, or step by step, where that goes."""
    graph = Graph(normalise(model))
    expanded: set[str] = set()
    while True:
        path = _path(graph, output, wrt)
        unknown = {n.operator for n in path if n.operator not in RULES} - expanded
        functions = {operator for operator in unknown if is_function(operator)}
        if unknown & RECURRENT:
            graph = Graph(lower(graph.model, dict.fromkeys(RECURRENT, unroll)))
        elif functions:
            graph = Graph(normalise(expand(graph, functions)))
        else:
            write_out_shapes(graph, {output, *wrt})
            return graph, _path(graph, output, wrt)
        expanded |= functions | unknown & RECURRENT


def _path(graph: Graph, output: str, wrt: Iterable[str]) -> list[Node]:
    """The nodes through which `output` depends differentiably on `wrt`, in the order of the graph."""
    moved, candidates = set(wrt), []
    for proto in graph.nodes:
        node = Node(proto, graph)
        if node.operator in ZERO_DERIVATIVE:
            continue
        flat = RULES[node.operator].flat if node.operator in RULES else ()
        wanted = tuple(name in moved and index not in flat for index, name in enumerate(proto.input))
        carried = {name for name, needs in zip(proto.input, wanted, strict=True) if needs} | moved.intersection(
            captured(proto)
        )
        if carried:
            quantised = node.operator in QUANTISING or proto.domain or not all(map(graph.is_float, carried))
            moved |= {name for name in proto.output if name and (quantised or graph.is_float(name))}
            candidates.append(Node(proto, graph, wanted))
    needed, path = {output}, []
    for node in reversed(candidates):
        if not needed.isdisjoint(node.outputs):
            path.append(node)
            needed |= {name for name, needs in zip(node.inputs, node.wanted, strict=True) if needs}
    return path[::-1]


def _require_rules(graph: Graph, path: Sequence[Node], output: str) -> None:
    for node in path:
        if node.operator not in RULES:
            raise UnsupportedOperator(
                f"Operator {node.operator} at node {node.name!r}, between the explained tensor and {output!r}, has no gradient "
                "rule. Explain a later layer, or choose a method that needs no gradient.",
                node.operator,
                node.name,
            )
    if output not in graph.producers and output not in graph.inputs:
        raise UnsupportedOperator(f"The graph has no tensor {output!r} to differentiate; name one of its outputs.")


def _apply(op: Emitter, node: Node, cotangents: list[str | None]) -> list[str | None]:
    """The cotangents of a node's inputs, by its rule, each in its input's shape."""
    rule = RULES[node.operator]
    if not rule.every_output and any(g is not None for g in cotangents[1:]):
        raise unsupported(node, "is differentiated through its first output only, and another one is used here")
    results = list(rule.write(op, node, *(cotangents if rule.every_output else cotangents[:1])))
    if len(results) != len(node.inputs):
        raise AssertionError(
            f"the rule of {node.operator} returned {len(results)} cotangents for {len(node.inputs)} inputs"
        )
    for index, (name, result) in enumerate(zip(node.inputs, results, strict=True)):
        if result is None and node.wanted[index] and op.graph.is_float(name):
            raise unsupported(node, f"has no gradient for its input {index} ({name!r})")
        if result is not None and rule.broadcasts:
            results[index] = op.sum_to(result, op.graph.extents(node.outputs[0]), name)
    return results


def _sum(op: Emitter, arrived: dict[str, list[str]], name: str) -> str | None:
    """All cotangents that arrived at a tensor, added up."""
    parts = arrived.get(name, [])
    if len(parts) > 1:
        total = parts[0]
        for part in parts[1:]:
            total = op.Add(total, part)
        arrived[name] = [total]
    return arrived[name][0] if parts else None


def _assemble(
    graph: Graph, op: Emitter, output: str, cotangent: str, gradients: dict[str, str], path: Sequence[Node]
) -> Differentiated:
    """The model that computes `output`, the tensors asked for and their gradients, and nothing else."""
    names = {}
    for tensor, value in gradients.items():
        names[tensor] = f"gradient/{tensor}"
        op.nodes.append(helper.make_node("Identity", [value], [names[tensor]], names[tensor]))
    wanted = list(dict.fromkeys([output, *gradients, *names.values()]))
    nodes = _alive([*graph.nodes, *op.nodes], wanted)
    read = {name for node in nodes for name in [*node.input, *captured(node)]} | set(wanted)
    inputs = [_describe(graph, name, name) for name in graph.inputs if name in read]
    described = {output: output, **{t: t for t in gradients}, **{v: k for k, v in names.items()}}
    model = onnx.ModelProto(ir_version=graph.model.ir_version, opset_import=graph.model.opset_import)
    model.graph.name = graph.model.graph.name
    model.graph.node.extend(nodes)
    model.graph.input.extend([*inputs, _describe(graph, cotangent, output)])
    model.graph.output.extend(_describe(graph, name, described[name]) for name in wanted)
    weights = {**graph.initializers, **op.constants}
    model.graph.initializer.extend(tensor for name, tensor in weights.items() if name in read)
    straight = any(node.operator in QUANTISING for node in path)
    return Differentiated(model, names, straight)


def _alive(nodes: Sequence[NodeProto], wanted: Iterable[str]) -> list[NodeProto]:
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed |= {*node.input, *captured(node)}
    return kept[::-1]


def _describe(graph: Graph, name: str, like: str) -> ValueInfoProto:
    """A graph input or output of the type of a forward tensor; all that have the batch as an axis name it alike."""
    kind = graph.dtype(like) if name == like else _float_type(graph, like)
    return helper.make_tensor_value_info(name, kind or TensorProto.FLOAT, graph.named_shape(like))


def _float_type(graph: Graph, name: str) -> int:
    """The type of a tensor's cotangent: its own, or float32 for quantised integers."""
    kind = graph.dtype(name)
    return kind if kind in FLOATS else TensorProto.FLOAT


def _zero(graph: Graph, name: str) -> TensorProto:
    return helper.make_tensor("value", _float_type(graph, name), [1], [0.0])
