"""Recurrent layers in gradient graphs: unrolled they give the runtime's own numbers, and gradients that are slopes of these."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tests import graphs
from tests.graphs import Array, node

from onnxplain.autodiff import MissingRule, differentiate, missing_rules

RANDOM = np.random.default_rng(5)
STEPS, PICTURES, FEATURES, HIDDEN = 4, 2, 3, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(operator: str, output: int, *, starts: bool = False, **attributes: Any) -> Any:
    """One layer, differentiable by its sequences `x`; its output of that number is `y`."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[operator] * HIDDEN

    def floats(*shape: int) -> Array:
        return (RANDOM.standard_normal(shape) / 2).astype(np.float32)

    constants = {"w": floats(directions, rows, FEATURES), "r": floats(directions, rows, HIDDEN)}
    names = ["x", "w", "r"]
    if starts:
        states = ["h", "c"] if operator == "LSTM" else ["h"]
        constants |= {"b": floats(directions, 2 * rows)} | {s: floats(directions, PICTURES, HIDDEN) for s in states}
        names += ["b", "", *states]
    outputs = ["y" if index == output else "" for index in range(output + 1)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [STEPS, "N", FEATURES])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return graphs.model(
        [node(operator, names, outputs, name="layer", hidden_size=HIDDEN, **attributes)], [x], [y], constants
    )


@pytest.mark.parametrize(
    ("operator", "output", "attributes"),
    [
        ("LSTM", 0, {}),
        ("LSTM", 0, {"direction": "bidirectional", "starts": True}),
        ("LSTM", 1, {"direction": "reverse"}),
        ("LSTM", 2, {"direction": "bidirectional"}),
        ("GRU", 0, {"starts": True}),
        ("GRU", 1, {"linear_before_reset": 1, "direction": "bidirectional", "starts": True}),
        ("RNN", 0, {"direction": "reverse", "starts": True}),
    ],
)
def test_a_recurrent_layer_has_the_gradient_that_differences_give(
    operator: str, output: int, attributes: dict[str, Any]
) -> None:
    model = layer(operator, output, **attributes)
    result = differentiate(model, "y", ["x"])
    assert operator not in {n.op_type for n in result.model.graph.node}
    whole, unrolled = (ort.InferenceSession(m.SerializeToString()) for m in (model, result.model))
    x, direction = RANDOM.standard_normal((2, STEPS, PICTURES, FEATURES)).astype(np.float32)
    (y,) = whole.run(None, {"x": x})
    cotangent = RANDOM.standard_normal(y.shape).astype(np.float32)
    again, gradient = unrolled.run(["y", result.gradients["x"]], {"x": x, "cotangent": cotangent})
    np.testing.assert_allclose(again, y, atol=1e-6)
    ahead, back = (whole.run(None, {"x": x + s * direction})[0] for s in np.float32([1e-2, -1e-2]))
    assert np.sum(gradient * direction) == pytest.approx(np.sum((ahead - back) * cotangent) / 2e-2, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("extra", [{"clip": 3.0}, {"activations": ["Relu", "Tanh", "Tanh"]}, {"layout": 1}])
def test_an_unusual_layer_is_refused_by_its_name(extra: dict[str, Any]) -> None:
    assert missing_rules(layer("LSTM", 0, **extra), "y", ["x"]) == [MissingRule("LSTM", "layer")]
