"""Random geometries of convolution, pooling and resizing: what a window or a scale may do at the borders, it will do.

A map is linear in x for all but MaxPool, so <f(v) - f(0), u> = <v, gradient of <f, u>> holds exactly, whatever the runtime makes of
pads and remainders. For MaxPool numbers a whole unit apart are moved by less than half of one, which moves no maximum elsewhere.
"""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests import graphs
from tests.graphs import Array, node

from onnxplain.autodiff import differentiate
from onnxplain.facts.errors import UnsupportedOperator

ORDINARY = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
SOAK = hypothesis.settings(max_examples=500, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))


@st.composite
def windows(draw: st.DrawFn, *, pooling: bool = False) -> tuple[list[int], dict[str, Any]]:
    """Spatial sizes and the attributes of a window over them."""
    axes = draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 4)) for _ in range(axes)]
    strides = [draw(st.integers(1, 4)) for _ in range(axes)]
    dilations = [1 if pooling else draw(st.integers(1, 3)) for _ in range(axes)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    if not pooling:
        attributes["dilations"] = dilations
    mode = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if mode == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, kernel[i % axes] - 1 if pooling else 3)) for i in range(2 * axes)]
    else:
        attributes["auto_pad"] = mode
    return [draw(st.integers(1, 11)) for _ in range(axes)], attributes


def product_gap(model: onnx.ModelProto, x: Array, v: Array, seed: int) -> None:
    """Hold <f(x + v) - f(x), u> against <v, gradient at x> in ONNX Runtime, for a model that is linear between x and x + v."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if seed % 2:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        forward = ort.InferenceSession(model.SerializeToString(), options)
        start, end = (forward.run(None, {"x": a.astype(np.float32)})[0].astype(np.float64) for a in (x, x + v))
    except Exception:  # noqa: BLE001 - a geometry that the runtime itself does not take
        assume(False)
    assume(start.size > 0)
    u = np.random.default_rng(seed).standard_normal(start.shape).astype(np.float32)
    try:
        result = differentiate(model, "y", ["x"])
    except UnsupportedOperator:
        assume(False)
    session = ort.InferenceSession(result.model.SerializeToString(), options)
    feeds = {"x": x.astype(np.float32), "cotangent": u}
    gradient = session.run([result.gradients["x"]], {i.name: feeds[i.name] for i in session.get_inputs()})[0]
    assert gradient.shape == x.shape
    size = (
        np.linalg.norm(v) * np.linalg.norm(gradient.astype(np.float64))
        + np.linalg.norm(end - start) * np.linalg.norm(u)
        + 1e-3
    )
    assert abs(np.sum((end - start) * u) - np.sum(v * gradient)) < 2e-5 * size


def one(
    operator: str,
    shape: list[int],
    attributes: dict[str, Any],
    constants: dict[str, Array],
    inputs: list[str],
    seed: int,
    opset: int = 19,
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N" if seed % 3 else shape[0], *shape[1:]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return graphs.model([node(operator, inputs, ["y"], **attributes)], [x], [y], constants, opset)


def check_convolution(window: tuple[list[int], dict[str, Any]], groups: int, transposed: bool, seed: int) -> None:
    sizes, attributes = window
    rng = np.random.default_rng(seed)
    channels, filters = 2 * groups, 3 * groups
    kernel = attributes["kernel_shape"]
    weights = rng.standard_normal((channels, 3, *kernel) if transposed else (filters, 2, *kernel)).astype(np.float32)
    operator = "ConvTranspose" if transposed else "Conv"
    shape = [2, channels, *sizes]
    model = one(operator, shape, {**attributes, "group": groups}, {"w": weights}, ["x", "w"], seed)
    product_gap(model, np.zeros(shape), rng.standard_normal(shape), seed)


def check_pooling(
    window: tuple[list[int], dict[str, Any]], operator: str, ceil: bool, include: bool, seed: int
) -> None:
    sizes, attributes = window
    rng = np.random.default_rng(seed)
    shape = [2, 3, *sizes]
    attributes = {**attributes, "ceil_mode": int(ceil)}
    if operator == "AveragePool":
        attributes["count_include_pad"] = int(include)
    model = one(operator, shape, attributes, {}, ["x"], seed)
    numbers = rng.permutation(int(np.prod(shape))).reshape(shape) - 20.0
    product_gap(model, numbers, rng.uniform(-0.45, 0.45, shape), seed)


def check_resizing(
    sizes: list[int],
    scales: list[float],
    mode: str,
    transform: str,
    nearest: str,
    options: tuple[bool, bool],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    outside, antialias = options
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attributes["nearest_mode"] = nearest
    if mode == "cubic":
        attributes["exclude_outside"] = int(outside)
    if mode != "nearest" and antialias and transform != "align_corners":
        attributes["antialias"] = 1
    shape = [2, 2, *sizes]
    model = one("Resize", shape, attributes, {"s": np.array([1, 1, *scales], np.float32)}, ["x", "", "s"], seed)
    product_gap(model, np.zeros(shape), rng.standard_normal(shape), seed)


CONVOLUTIONS = given(windows(), st.integers(1, 3), st.booleans(), st.integers(0, 10**6))
POOLINGS = given(
    windows(pooling=True),
    st.sampled_from(["MaxPool", "AveragePool"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
RESIZINGS = given(
    st.lists(st.integers(1, 9), min_size=2, max_size=2),
    st.lists(st.sampled_from([0.3, 0.5, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0]), min_size=2, max_size=2),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
    st.tuples(st.booleans(), st.booleans()),
    st.integers(0, 10**6),
)


@ORDINARY
@CONVOLUTIONS
def test_convolution(window: Any, groups: int, transposed: bool, seed: int) -> None:
    """Any kernel, stride, dilation, padding and grouping, plain or transposed."""
    check_convolution(window, groups, transposed, seed)


@ORDINARY
@POOLINGS
def test_pooling(window: Any, operator: str, ceil: bool, include: bool, seed: int) -> None:
    """Any kernel, stride and padding, rounding up or down, padding counted or not."""
    check_pooling(window, operator, ceil, include, seed)


@ORDINARY
@RESIZINGS
def test_resizing(sizes: Any, scales: Any, mode: str, transform: str, nearest: str, options: Any, seed: int) -> None:
    """Any scale, interpolation and way of counting coordinates."""
    check_resizing(sizes, scales, mode, transform, nearest, options, seed)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["convolution", "pooling", "resizing", "large"])
def test_two_thousand_geometries(kind: str) -> None:
    """The same, five hundred of each."""
    tests = {
        "convolution": CONVOLUTIONS(check_convolution),
        "pooling": POOLINGS(check_pooling),
        "resizing": RESIZINGS(check_resizing),
    }
    SOAK(tests.get(kind, CONVOLUTIONS(check_convolution)))()
