"""Tiny graphs, built on the spot: what the tests differentiate, load and explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]


def value(name: str, array: Array, *, dynamic_batch: bool = False) -> onnx.ValueInfoProto:
    """A graph input that takes the array, or one of another batch size."""
    shape: list[Any] = list(array.shape)
    if dynamic_batch and shape:
        shape[0] = "N"
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str | onnx.ValueInfoProto],
    constants: dict[str, Array] | None = None,
    opset: int = 18,
    ml: int = 3,
) -> onnx.ModelProto:
    """A model of the given nodes; an output that is only named gets its type from shape inference."""
    described = [helper.make_empty_tensor_value_info(o) if isinstance(o, str) else o for o in outputs]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        list(inputs),
        described,
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    if any(node.domain == "ai.onnx.ml" for node in nodes):
        imports.append(helper.make_opsetid("ai.onnx.ml", ml))
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """A node; `ai.onnx.ml.Scaler` names a domain."""
    domain, _, kind = operator.rpartition(".")
    return helper.make_node(kind, list(inputs), list(outputs), domain=domain or None, **attributes)


def tiny_cnn(batch: int | str = "N", seed: int = 0, dtype: Any = np.float32) -> onnx.ModelProto:
    """Conv, Relu, strided Conv, residual Add, Relu (`features`, `[N, 8, 6, 6]`), global mean and Gemm to `scores` `[N, 5]`."""
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(dtype)

    constants = {
        "w1": weights(8, 3, 3, 3),
        "b1": weights(8) * 0.1,
        "w2": weights(8, 8, 3, 3),
        "w3": weights(8, 8, 1, 1),
        "w4": weights(5, 8),
        "b4": weights(5) * 0.1,
    }
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Conv", ["r1", "w3"], ["c3"], strides=[2, 2]),
        node("Add", ["c2", "c3"], ["sum"]),
        node("Relu", ["sum"], ["features"]),
        node("GlobalAveragePool", ["features"], ["means"]),
        node("Flatten", ["means"], ["flat"]),
        node("Gemm", ["flat", "w4", "b4"], ["scores"], transB=1),
    ]
    kind = TensorProto.DOUBLE if dtype == np.float64 else TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", kind, [batch, 3, 12, 12])
    return model(nodes, [x], [helper.make_tensor_value_info("scores", kind, [batch, 5])], constants)


def division() -> onnx.ModelProto:
    """Integer columns `a`, `b` to `a / b`. The smallest integer divided by -1 kills ONNX Runtime with SIGFPE."""
    columns = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 1]) for name in "ab"]
    nodes = [node("Div", ["a", "b"], ["quotient"]), node("Cast", ["quotient"], ["y"], to=TensorProto.FLOAT)]
    return model(nodes, columns, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])])


def counter() -> onnx.ModelProto:
    """An integer column `n` to the greatest n, counted up one by one: the caller decides how long a run takes."""
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["goes_on"]),
            node("Add", ["before", "one"], ["after"]),
        ],
        "count",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, []),
        ],
    )
    nodes = [
        node("ReduceMax", ["n"], ["trips"], keepdims=0),
        node("Loop", ["trips", "yes", "zero"], ["sum"], body=body),
        node("Mul", ["n_float", "zero"], ["zeros"]),
        node("Add", ["zeros", "sum"], ["y"]),
    ]
    constants = {"yes": np.array(True), "zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
    n = helper.make_tensor_value_info("n", TensorProto.INT64, ["N", 1])
    nodes.insert(2, node("Cast", ["n"], ["n_float"], to=TensorProto.FLOAT))
    return model(nodes, [n], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])], constants)


def filler() -> onnx.ModelProto:
    """An integer column `n` to the sum of a tensor of so many zeros: the caller decides how much memory a run takes."""
    nodes = [
        node("ReduceMax", ["n"], ["length"], keepdims=0),
        node("Reshape", ["length", "one"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        node("Cast", ["n"], ["n_float"], to=TensorProto.FLOAT),
        node("Add", ["n_float", "sum"], ["y"]),
    ]
    n = helper.make_tensor_value_info("n", TensorProto.INT64, ["N", 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])
    return model(nodes, [n], [y], {"one": np.array([1])})


def as_double(single: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in float64, which the reference implementation of ONNX computes."""
    double = onnx.ModelProto()
    double.CopyFrom(single)
    for tensor in double.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for described in [*double.graph.input, *double.graph.output, *double.graph.value_info]:
        if described.type.tensor_type.elem_type == TensorProto.FLOAT:
            described.type.tensor_type.elem_type = TensorProto.DOUBLE
    return double
