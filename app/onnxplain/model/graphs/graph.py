"""An ONNX graph as something to ask: who makes a tensor, who reads it, and which part lies between two tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

BATCH = "N"  # the symbol of every dimension that grows with the number of pictures

_SHAPE_ONLY = frozenset({"Shape", "Size"})


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The branches and bodies that a node holds (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node of a graph, and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def reads(node: NodeProto) -> list[str]:
    """Every tensor that a node reads, those that its inner graphs capture included."""
    names = [name for name in node.input if name]
    for inner in subgraphs(node):
        made = {name for n in inner.node for name in n.output} | {value.name for value in inner.input}
        made |= {tensor.name for tensor in inner.initializer}
        captured = [name for n in inner.node for name in reads(n)] + [value.name for value in inner.output]
        names += [name for name in captured if name not in made]
    return names


class Graph:
    """An index over a model. The model must not change underneath it.

    Attributes:
        model: the indexed model.
        producer: the node that makes a tensor.
        consumers: the nodes that read a tensor.
        weights: the initialisers by name.
        inputs: graph inputs that are no initialisers, in order.
        types: what is known of a tensor's type and shape.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        graph = model.graph
        self.producer: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output if name}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(reads(node)):
                self.consumers.setdefault(name, []).append(node)
        self.weights: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs: list[ValueInfoProto] = [value for value in graph.input if value.name not in self.weights]
        known = (*graph.input, *graph.value_info, *graph.output)
        self.types: dict[str, ValueInfoProto] = {value.name: value for value in known}

    def element_type(self, name: str) -> int:
        """The tensor's element type, UNDEFINED (0) where it is not known."""
        value = self.types.get(name)
        return value.type.tensor_type.elem_type if value is not None else TensorProto.UNDEFINED

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """Sizes, symbols or None for each axis; None where not even the rank is known."""
        if name in self.weights:
            return tuple(self.weights[name].dims)
        value = self.types.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in value.type.tensor_type.shape.dim
        )

    def reached_from(self, sources: Collection[str], *, through_shapes: bool = True) -> set[str]:
        """All tensors computed from `sources`, and these. Without `through_shapes`, reading a size does not count."""
        reached = set(sources)
        for node in self.model.graph.node:
            if not through_shapes and node.op_type in _SHAPE_ONLY:
                continue
            if any(name in reached for name in reads(node)):
                reached.update(name for name in node.output if name)
        return reached

    def needed_for(
        self, targets: Iterable[str], stop: Collection[str] = (), *, through_shapes: bool = True
    ) -> set[str]:
        """All tensors from which `targets` are computed, and these; not looking behind `stop`."""
        needed: set[str] = set()
        waiting = list(targets)
        while waiting:
            name = waiting.pop()
            if name in needed:
                continue
            needed.add(name)
            node = self.producer.get(name)
            if name in stop or node is None or (not through_shapes and node.op_type in _SHAPE_ONLY):
                continue
            waiting += reads(node)
        return needed

    def between(self, source: str, target: str) -> set[str]:
        """The tensors on a way from `source` to `target` along which values flow (sizes do not count)."""
        forward = self.reached_from([source], through_shapes=False)
        return forward & self.needed_for([target], through_shapes=False)

    def extract(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto], weights: Mapping[str, TensorProto]
    ) -> ModelProto:
        """The part of the model that computes `outputs` from `inputs`, with those of `weights` that it reads."""
        stop = {value.name for value in inputs}
        ends = {value.name for value in outputs}
        needed = self.needed_for(ends, stop)
        nodes = [node for node in self.model.graph.node if any(o in needed and o not in stop for o in node.output)]
        return assemble(self.model, nodes, inputs, outputs, weights, self.types)


def weights_of(model: ModelProto) -> dict[str, TensorProto]:
    """The initialisers of a model by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def trim(model: ModelProto, outputs: Sequence[ValueInfoProto]) -> ModelProto:
    """Make these the outputs, in place, and drop the nodes that none of them needs."""
    needed = Graph(model).needed_for(value.name for value in outputs)
    nodes = [node for node in model.graph.node if needed.intersection(node.output)]
    outputs = list(outputs)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


def assemble(
    like: ModelProto,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    weights: Mapping[str, TensorProto],
    types: Mapping[str, ValueInfoProto],
) -> ModelProto:
    """A model of these nodes, with the operator sets of another one."""
    read = {name for node in nodes for name in reads(node)} | {value.name for value in outputs}
    made = {name for node in nodes for name in node.output}
    ends = {value.name for value in (*inputs, *outputs)}
    model = ModelProto(ir_version=like.ir_version, opset_import=like.opset_import)
    model.graph.name = like.graph.name or "graph"
    model.graph.node.extend(nodes)
    model.graph.input.extend(inputs)
    model.graph.output.extend(outputs)
    model.graph.initializer.extend(tensor for name, tensor in weights.items() if name in read and name not in ends)
    model.graph.value_info.extend(value for name, value in types.items() if name in made and name not in ends)
    return model
