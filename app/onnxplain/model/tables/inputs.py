"""What a table model takes: the columns of its inputs, their types and names, and the categories it knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxplain.facts.cards import Feature
from onnxplain.facts.errors import ModelRefused
from onnxplain.model.graphs.graph import Graph
from onnxplain.model.manifest import Manifest

_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.STRING: "string",
    TensorProto.BOOL: "bool",
}
_WEIGHT_LISTS = {"Scaler": "offset", "Imputer": "imputed_value_floats", "LinearRegressor": "coefficients"}


@dataclass(frozen=True)
class TableInput:
    """One input of the graph: a block of columns.

    Attributes:
        name: of the graph's input.
        features: its columns.
        flat: whether it is a vector [n] instead of a matrix [n, 1].
        rows: how many rows each run must have; None for any number.
    """

    name: str
    features: tuple[Feature, ...]
    flat: bool = False
    rows: int | None = None


def table_inputs(model: ModelProto, manifest: Manifest) -> tuple[TableInput, ...]:
    """The inputs in the graph's order.

    Raises:
        ModelRefused: an input is no table, or the manifest names another number of columns.
    """
    graph = Graph(model)
    shapes = [_shape(graph, value) for value in graph.inputs]
    widths = [width for _, width in shapes]
    named = manifest.tabular.features
    if named is not None:
        if widths.count(None) == 1:
            widths[widths.index(None)] = len(named) - sum(width for width in widths if width is not None)
        if len(named) != sum(width or 0 for width in widths):
            raise ModelRefused(
                f"`features` in model.toml names {len(named)} columns, but the graph takes {sum(w or 0 for w in widths)}; correct the list."
            )
    inputs, first = [], 0
    for value, (rows, _), width in zip(graph.inputs, shapes, widths, strict=True):
        if width is None or width < 1:
            raise ModelRefused(
                f"The graph does not say how many columns '{value.name}' has; list them as `features` under [tabular] in model.toml."
            )
        dtype = _DTYPES[value.type.tensor_type.elem_type]
        names = (
            named[first : first + width] if named is not None else _names(value.name, width, single=len(widths) == 1)
        )
        flat = len(value.type.tensor_type.shape.dim) == 1
        inputs.append(TableInput(value.name, tuple(Feature(name, dtype) for name in names), flat, rows))
        first += width
    every = [feature.name for table_input in inputs for feature in table_input.features]
    if len(set(every)) != len(every):
        raise ModelRefused(
            "Two columns have the same name; name all of them as `features` under [tabular] in model.toml."
        )
    return tuple(inputs)


def _names(name: str, width: int, *, single: bool) -> list[str]:
    if width == 1 and not single:
        return [name]
    return [f"x{i}" if single else f"{name}_{i}" for i in range(width)]


def _shape(graph: Graph, value: ValueInfoProto) -> tuple[int | None, int | None]:
    """Fixed number of rows and number of columns; None where open."""
    kind = value.type.tensor_type
    if kind.elem_type not in _DTYPES:
        raise ModelRefused(
            f"The input '{value.name}' has element type {TensorProto.DataType.Name(kind.elem_type).lower()}, which no table "
            "column has; export the model with float, double, int64, bool or string inputs."
        )
    shape = graph.shape(value.name) or (None, None)
    if len(shape) > 2:
        raise ModelRefused(
            f"The input '{value.name}' has {len(shape)} axes; a table has two, [rows, columns]. "
            'Say kind = "image" in model.toml if it takes pictures.'
        )
    rows = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    if len(shape) == 1:
        return rows, 1
    width = shape[1] if isinstance(shape[1], int) and shape[1] > 0 else _width_from_weights(graph, value.name)
    return rows, width


def _width_from_weights(graph: Graph, name: str) -> int | None:
    """Columns of an input whose shape is open, from the first operator that multiplies or shifts each of them."""
    for node in graph.consumers.get(name, ()):
        if node.op_type in {"Identity", "Cast"}:
            return _width_from_weights(graph, node.output[0])
        if node.op_type in {"Gemm", "MatMul"} and node.input[1] in graph.weights:
            shape = graph.weights[node.input[1]].dims
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            return int(shape[1 if transposed else 0])
        if node.op_type in {"Sub", "Add", "Mul", "Div"}:
            sizes = [numpy_helper.to_array(graph.weights[other]).size for other in node.input if other in graph.weights]
            if sizes and sizes[0] > 1:
                return sizes[0]
        for attribute in node.attribute:
            if attribute.name == _WEIGHT_LISTS.get(node.op_type) and len(attribute.floats) > 1:
                return len(attribute.floats)
    return None


def known_categories(model: ModelProto) -> frozenset[str] | None:
    """All texts that the graph tells apart; None where it has text inputs but compares them in an unknown way."""
    found: set[str] = set()
    lists = {"cats_strings", "keys_strings", "cats_strings_list"}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name in lists:
                found |= {text.decode() for text in helper.get_attribute_value(attribute)}
            if attribute.name == "keys_tensor":
                values = numpy_helper.to_array(attribute.t)
                found |= {v.decode() if isinstance(v, bytes) else str(v) for v in np.ravel(values).tolist()}
        if node.op_type == "Equal":
            return None
    return frozenset(found) or None
