"""Activations written in several operators: their gradient is that of the formula, whether or not they are seen as one."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from tests import graphs
from tests.autodiff.test_backward import values
from tests.graphs import Array, node

from onnxplain.autodiff import differentiate

X = np.array([[-6.0, -1.5, -0.1, 0.0, 0.3, 1.0, 7.0]], np.float32)
CONSTANTS = {
    "root": np.array(math.sqrt(2), np.float32),
    "inverse": np.array([math.sqrt(0.5)], np.float32),
    "one": np.array(1, np.float32),
    "two": np.array(2, np.float32),
    "half": np.array(0.5, np.float32),
    "other": np.array(1.3, np.float32),
}
PYTORCH = [
    node("Div", ["x", "root"], ["u"]),
    node("Erf", ["u"], ["e"]),
    node("Add", ["e", "one"], ["a"]),
    node("Mul", ["x", "a"], ["b"]),
    node("Mul", ["b", "half"], ["y"]),
]
KERAS = [
    node("Mul", ["inverse", "x"], ["u"]),
    node("Erf", ["u"], ["e"]),
    node("Add", ["one", "e"], ["a"]),
    node("Mul", ["half", "x"], ["h"]),
    node("Mul", ["h", "a"], ["y"]),
]
HALVED_FIRST = [*PYTORCH[:3], node("Div", ["a", "two"], ["p"]), node("Mul", ["p", "x"], ["y"])]
SILU = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]
SILU_TURNED = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "x"], ["y"])]


def gelu_slope(x: float) -> float:
    """Of x P(x), P the normal distribution."""
    return (1 + math.erf(x / math.sqrt(2))) / 2 + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def silu_slope(x: float) -> float:
    """Of x s(x), s the logistic function."""
    s = 1 / (1 + math.exp(-x))
    return s + x * s * (1 - s)


def slopes(nodes: list[onnx.NodeProto], output: str = "y", at: str = "x") -> tuple[Array, set[str]]:
    """The gradient of the sum of `output` at a tensor, and which forward tensors the way back reads."""
    model = graphs.model(nodes, [graphs.value("x", X)], [output], CONSTANTS)
    result = differentiate(model, output, [at])
    answer = values(result.model, {"x": X, "cotangent": np.ones_like(X)})[result.gradients[at]]
    forward = {"x", *(name for node in nodes for name in node.output)}
    back = [node for node in result.model.graph.node if forward.isdisjoint(node.output)]
    return answer, forward.intersection(name for node in back for name in node.input)


@pytest.mark.parametrize("nodes", [PYTORCH, KERAS, HALVED_FIRST], ids=["pytorch", "keras", "halved first"])
def test_a_gelu_in_parts_has_the_slope_of_a_gelu_and_leaves_its_parts_to_be_fused(nodes: list[onnx.NodeProto]) -> None:
    """The way back reads x alone: what is read by nobody else, the runtime can fuse."""
    found, read = slopes(nodes)
    np.testing.assert_allclose(found, np.vectorize(gelu_slope)(X), atol=1e-6)
    assert read == {"x"}


@pytest.mark.parametrize("nodes", [SILU, SILU_TURNED], ids=["x s", "s x"])
def test_a_silu_in_parts_has_the_slope_of_a_silu_read_from_both_ends(nodes: list[onnx.NodeProto]) -> None:
    """s + y (1 - s): the sigmoid is written anew, which the runtime recognises as the same."""
    found, read = slopes(nodes)
    np.testing.assert_allclose(found, np.vectorize(silu_slope)(X), atol=1e-6)
    assert read == {"x", "y"}


@pytest.mark.parametrize("inner", ["u", "e", "a", "b"])
def test_a_part_that_is_asked_for_has_its_own_gradient(inner: str) -> None:
    """y = x a / 2 with a = 1 + erf(u): the slopes at b = x a, at a and e, and at u follow from the chain rule."""
    x = X.astype(np.float64)
    at_u = x / 2 * 2 / math.sqrt(math.pi) * np.exp(-x * x / 2)
    expected = {"u": at_u, "e": x / 2, "a": x / 2, "b": np.full_like(x, 0.5)}[inner]
    np.testing.assert_allclose(slopes(PYTORCH, at=inner)[0], expected, atol=1e-6)


@pytest.mark.parametrize("inner", ["u", "e", "a", "b"])
def test_a_part_that_is_read_elsewhere_too_counts_twice(inner: str) -> None:
    """z = y + part: the slope is that of the GELU and that of the part."""
    x = X.astype(np.float64)
    density = np.exp(-x * x / 2)
    distribution = 1 + np.vectorize(math.erf)(x / math.sqrt(2))
    slope_of_e = math.sqrt(2 / math.pi) * density
    part = {
        "u": np.full_like(x, math.sqrt(0.5)),
        "e": slope_of_e,
        "a": slope_of_e,
        "b": distribution + x * slope_of_e,
    }[inner]
    found, _ = slopes([*PYTORCH, node("Add", ["y", inner], ["z"])], "z")
    np.testing.assert_allclose(found, np.vectorize(gelu_slope)(X) + part, atol=1e-6)


def test_what_only_looks_like_one_keeps_its_own_slope() -> None:
    """x (1 + erf(x / 1.3)) / 2, and x by the sigmoid of something else."""
    x = X.astype(np.float64)
    stretched = [node("Div", ["x", "other"], ["u"]), *PYTORCH[1:]]
    expected = (1 + np.vectorize(math.erf)(x / 1.3)) / 2 + x / 1.3 / math.sqrt(math.pi) * np.exp(-((x / 1.3) ** 2))
    np.testing.assert_allclose(slopes(stretched)[0], expected, atol=1e-6)
    gated = [node("Mul", ["x", "two"], ["v"]), node("Sigmoid", ["v"], ["s"]), node("Mul", ["x", "s"], ["y"])]
    s = 1 / (1 + np.exp(-2 * x))
    np.testing.assert_allclose(slopes(gated)[0], s + 2 * x * s * (1 - s), atol=1e-6)
