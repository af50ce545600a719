"""Write ONNX nodes as one writes formulas: `op.Mul(g, op.Sub(1.0, y))` adds two nodes and returns the name of the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxplain.autodiff.graph import Array, Extents, Graph

Operand = str | float | list[int] | Array | None


class Emitter:
    """Nodes and constants of a growing backward graph.

    Operands are names of tensors or plain values: a float becomes a scalar of the cotangent's type, an int or a list of ints
    an int64 tensor, an array itself, None an absent input.

    Attributes:
        graph: the forward graph, for types, shapes and constants.
        dtype: element type that floats take, that of the cotangent at hand.
        gated: for a forward tensor and its cotangent, a function that emits this cotangent once more, zero where the tensor is not
            above zero. A pooling registers it: its cotangent is small before it is spread out, so the gate of the Relu in front of
            the pooling is cheapest there. The ungated cotangent then has no reader and is dropped.
    """

    def __init__(self, graph: Graph, prefix: str = "gradient") -> None:
        self.graph = graph
        self._prefix = prefix
        self.dtype: int = TensorProto.FLOAT
        self.gated: dict[tuple[str, str], Callable[[Emitter], str]] = {}
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._taken = set(graph.producers) | set(graph.inputs) | set(graph.initializers)
        self._reshaped: dict[str, tuple[str, str | None]] = {}
        self._count = 0

    def __getattr__(self, operator: str) -> Callable[..., str]:
        if operator.startswith("_"):
            raise AttributeError(operator)
        return lambda *operands, **attributes: self.emit(operator, *operands, **attributes)[0]

    def emit(self, operator: str, *operands: Operand, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add one node and return the names of its outputs."""
        if attributes.get("reduction") == "add" and self.dtype == TensorProto.FLOAT16:
            return [self._add_in_float32(operator, *operands, **attributes)]
        names = [self.fresh(operator) for _ in range(outputs)]
        inputs = [self.name_of(operand) for operand in operands]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operator, inputs, names, names[0], **kept))
        return names

    def _add_in_float32(
        self, operator: str, data: Operand, places: Operand, updates: Operand, **attributes: Any
    ) -> str:
        """A scatter that adds. ONNX Runtime has none for half precision."""
        wide, updates = (self.Cast(value, to=TensorProto.FLOAT) for value in (data, updates))
        self.dtype = TensorProto.FLOAT
        (total,) = self.emit(operator, wide, places, updates, **attributes)
        self.dtype = TensorProto.FLOAT16
        narrow: str = self.Cast(total, to=TensorProto.FLOAT16)
        return narrow

    def name_of(self, operand: Operand) -> str:
        """Name of a tensor that holds the operand."""
        if operand is None:
            return ""
        if isinstance(operand, str):
            return operand
        if isinstance(operand, np.ndarray | np.generic):
            operand = np.asarray(operand)
        else:
            operand = np.asarray(operand, self.numpy_dtype if isinstance(operand, float) else np.int64)
        key = (operand.dtype.str, operand.shape, operand.tobytes() if operand.size <= 64 else b"")
        if operand.size > 64 or key not in self._known:
            self._known[key] = name = self.fresh("constant")
            self.constants[name] = numpy_helper.from_array(np.asarray(operand, order="C"), name)
        return self._known[key]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The cotangent's type, for arrays that a rule computes beforehand."""
        return helper.tensor_dtype_to_np_dtype(self.dtype)

    def zero(self) -> TensorProto:
        """The value that ConstantOfShape fills with."""
        return numpy_helper.from_array(np.zeros(1, self.numpy_dtype))

    def fresh(self, hint: str) -> str:
        """A name that no tensor has."""
        while True:
            self._count += 1
            name = f"{self._prefix}/{hint}_{self._count}"
            if name not in self._taken:
                return name

    def reshape_like(self, value: str, like: str, of: str | None = None) -> str:
        """The value in the shape of the forward tensor `like`; reshapes of reshapes become one.

        ONNX Runtime keeps blocked layouts across two tensors only where it knows their batches to be one. So an open first axis is
        copied by 0 where the value, having the shape of the forward tensor `of`, has it too, and worked out by -1 elsewhere.
        """
        value, of = self._reshaped.get(value, (value, of))
        shape, before, after = self.graph.shape(like), self.graph.extents(of or ""), self.graph.extents(like)
        if shape is None or shape.count(None) > 1 or 0 in shape:
            result = self.Reshape(value, self.Shape(like))
        else:
            shared = None not in (before, after) and shape[:1] == (None,) and (before or ())[:1] == (after or ())[:1]
            result = self.Reshape(
                value, np.array([0 if shared and n is None else -1 if n is None else n for n in shape], np.int64)
            )
        if of is not None:
            self._reshaped[result] = (value, of)
        return result

    def repeat(self, value: str, like: str, axes: list[int]) -> str:
        """The value, of length 1 along the axes, repeated along them to the length they have in a forward tensor."""
        shape = self.graph.shape(like)
        lengths = [None] if shape is None else [length if axis in axes else 1 for axis, length in enumerate(shape)]
        return self.Expand(value, self.Shape(like) if None in lengths else np.array(lengths, np.int64))

    def pad(self, value: str, rank: int, borders: dict[int, tuple[int, int]]) -> str:
        """The value with zeros before and after it along some axes; negative widths cut.

        All widths are written out: ONNX Runtime 1.31 moves transposes across Pad as if its `axes` input were not there.
        """
        pads = [borders.get(axis, (0, 0))[side] for side in (0, 1) for axis in range(rank)]
        return self.Pad(value, pads) if any(pads) else value

    def sum_to(self, value: str, extents: Extents | None, like: str) -> str:
        """Undo broadcasting: sum a value of the given extents over the axes along which `like` was repeated."""
        own = self.graph.extents(like)
        if extents is None or own is None or None in extents or None in own:
            return self._sum_to_at_run_time(value, like)
        if extents == own:
            return value
        leading = len(extents) - len(own)
        single = [leading + i for i, e in enumerate(own) if e != extents[leading + i] and set(e or ()) == {1}]
        if any(e != extents[leading + i] and leading + i not in single for i, e in enumerate(own)):
            return self._sum_to_at_run_time(value, like)
        if single:
            value = self.ReduceSum(value, single, keepdims=1)
        if leading:
            value = self.ReduceSum(value, list(range(leading)), keepdims=0)
        return value

    def _sum_to_at_run_time(self, value: str, like: str) -> str:
        missing = self.Sub(self.Shape(self.Shape(value)), self.Shape(self.Shape(like)))
        padded = self.Concat(self.Expand([1], missing), self.Shape(like), axis=0)
        repeated = self.Squeeze(self.NonZero(self.Not(self.Equal(padded, self.Shape(value)))), [0])
        total = self.ReduceSum(value, repeated, keepdims=1, noop_with_empty_axes=1)
        return self.Reshape(total, self.Shape(like))
