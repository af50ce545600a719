"""A graph as the rules see it: who makes a tensor, what type and shape it has, what it holds where that is fixed.

Shapes are found by *probing*: the batch size is set to 1 and to 3, and each time shapes and small integer tensors are worked
out node by node. What is the same both times is static; what differs follows the batch. That sees through the chains of Shape,
Gather and Concat by which exporters write "flatten all but the first axis", where symbols would be lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TypeProto, checker, defs, helper, numpy_helper, shape_inference

Array = NDArray[Any]
Extent = tuple[int, ...]  # an axis' length, once per probe
Extents = tuple[Extent | None, ...]

PROBED_BATCHES = (1, 3)
FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
SMALL = 1 << 14  # elements of the largest tensor that may be shape arithmetic
# Operators whose result has the type of the input, which ONNX's shape inference does not tell.
_AS_ITS_INPUT = {"GroupNormalization", "MeanVarianceNormalization"}
_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}


@dataclass(frozen=True)
class Node:
    """One node on the path, with what a rule may ask about it. Absent optional inputs are empty names."""

    proto: NodeProto
    graph: Graph
    wanted: tuple[bool, ...] = ()

    @property
    def operator(self) -> str:
        """Qualified operator type, such as `Relu` or `com.microsoft.FusedConv`."""
        return f"{self.proto.domain}.{self.proto.op_type}" if self.proto.domain else self.proto.op_type

    @property
    def name(self) -> str:
        """The node's name, or its first output where it has none."""
        return self.proto.name or self.proto.output[0]

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return list(self.proto.input)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return list(self.proto.output)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes as Python values."""
        found = {a.name: helper.get_attribute_value(a) for a in self.proto.attribute}
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value, or the default."""
        return self.attributes.get(name, default)

    def input(self, index: int) -> str:
        """Name of an input, empty where it is absent."""
        return self.proto.input[index] if index < len(self.proto.input) else ""

    def constant(self, index: int) -> Array | None:
        """What the input holds, where that does not depend on the graph's inputs."""
        return self.graph.constant(self.input(index)) if self.input(index) else None

    def shape(self, index: int = 0) -> tuple[int | None, ...] | None:
        """Shape of an input, None for what follows the batch; None altogether for an unknown rank."""
        return self.graph.shape(self.input(index))

    def rank(self, index: int = 0) -> int | None:
        """Number of axes of an input."""
        shape = self.shape(index)
        return None if shape is None else len(shape)


class Graph:
    """The forward graph of a model in the dialect of `normalise`, with types, shapes and constants of its tensors.

    Args:
        model: normalised; it is read, never changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.opset = {o.domain: o.version for o in model.opset_import}
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.inputs = {i.name: i for i in model.graph.input if i.name not in self.initializers}
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self._constants: dict[str, Array | None] = {}
        symbols = [dim.dim_param for i in self.inputs.values() if (dim := _open_batch(i)) is not None]
        self.batch = next((symbol for symbol in symbols if symbol), "batch")
        self._batches = PROBED_BATCHES if symbols else ()
        self._probes: list[_Probe] = []
        for batch in self._batches or PROBED_BATCHES[:1]:
            self._probes.append(_Probe(self, batch, *self._probes[:1]))
        if (
            self._probes[-1].contradictions > self._probes[0].contradictions
        ):  # declared open, but written for a batch of 1
            self._batches, self._probes = (), self._probes[:1]
        self._moving = set(self.inputs)  # what follows the inputs need not be searched for a constant
        for node in self.nodes:
            if any(name in self._moving for name in [*node.input, *captured(node)]):
                self._moving |= {name for name in node.output if name and self._settled(name) is None}

    def dtype(self, name: str) -> int | None:
        """Element type as in `onnx.TensorProto`, None where unknown."""
        kind = self._probes[0].types.get(name)
        return kind.tensor_type.elem_type or None if kind is not None else None

    def is_float(self, name: str) -> bool:
        """Whether the tensor can carry a cotangent; a tensor of unknown type may."""
        return self.dtype(name) in FLOATS | {None}

    def extents(self, name: str) -> Extents | None:
        """Length of every axis, once per probe; None for an unknown axis, None altogether for an unknown rank."""
        shapes = [probe.shape(name) for probe in self._probes]
        if any(shape is None for shape in shapes) or len({len(shape) for shape in shapes if shape is not None}) != 1:
            return None
        axes = zip(*(shape for shape in shapes if shape is not None), strict=True)
        return tuple(tuple(lengths) if None not in lengths else None for lengths in axes)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Static lengths; None for an axis that follows the batch or is unknown."""
        extents = self.extents(name)
        return None if extents is None else tuple(e[0] if e is not None and len(set(e)) == 1 else None for e in extents)

    def named_shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """The shape with the batch's name where an axis follows it one to one."""
        extents, shape = self.extents(name), self.shape(name)
        if extents is None or shape is None:
            return None
        return tuple(
            self.batch if extent == self._batches else length for extent, length in zip(extents, shape, strict=True)
        )

    def is_view(self, gather: NodeProto) -> bool:
        """Whether a Gather takes all elements of a vector in their order, at every batch size: a view, as PyTorch exports it."""
        for probe in self._probes:
            shape, taken = probe.shape(gather.input[0]), probe.values.get(gather.input[1])
            if taken is None or shape != (taken.size,) or not np.array_equal(taken.ravel(), np.arange(taken.size)):
                return False
        return True

    def add_constant(self, value: Array) -> str:
        """Enter a constant into the graph; its name."""
        name = f"shape/{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(value, name)
        return name

    def replace(self, index: int, node: NodeProto) -> None:
        """Put another node in the place of one, with the same outputs."""
        self.nodes[index] = node
        self.producers |= dict.fromkeys(node.output, node)

    def constant(self, name: str) -> Array | None:
        """The tensor's content where it does not depend on the graph's inputs, worked out if need be."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        if name not in self._constants:
            self._constants[name] = self._evaluate(name)
        return self._constants[name]

    def _settled(self, name: str) -> Array | None:
        """What the probes found in a tensor, where all found the same."""
        first, *others = (probe.values.get(name) for probe in self._probes)
        return first if first is not None and all(v is not None and np.array_equal(first, v) for v in others) else None

    def _evaluate(self, name: str) -> Array | None:
        settled = self._settled(name)
        if settled is not None:
            return settled
        node = self.producers.get(name)
        if (
            node is None
            or name in self._moving
            or node.op_type in _RANDOM
            or any(a.HasField("g") for a in node.attribute)
        ):
            return None
        feeds = {i: self.constant(i) for i in node.input if i}
        if any(value is None for value in feeds.values()):
            return None
        outputs = run_node(node, feeds, self.opset)
        return None if outputs is None else outputs[list(node.output).index(name)]


class _Probe:
    """Types of all tensors, and the content of small ones, at one batch size.

    What comes out as in an earlier probe is the same object here, so that a node whose inputs all are needs no second look.
    """

    def __init__(self, graph: Graph, batch: int, earlier: _Probe | None = None) -> None:
        self.types: dict[str, TypeProto] = {}
        self.values: dict[str, Array] = {}
        self.contradictions = 0
        self._opset = graph.opset  # not the graph: it would refer to itself, and its weights outlive it
        self._earlier = earlier
        self._imports = list(graph.model.opset_import)
        for name, tensor in graph.initializers.items():
            if earlier is not None:
                self.types[name] = earlier.types[name]
                if name in earlier.values:
                    self.values[name] = earlier.values[name]
                continue
            self.types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if math.prod(tensor.dims) <= SMALL:
                self.values[name] = numpy_helper.to_array(tensor)
        symbols = {
            dim.dim_param for i in graph.inputs.values() if (dim := _open_batch(i)) is not None and dim.dim_param
        }
        for name, value_info in graph.inputs.items():
            kind = TypeProto()
            kind.CopyFrom(value_info.type)
            for axis, dim in enumerate(kind.tensor_type.shape.dim):
                if not dim.HasField("dim_value") and (axis == 0 or dim.dim_param in symbols):
                    dim.dim_value = batch
            self.types[name] = kind
        for node in graph.nodes:
            self._infer(node)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        kind = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.tensor_type.shape.dim)

    def _infer(self, node: NodeProto) -> None:
        inputs = [name for name in node.input if name]
        if self._earlier is None:
            self._work_out(node, inputs)
            return
        types, values = self._earlier.types, self._earlier.values
        if any(
            self.types.get(n) is not types.get(n) or self.values.get(n) is not values.get(n)
            for n in [*inputs, *captured(node)]
        ):
            self._work_out(node, inputs)
            for name in node.output:
                if name in types and self.types.get(name) == types[name]:
                    self.types[name] = types[name]
                if name in values and name in self.values and np.array_equal(self.values[name], values[name]):
                    self.values[name] = values[name]
            return
        self.types |= {name: types[name] for name in node.output if name in types}
        self.values |= {name: values[name] for name in node.output if name in values}

    def _work_out(self, node: NodeProto, inputs: list[str]) -> None:
        if all(name in self.types for name in inputs):
            nested = any(a.HasField("g") for a in node.attribute)
            types = self.types if nested else {name: self.types[name] for name in inputs}
            data = {n: numpy_helper.from_array(self.values[n], n) for n in inputs if n in self.values}
            try:
                schema = defs.get_schema(node.op_type, self._opset[node.domain], node.domain)
                self.types |= shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._imports)
            except shape_inference.InferenceError:
                self.contradictions += 1
            except (defs.SchemaError, KeyError, RuntimeError, checker.ValidationError):
                # The operator is of another domain, has operands of wrong types, or a shape that cannot be inferred. Its type
                # stays unknown here; the runtime decides whether it can run it.
                pass
        if node.op_type in _AS_ITS_INPUT and node.input[0] in self.types:
            self.types[node.output[0]] = self.types[node.input[0]]
        if node.op_type in ("MaxPool", "AveragePool", "LpPool"):
            self._count_windows(node)
        if node.op_type == "Shape":
            self._keep_shape(node)
        elif node.op_type not in _RANDOM and all(name in self.values for name in inputs):
            self._keep_result(node, inputs)

    def _count_windows(self, node: NodeProto) -> None:
        """With `ceil_mode`, ONNX Runtime counts fewer windows than shape inference: none that starts behind the input."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        size, result = self.shape(node.input[0]), self.types.get(node.output[0])
        if not attributes.get("ceil_mode") or size is None or result is None:
            return
        axes = len(size) - 2
        strides, pads = attributes.get("strides", [1] * axes), attributes.get("pads", [0] * 2 * axes)
        same = attributes.get("auto_pad", b"NOTSET").startswith(b"SAME")
        for axis, dim in enumerate(result.tensor_type.shape.dim[2:]):
            length, stride = size[2 + axis], strides[axis]
            if length is not None and same:
                dim.dim_value = -(-length // stride)
            elif length is not None and (dim.dim_value - 1) * stride >= length + pads[axis]:
                dim.dim_value -= 1

    def _keep_shape(self, node: NodeProto) -> None:
        shape = self.shape(node.input[0])
        bounds = {a.name: a.i for a in node.attribute}
        if shape is not None:
            part = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
            if None not in part:
                self.values[node.output[0]] = np.array(part, np.int64)

    def _keep_result(self, node: NodeProto, inputs: list[str]) -> None:
        sizes = [self.shape(name) for name in node.output if name]
        if any(size is None or math.prod(n if n is not None else SMALL + 1 for n in size) > SMALL for size in sizes):
            return
        outputs = run_node(node, {name: self.values[name] for name in inputs}, self._opset)
        for name, value in zip(node.output, outputs or (), strict=False):
            if name and isinstance(value, np.ndarray | np.generic):
                self.values[name] = np.asarray(value)


# Shape arithmetic, of which the older exporter writes thousands of nodes; the reference implementation takes a millisecond for each.
_DIRECT: dict[str, Callable[..., Array]] = {
    "Identity": lambda _, a: a,
    "Add": lambda _, a, b: np.add(a, b),
    "Sub": lambda _, a, b: np.subtract(a, b),
    "Mul": lambda _, a, b: np.multiply(a, b),
    "Equal": lambda _, a, b: np.equal(a, b),
    "Concat": lambda attributes, *parts: np.concatenate(parts, attributes["axis"]),
    "Gather": lambda attributes, a, i: np.take(a, i, attributes.get("axis", 0)),
    "Unsqueeze": lambda _, a, axes: np.expand_dims(a, tuple(axes.tolist())),
    "Squeeze": lambda _, a, axes=None: np.squeeze(a, None if axes is None else tuple(axes.tolist())),
    "Reshape": lambda attributes, a, shape: a.reshape(_written_out(a, shape, attributes.get("allowzero", 0))),
    "Cast": lambda attributes, a: a.astype(helper.tensor_dtype_to_np_dtype(attributes["to"])),
}


_CONSTANTS: dict[str, Callable[[AttributeProto], Array]] = {
    "value": lambda attribute: numpy_helper.to_array(attribute.t),
    "value_int": lambda attribute: np.array(attribute.i, np.int64),
    "value_ints": lambda attribute: np.array(attribute.ints, np.int64),
    "value_float": lambda attribute: np.array(attribute.f, np.float32),
    "value_floats": lambda attribute: np.array(attribute.floats, np.float32),
}


def _written_out(a: Array, shape: Array, allow_zero: int) -> list[int]:
    """Reshape's shape, with the lengths that a 0 takes over."""
    return [a.shape[axis] if length == 0 and not allow_zero else length for axis, length in enumerate(shape.tolist())]


def run_node(node: NodeProto, feeds: dict[str, Any], opset: dict[str, int]) -> Sequence[Array] | None:
    """The node's outputs by the reference implementation, None where that has no such operator."""
    if any(a.HasField("g") for a in node.attribute):
        return None
    if node.op_type == "Constant" and node.attribute[0].name in _CONSTANTS:
        return [_CONSTANTS[node.attribute[0].name](node.attribute[0])]
    try:
        if node.op_type in _DIRECT and not node.domain and opset.get("", 0) >= 13:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            return [_DIRECT[node.op_type](attributes, *(feeds[name] for name in node.input))]
        from onnx.reference import ReferenceEvaluator  # 12 MB, which most graphs never need

        results: Any = ReferenceEvaluator(node, opsets=dict(opset)).run(None, feeds)
    except Exception:  # noqa: BLE001 - whatever the reference cannot work out is simply not known beforehand
        return None
    return list(results)


def captured(node: NodeProto) -> Iterator[str]:
    """Names that the node's subgraphs read from around them."""
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else ():
            local = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            for inner in graph.node:
                yield from (name for name in [*inner.input, *captured(inner)] if name and name not in local)
                local |= set(inner.output)
            yield from (o.name for o in graph.output if o.name not in local)


def _open_batch(value_info: onnx.ValueInfoProto) -> onnx.TensorShapeProto.Dimension | None:
    """The first axis of an input where its length is left open."""
    dims = value_info.type.tensor_type.shape.dim
    return dims[0] if dims and not dims[0].HasField("dim_value") else None
