"""A model file reads nothing but itself, and the model that runs is the one in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxplain.autodiff import normalise
from onnxplain.facts.errors import ModelRefused
from onnxplain.model import Cancellation, load


def outside(name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def sparse() -> onnx.SparseTensorProto:
    made = onnx.SparseTensorProto(dims=[4])
    made.values.CopyFrom(outside("values"))
    made.indices.CopyFrom(helper.make_tensor("indices", TensorProto.INT64, [1], [0]))
    return made


def in_a_sparse_constant(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], sparse_value=sparse()))


def in_a_list_of_sparse_tensors(model: ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="odd", type=onnx.AttributeProto.SPARSE_TENSORS)
    attribute.sparse_tensors.append(sparse())


def in_a_default_of_a_function(model: ModelProto) -> None:
    function = model.functions.add(name="f", domain="local")
    function.attribute_proto.append(helper.make_attribute("value", outside()))


def in_training_information(model: ModelProto) -> None:
    model.training_info.add().algorithm.initializer.append(outside())


@pytest.mark.parametrize(
    "hide", [in_a_sparse_constant, in_a_list_of_sparse_tensors, in_a_default_of_a_function, in_training_information]
)
def test_weights_outside_of_the_file_are_refused_wherever_they_hide(
    tmp_path: Path, hide: Callable[[ModelProto], None]
) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])],
        )
    )
    hide(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match="keeps weights in other files"):
        load(tmp_path, name="m", cancellation=Cancellation())


def test_the_defaults_of_functions_hold_in_nested_calls_too() -> None:
    """Without the default of 2, the slope below zero would be LeakyRelu's own 0.01."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    inner = helper.make_function(
        "local", "inner", ["a"], ["b"], [leaky], opsets, attribute_protos=[helper.make_attribute("alpha", 2.0)]
    )
    outer = helper.make_function(
        "local", "outer", ["a"], ["b"], [helper.make_node("inner", ["a"], ["b"], domain="local")], opsets
    )
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("outer", ["x"], ["y"], domain="local")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        ),
        opset_imports=opsets,
        functions=[inner, outer],
        ir_version=10,
    )
    x = np.array([-3, -4], np.float32)
    untouched, ours = (
        ort.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for each in (model, normalise(model))
    )
    np.testing.assert_array_equal(untouched, [-6, -8])
    np.testing.assert_array_equal(ours, untouched)
