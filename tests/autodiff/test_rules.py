"""Every rule, held against central differences: a row per operator, attributes and shapes.

A row is differentiated with a random cotangent. In float64 the reference implementation of ONNX runs forward and backward graph,
and the gradient's inner product with random directions must be the slope along them. In float32 ONNX Runtime must give the same
gradient, with its graph optimisations and without them, for a batch left open and for a fixed one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator
from tests import graphs
from tests.graphs import Array

from onnxplain.autodiff import RULES, differentiate

STEP = 1e-5
FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Operand:
    """An input of the operator: differentiated, given at run time, or a constant of the graph."""

    array: Array
    role: str


@dataclass(frozen=True)
class Case:
    operator: str
    operands: tuple[Operand | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    of: int = 0
    opset: int = 18
    batch: bool = True  # the first axis of its differentiated inputs is a batch axis
    reference: bool = True  # the reference implementation knows it in float64; else ONNX Runtime is asked, in float32

    def __str__(self) -> str:
        shapes = ",".join("-" if o is None else "x".join(map(str, o.array.shape)) or "scalar" for o in self.operands)
        options = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.operator}({shapes}){options}@{self.opset}".replace(" ", "")


def x(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Operand:
    """Numbers to differentiate by: all different, none near 0 or another whole number, so that no kink is near."""
    count = int(np.prod(shape, dtype=np.int64))
    numbers = np.linspace(low, high, count + 2)[1:-1] + 0.00123
    return Operand(np.random.default_rng(seed).permutation(numbers).reshape(shape), "x")


def exactly(*numbers: float) -> Operand:
    return Operand(np.array(numbers), "x")


def fixed(array: Any, dtype: Any = None) -> Operand:
    """A constant of the graph; whole numbers are int64."""
    return Operand(np.asarray(array, dtype), "fixed")


def weights(*shape: int, seed: int = 1) -> Operand:
    return fixed(np.random.default_rng(seed).standard_normal(shape))


def given(array: Any, dtype: Any = None) -> Operand:
    """An input at run time that is not differentiated."""
    return Operand(np.asarray(array, dtype), "given")


def between_places(corners: int) -> Operand:
    """A grid over 4 rows and 5 columns whose points lie between places, some beyond the border: never near a kink."""
    rng = np.random.default_rng(3)
    size = np.array([5, 4])
    points = rng.integers(-1, size, (2, 2, 3, 2)) + rng.uniform(0.3, 0.7, (2, 2, 3, 2))
    return Operand(2 * points / (size - 1) - 1 if corners else (2 * points + 1) / size - 1, "x")


def rows(operator: str, *cases: tuple[Any, ...], **options: Any) -> list[Case]:
    """Cases of one operator: operands, then perhaps a dictionary of attributes."""
    made = []
    for case in cases:
        attributes = case[-1] if case and isinstance(case[-1], dict) else {}
        operands = case[:-1] if attributes or (case and isinstance(case[-1], dict)) else case
        made.append(Case(operator, tuple(operands), attributes, **options))
    return made


IMAGE = (2, 4, 6, 7)
GRID = np.random.default_rng(6).uniform(-1.3, 1.3, (2, 3, 4, 2))
CASES: list[Case] = [
    # arithmetic
    *(c for name in ("Add", "Sub", "Mul", "Max", "Min") for c in rows(
        name, (x(2, 3), x(2, 3, seed=5)), (x(2, 3, 4), x(4, seed=5)), (x(2, 1, 4), x(2, 3, 1, seed=5)), (x(2, 3), given(0.5)), (fixed(0.7), x(2, 3)))),
    *rows("Div", (x(2, 3), x(2, 3, low=1, high=3)), (x(2, 3, 4), x(4, low=1, high=3)), (fixed(2.0), x(2, 3, low=1, high=3))),
    *rows("Mod", (x(2, 3, low=1, high=9), fixed(np.array([2.3, 1.7, 3.1])), {"fmod": 1}), (x(2, 3, low=7, high=7.9), x(2, 3, low=3.1, high=3.4), {"fmod": 1})),
    *rows("Pow", (x(2, 3), fixed(2.0)), (x(2, 3), fixed(3.0)), (x(2, 3), fixed(2)), (x(2, 3, low=1, high=2), x(2, 3, low=1, high=3)),
          (x(2, 3, low=1, high=2), fixed(-0.5)), (x(2, 3, low=1, high=2), given([0.5, 1.5, 2.5]))),
    *rows("Sum", (x(2, 3), x(3, seed=3), x(2, 1, seed=4)), (x(2, 3),)),
    *rows("Mean", (x(2, 3), x(3, seed=3), x(2, 1, seed=4))),
    *rows("Max", (x(2, 3), x(2, 3, seed=1), x(2, 3, seed=2)), (x(2, 3),)),
    *rows("Where", (given([[True, False, True]]), x(2, 3), x(2, 1, seed=2)), (given([[False, True, True]]), x(2, 3), fixed(0.5))),
    *(c for name in ("Neg", "Abs", "Exp", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Identity", "Sigmoid", "Tanh", "Softplus",
                     "Softsign", "Mish", "Relu", "HardSwish") for c in rows(name, (x(2, 3, 4, low=-1.4, high=1.4),))),
    *rows("Erf", (x(2, 3, 4),), reference=False),
    *rows("HardSwish", (x(2, 20, low=-5, high=5),)),
    *(c for name in ("Sqrt", "Log", "Reciprocal") for c in rows(name, (x(2, 3, low=0.5, high=3),))),
    *(c for name in ("Asin", "Acos", "Atanh") for c in rows(name, (x(2, 3, low=-0.9, high=0.9),))),
    *rows("Acosh", (x(2, 3, low=1.5, high=3),)),
    # activations
    *rows("LeakyRelu", (x(2, 9),), (x(2, 9), {"alpha": 0.3}), (x(2, 9), {"alpha": -0.3})),
    *rows("PRelu", (x(2, 3, 4), weights(3, 1)), (x(2, 3, 4), x(3, 1, seed=2)), (x(2, 3), fixed(0.25))),
    *rows("Elu", (x(2, 9),), (x(2, 9), {"alpha": 0.4}), (x(2, 9), {"alpha": -0.4})),
    *rows("Selu", (x(2, 9),), (x(2, 9), {"alpha": 1.3, "gamma": 0.8})),
    *rows("Celu", (x(2, 9),), (x(2, 9), {"alpha": 0.6}), reference=False),
    *rows("ThresholdedRelu", (x(2, 9),), (x(2, 9), {"alpha": -0.5})),
    *rows("Shrink", (x(2, 9),), (x(2, 9), {"lambd": 0.9, "bias": 0.3})),
    *rows("HardSigmoid", (x(2, 20, low=-5, high=5),), (x(2, 20, low=-5, high=5), {"alpha": 1 / 6, "beta": 0.5})),
    *rows("Clip", (x(2, 20), fixed(-1.0), fixed(1.0)), (x(2, 20), None, fixed(0.5)), (x(2, 20), given(-0.5)), (x(2, 20),)),
    *rows("Gelu", (x(2, 9),), (x(2, 9), {"approximate": "tanh"}), opset=20, reference=False),
    *rows("Swish", (x(2, 9),), (x(2, 9), {"alpha": 1.7}), opset=24, reference=False),
    *(c for name in ("Softmax", "LogSoftmax") for c in rows(name, (x(2, 5),), (x(2, 3, 4), {"axis": 1}), (x(2, 3, 4), {"axis": -2}))),
    # linear
    *rows("Conv", (x(*IMAGE), weights(5, 4, 3, 3)), (x(*IMAGE), weights(5, 4, 3, 3), weights(5), {"pads": [1, 1, 1, 1]}),
          (x(*IMAGE), weights(5, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}), (x(*IMAGE), weights(5, 4, 3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
          (x(*IMAGE), weights(5, 4, 3, 3), {"pads": [2, 0, 1, 3]}), (x(*IMAGE), weights(6, 2, 3, 3), {"pads": [1, 1, 1, 1], "group": 2}),
          (x(*IMAGE), weights(4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}), (x(*IMAGE), weights(8, 1, 3, 3), {"group": 4}),
          (x(*IMAGE), weights(5, 4, 1, 1)), (x(*IMAGE), weights(5, 4, 1, 1), {"strides": [2, 2]}), (x(*IMAGE), weights(5, 4, 1, 1), {"strides": [3, 2]}),
          (x(*IMAGE), weights(5, 4, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}), (x(*IMAGE), weights(5, 4, 2, 2), {"dilations": [2, 3], "strides": [2, 2], "pads": [1, 1, 0, 1]}),
          (x(*IMAGE), weights(5, 4, 2, 2), {"strides": [3, 3]}), (x(*IMAGE), weights(5, 4, 1, 1), {"pads": [1, 1, 1, 1]}),
          *((x(2, c, 6, 4), weights(2, c, 3, 5), {"strides": [2, 2], "pads": pads}) for c in (3, 17) for pads in ([1, 2, 1, 2], [0, 1, 2, 3], [2, 0, 1, 1])),
          (x(2, 17, 8, 4), weights(2, 17, 4, 4), {"strides": [4, 4]}), (x(2, 2, 6, 9), weights(2, 2, 5, 4), {"strides": [3, 3], "pads": [2, 1, 1, 2]}),
          *((x(*IMAGE), weights(5, 4, 3, 2), {"auto_pad": mode, "strides": [s, s]}) for mode in ("SAME_UPPER", "SAME_LOWER", "VALID") for s in (1, 2)),
          (x(2, 3, 9), weights(4, 3, 3), {"pads": [1, 1]}), (x(2, 3, 9), weights(4, 3, 3), {"strides": [2]}), (x(2, 2, 4, 5, 4), weights(3, 2, 2, 2, 2)),
          (x(2, 2, 4, 5, 4), weights(3, 2, 2, 2, 2), {"strides": [2, 2, 2]}), (x(*IMAGE), given(np.random.default_rng(4).standard_normal((5, 4, 3, 3))), {"pads": [1, 1, 1, 1]})),
    *rows("Conv", (x(*IMAGE), weights(6, 2, 2, 2), {"strides": [2, 2], "group": 2}), (x(*IMAGE), weights(6, 2, 3, 3), {"strides": [2, 2], "group": 2, "pads": [1, 1, 1, 1]}), reference=False),
    *rows("ConvTranspose", (x(*IMAGE), weights(4, 3, 3, 3)), (x(*IMAGE), weights(4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
          (x(*IMAGE), weights(4, 3, 2, 2), weights(3), {"strides": [2, 2]}),
          (x(*IMAGE), weights(4, 3, 3, 3), {"dilations": [2, 2]})),
    *rows("ConvTranspose", (x(*IMAGE), weights(4, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}), (x(*IMAGE), weights(4, 3, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
          (x(*IMAGE), weights(4, 3, 3, 3), {"strides": [2, 2], "output_shape": [12, 14]}), (x(*IMAGE), weights(4, 3, 2, 2), {"strides": [3, 3], "output_padding": [2, 1]}),
          (x(*IMAGE), weights(4, 2, 3, 3), {"group": 2, "strides": [2, 1], "pads": [0, 1, 1, 1]}), reference=False),
    *rows("Gemm", (x(2, 3), weights(3, 4)), (x(2, 3), weights(4, 3), weights(4), {"transB": 1}), (x(2, 3), weights(4, 3), x(4, seed=2), {"transB": 1, "alpha": 0.5, "beta": 2.0})),
    *rows("Gemm", (x(3, 2), weights(3, 4), {"transA": 1}), (x(3, 2), weights(4, 3), {"transA": 1, "transB": 1}), (weights(2, 3), x(3, 4)), (weights(2, 3), x(4, 3), {"transB": 1}),
          (weights(3, 2), x(3, 4), {"transA": 1}), (weights(3, 2), x(4, 3), {"transA": 1, "transB": 1}), batch=False),
    *rows("MatMul", (x(2, 3), weights(3, 4)), (x(2, 3, 4), x(2, 4, 5, seed=2)), (x(2, 3, 4), x(4, 5, seed=2)), (x(2, 1, 3, 4), x(2, 5, 4, 2, seed=2)), (x(2, 3, 4), x(4, seed=2)),
          (x(2, 3), weights(3)), (weights(5, 3), x(2, 3, 4))),
    *rows("MatMul", (x(3), x(3, 4, seed=2)), (x(3), x(3, seed=2)), (x(3), x(2, 3, 4, seed=2)), batch=False),
    *rows("Einsum", (x(2, 3), weights(3, 4), {"equation": "ij,jk->ik"}), (x(2, 3, 4), x(2, 5, 4, seed=2), {"equation": "bij,bkj->bik"}), (x(2, 3), {"equation": "ij->i"}),
          (x(2, 3, 4), {"equation": "bij->bji"}), (x(2, 3), x(2, 4, seed=2), {"equation": "bi,bj->b"}), (x(2, 3, 4), x(2, 3, 4, seed=2), {"equation": "bij, bij"}),
          (x(2, 3, 4), weights(4, 5), {"equation": "...k,kl->...l"}), (x(2, 3, 4), x(2, 3, 5, seed=2), {"equation": "...ij,...ik->...jk"})),
    *rows("DFT", (x(2, 6, 5, 1),), (x(2, 6, 5, 2), {"axis": 2}), (x(2, 6, 2), {"inverse": 1}), (x(2, 6, 5, 1), {"axis": 2, "onesided": 1}),
          (x(2, 6, 5, 2), {"onesided": 1, "inverse": 1}), (x(2, 6, 2), fixed(9), {"onesided": 1, "inverse": 1}), (x(2, 6, 2), fixed(4)),
          (x(2, 6, 1), fixed(9), {"onesided": 1})),
    *rows("DFT", (x(2, 6, 5, 1),), (x(2, 6, 5, 2), None, fixed(1), {"inverse": 1}), (x(2, 6, 5, 1), fixed(8), fixed(-2), {"onesided": 1}), opset=20),
    # pooling
    *rows("MaxPool", (x(*IMAGE, low=-50, high=50), {"kernel_shape": [2, 2], "strides": [2, 2]}), (x(*IMAGE, low=-50, high=50), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
          (x(*IMAGE, low=-50, high=50), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}), (x(*IMAGE, low=-50, high=50), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
          (x(2, 3, 9), {"kernel_shape": [3]}), (x(*IMAGE, low=-50, high=50), {"kernel_shape": [2, 2], "dilations": [2, 2]}), (x(*IMAGE, low=-50, high=50), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
          (x(*IMAGE, low=-50, high=50), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}), (x(2, 2, 4, 4, 4, low=-50, high=50), {"kernel_shape": [2, 2, 2]}), reference=False),
    *rows("MaxPool", (x(*IMAGE, low=-50, high=50), {"kernel_shape": [2, 2], "strides": [2, 2]}), outputs=2, reference=False),
    *rows("MaxUnpool", (x(1, 1, 2, 2), fixed([[[[0, 3], [9, 14]]]]), {"kernel_shape": [2, 2], "strides": [2, 2]}), batch=False),
    *rows("AveragePool", (x(*IMAGE), {"kernel_shape": [2, 2], "strides": [2, 2]}), (x(2, 4, 6, 6), {"kernel_shape": [2, 2], "strides": [2, 2]}),
          *((x(*IMAGE), {"kernel_shape": [3, 3], "strides": [s, s], "pads": [1, 1, 1, 1], "count_include_pad": c, "ceil_mode": m}) for s in (1, 2) for c in (0, 1) for m in (0, 1)),
          (x(*IMAGE), {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1}), (x(*IMAGE), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
          (x(*IMAGE), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}), (x(2, 3, 8), {"kernel_shape": [3], "strides": [2]}), (x(2, 2, 4, 5, 4), {"kernel_shape": [2, 3, 2]}), reference=False),
    *rows("AveragePool", (x(*IMAGE), {"kernel_shape": [2, 2], "dilations": [2, 2]}), opset=19, reference=False),
    *rows("LpPool", (x(*IMAGE), {"kernel_shape": [2, 2], "strides": [2, 2]}), (x(*IMAGE), {"kernel_shape": [3, 3], "p": 3, "pads": [1, 1, 1, 1]}), reference=False),
    *rows("GlobalAveragePool", (x(*IMAGE),), (x(2, 3, 5),)),
    *rows("GlobalMaxPool", (x(*IMAGE, low=-50, high=50),), (x(2, 3, 5),), reference=False),
    *rows("GlobalLpPool", (x(*IMAGE),), (x(*IMAGE), {"p": 3}), reference=False),
    # resampling
    *(c for mode in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel") for kind in ("nearest", "linear", "cubic") for c in [
        *rows("Resize", (x(2, 2, 4, 5), None, fixed([1.0, 1, 2, 2.5], np.float32), {"mode": kind, "coordinate_transformation_mode": mode}), opset=19, reference=False),
        *rows("Resize", (x(2, 2, 6, 5), None, None, fixed([2, 2, 3, 4]), {"mode": kind, "coordinate_transformation_mode": mode}), opset=19, reference=False, batch=False)]),
    *rows("Resize", *((x(2, 2, 4, 5), None, fixed([1.0, 1, 2, 2], np.float32), {"mode": "nearest", "nearest_mode": near, "coordinate_transformation_mode": "asymmetric"})
                      for near in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
          (x(2, 2, 6, 8), None, fixed([1.0, 1, 0.5, 0.5], np.float32), {"mode": "linear", "antialias": 1}), (x(2, 2, 6, 8), None, fixed([1.0, 1, 0.6, 0.5], np.float32), {"mode": "cubic", "antialias": 1}),
          (x(2, 2, 4, 5), None, None, fixed([7, 9]), {"mode": "linear", "axes": [2, 3]}), (x(2, 2, 4, 5), None, fixed([1.0, 1, 2, 2], np.float32), {"mode": "cubic", "exclude_outside": 1}),
          (x(2, 2, 4, 5), None, fixed([1.0, 1, 2, 2], np.float32), {"mode": "cubic", "cubic_coeff_a": -0.5}), (x(2, 2, 4, 8), None, None, fixed([6, 6]), {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"}),
          (x(2, 2, 4, 8), None, None, fixed([6, 7]), {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": "not_smaller"}), (x(2, 2, 5), None, fixed([1.0, 1, 2], np.float32), {"mode": "linear"}), opset=19, reference=False),
    *(c for corners in (0, 1) for c in rows(
        "GridSample", *((x(2, 3, 4, 5, low=-50, high=50), given(GRID, np.float32), {"mode": mode, "padding_mode": pad, "align_corners": corners}) for mode in ("linear", "nearest") for pad in ("zeros", "border")),
        opset=20, reference=False)),
    *(c for corners in (0, 1) for c in rows(
        "GridSample", *((weights(2, 3, 4, 5), between_places(corners), {"padding_mode": pad, "align_corners": corners}) for pad in ("zeros", "border")), opset=20, reference=False)),
    *rows("Col2Im", (x(2, 12, 6), fixed([3, 4]), fixed([2, 2])), (x(2, 18, 4), fixed([5, 5]), fixed([3, 3]), {"strides": [2, 2]}), (x(2, 8, 16), fixed([4, 6]), fixed([2, 2]), {"pads": [1, 0, 0, 0], "dilations": [1, 2]})),
    # normalisation
    *rows("BatchNormalization", (x(*IMAGE), weights(4), weights(4), weights(4), fixed([0.5, 1.0, 2.0, 3.0])), (x(2, 4), weights(4), weights(4), weights(4), fixed([0.5, 1.0, 2.0, 3.0]), {"epsilon": 0.1}),
          (x(*IMAGE), given([1.0, 2, 3, 4]), weights(4), weights(4), given([0.5, 1.0, 2.0, 3.0]))),
    *rows("LayerNormalization", (x(2, 3, 8), weights(8), weights(8)), (x(2, 3, 4), weights(3, 4), {"axis": 1, "epsilon": 0.01}), (x(2, 3, 8), fixed(np.ones(8)))),
    *rows("RMSNormalization", (x(2, 3, 8), weights(8)), (x(2, 3, 4), weights(3, 4), {"axis": -2, "epsilon": 0.01}), opset=23, reference=False),
    *rows("InstanceNormalization", (x(*IMAGE), weights(4), weights(4)), (x(2, 3, 7), weights(3), weights(3), {"epsilon": 0.01})),
    *rows("GroupNormalization", (x(*IMAGE), weights(4), weights(4), {"num_groups": 2, "epsilon": 0.01}), opset=21, reference=False),
    *rows("LpNormalization", (x(2, 5),), (x(2, 3, 4), {"axis": 1, "p": 1}), (x(2, 3, 4), {"axis": 1}), reference=False),
    *rows("LRN", (x(2, 7, 3, 3), {"size": 3, "alpha": 0.5, "bias": 1.5}), (x(2, 7, 3, 3), {"size": 5, "beta": 0.6}), reference=False),
    *rows("Dropout", (x(2, 5),), (x(2, 5), fixed(0.3), fixed(False))),
    # reductions
    *(c for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp") for c in rows(
        name, (x(2, 3, 4), fixed([1])), (x(2, 3, 4), fixed([-1, 1]), {"keepdims": 0}), (x(2, 3, 4),), (x(2, 3, 4), fixed([0]), {"keepdims": 0}))),
    *rows("ReduceSum", (x(2, 3), fixed([], np.int64), {"noop_with_empty_axes": 1})),
    *rows("ReduceMax", (x(2, 3), fixed([], np.int64), {"noop_with_empty_axes": 1}), reference=False),
    *rows("ReduceProd", (x(2, 3, 2), fixed([1])), (x(2, 3), fixed([1]), {"keepdims": 0}), (Operand(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [1.0, 2.0, 3.0]]), "x"), fixed([1]))),
    *rows("ReduceLogSum", (x(2, 3, 4, low=1, high=3), fixed([1])), (x(2, 3, 4, low=1, high=3), fixed([1, 2]), {"keepdims": 0})),
    *rows("CumSum", (x(2, 5), fixed(1)), (x(2, 5), fixed(1), {"exclusive": 1}), (x(2, 5), fixed(-1), {"reverse": 1}), (x(2, 5), fixed(1), {"reverse": 1, "exclusive": 1})),
    *rows("TopK", (x(2, 7), fixed([3])), (x(2, 5, 3), fixed([2]), {"axis": 1, "largest": 0}), outputs=2),
    # shape
    *rows("Reshape", (x(2, 3, 4), fixed([0, -1])), (x(2, 3, 4), fixed([-1, 2])), (x(2, 6), fixed([0, 2, 3]))),
    *rows("Flatten", (x(2, 3, 4),), (x(2, 3, 4), {"axis": 2}), (x(2, 3, 4), {"axis": -1}), (x(2, 3), {"axis": 0})),
    *rows("Squeeze", (x(2, 1, 3, 1), fixed([1, -1])), (x(2, 1, 3), fixed([1]))),
    *rows("Unsqueeze", (x(2, 3), fixed([0, -1])), (x(2, 3), fixed([2]))),
    *rows("Expand", (x(2, 1, 3), fixed([1, 4, 3])), (x(2, 3), fixed([4, 1, 1])), (x(2, 1), given([2, 3]))),
    *rows("Tile", (x(2, 3), fixed([1, 2])), (x(2, 3, 2), fixed([2, 1, 3]))),
    *rows("Transpose", (x(2, 3, 4),), (x(2, 3, 4), {"perm": [0, 2, 1]}), (x(2, 3, 4), {"perm": [2, 0, 1]})),
    *rows("Concat", (x(2, 3), x(2, 2, seed=2), {"axis": 1}), (x(2, 3), weights(1, 3), {"axis": 0}), (x(2, 3), x(2, 3, seed=2), {"axis": -1})),
    *rows("Split", (x(2, 5), fixed([2, 3]), {"axis": 1}), (x(2, 6), {"axis": -1, "num_outputs": 2}), outputs=2),
    *rows("Split", (x(2, 5), fixed([2, 3]), {"axis": 1}), outputs=2, of=1),
    *rows("Slice", (x(2, 6), fixed([1]), fixed([4]), fixed([1])), (x(2, 6), fixed([1]), fixed([FAR]), fixed([-1]), fixed([2])), (x(2, 6), fixed([-1]), fixed([-FAR]), fixed([1]), fixed([-1])),
          (x(2, 6), fixed([4]), fixed([0]), fixed([1]), fixed([-2])), (x(2, 6, 5), fixed([0, -3]), fixed([4, -1]), fixed([1, 2])), (x(2, 6), fixed([1]), fixed([FAR]), fixed([0])),
          (x(2, 6, 5), fixed([0, 0]), fixed([FAR, FAR]), fixed([1, 2]), fixed([2, 2])), (x(2, 6), given([1]), given([5]), fixed([1])), (x(3, 4), fixed([0, 1]), fixed([2, 3]))),
    *rows("Pad", (x(2, 3, 4), fixed([0, 1, 2, 0, 0, 1])), (x(2, 3, 4), fixed([0, 1, 2, 0, 0, 1]), fixed(0.5)), (x(2, 3, 4), fixed([1, 2]), None, fixed([2]))),
    *rows("Pad", (x(2, 3, 4), fixed([0, -1, 1, 0, 1, -1])), (x(2, 3, 4), fixed([0, 0, -1, 0, 0, 0])), reference=False),
    *rows("Pad", *((x(2, 3, 5), fixed([0, 2, 1, 0, 1, 3]), {"mode": mode}) for mode in ("reflect", "edge")), (x(2, 3, 5), fixed([2, 4]), None, fixed([-1]), {"mode": "reflect"})),
    *rows("Pad", (x(2, 3, 5), fixed([0, 2, 1, 0, 1, 3]), {"mode": "wrap"}), opset=19),
    *rows("Trilu", (x(2, 4, 4),), (x(2, 4, 5), fixed(-1), {"upper": 0}), (x(2, 4, 4), given(1))),
    *rows("ReverseSequence", (x(4, 3, 2), fixed([2, 4, 1]), {"time_axis": 0, "batch_axis": 1}), batch=False),
    *rows("DepthToSpace", (x(2, 8, 2, 3), {"blocksize": 2}), (x(2, 8, 2, 3), {"blocksize": 2, "mode": "CRD"})),
    *rows("SpaceToDepth", (x(2, 2, 4, 6), {"blocksize": 2})),
    *rows("CastLike", (x(2, 3), given(1.0, np.float32)), reference=False),
    # indexing
    *rows("Gather", (x(2, 5), fixed(0), {"axis": 1}), (x(2, 5), fixed([3, -1]), {"axis": 1}), (x(2, 5, 3), fixed([[0, 1], [1, 1]]), {"axis": 1}), (x(2, 5), given([4, 0, 0]), {"axis": 1}),
          (x(3, 4), given([2, 0, 2]), {"axis": 0}), (x(2, 5), fixed([1, 2, 3]), {"axis": -1}), (x(2, 5), fixed([0, 2, 4, 1, 3]), {"axis": 1})),
    *rows("Compress", (x(2, 4), given([True, False, True, True]), {"axis": 1}), (x(2, 3), given([True, False, True, True, False, True])), (x(2, 4), fixed([False, True]), {"axis": 0})),
    *rows("GatherElements", (x(2, 4), given([[0, 0, 3], [1, -1, 2]]), {"axis": 1}), (x(3, 2), given([[0, 1], [0, 2]]))),
    *rows("GatherND", (x(3, 4), given([[0, 1], [2, 3], [0, 1]])), (x(3, 4), given([[2], [0]])), (x(2, 3, 4), given([[[1], [0]], [[2], [2]]]), {"batch_dims": 1})),
    *rows("ScatterElements", (x(2, 5), given([[1, 3], [0, 4]]), x(2, 2, seed=3), {"axis": 1}), (x(2, 5), given([[1, 1], [0, 4]]), x(2, 2, seed=3), {"axis": 1, "reduction": "add"})),
    *rows("ScatterND", (x(4, 3), given([[1], [3]]), x(2, 3, seed=3)), (x(4, 3), given([[1], [1]]), x(2, 3, seed=3), {"reduction": "add"}), batch=False),
    # quantised: steps have slope one, so central differences over a whole number of steps are exact
    *rows("ai.onnx.ml.Scaler", (x(2, 3), {"scale": [0.5, 2.0, 3.0], "offset": [1.0, 0.0, -1.0]}), (x(2, 3), {"scale": [0.5], "offset": [1.0]}), reference=False),
    *rows("ai.onnx.ml.Normalizer", (x(2, 4), {"norm": "L2"}), (x(2, 4), {"norm": "L1"}), reference=False),
    *rows("ai.onnx.ml.LinearRegressor", (x(2, 3), {"coefficients": [0.5, -1.0, 2.0], "intercepts": [0.1], "targets": 1}), reference=False),
    *rows("ai.onnx.ml.LinearClassifier", *((x(2, 3), {"coefficients": [0.5, -1.0, 2.0, 1.0, 0.0, -0.5], "intercepts": [0.1, 0.2], "classlabels_ints": [0, 1], "post_transform": post})
                                           for post in ("NONE", "SOFTMAX", "LOGISTIC")), outputs=2, of=1, reference=False),
]  # fmt: skip


def build(case: Case, dtype: Any, *, dynamic: bool) -> tuple[Any, dict[str, Array], list[str]]:
    """The model of one node, its feeds, and the names to differentiate by."""
    names, inputs, constants, feeds, wrt = [], [], {}, {}, []
    for index, operand in enumerate(case.operands):
        name = "" if operand is None else f"in{index}"
        names.append(name)
        if operand is None:
            continue
        array = operand.array.astype(dtype) if operand.array.dtype == np.float64 else operand.array
        if operand.role == "fixed":
            constants[name] = array
            continue
        first = next(o.array.shape[0] for o in case.operands if o is not None and o.role == "x") if case.batch else None
        open_batch = dynamic and operand.role == "x" and array.ndim > 1 and array.shape[0] == first
        inputs.append(graphs.value(name, array, dynamic_batch=open_batch))
        feeds[name] = array
        if operand.role == "x":
            wrt.append(name)
    outputs = [f"out{i}" for i in range(case.outputs)]
    nodes = [graphs.node(case.operator, names, outputs, **case.attributes)]
    return graphs.model(nodes, inputs, [outputs[case.of]], constants, case.opset), feeds, wrt


def run(model: Any, feeds: dict[str, Array], *, optimised: bool = True) -> list[Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def slopes(
    case: Case,
    forward: Any,
    feeds: dict[str, Array],
    wrt: list[str],
    cotangent: Array,
    directions: list[dict[str, Array]],
) -> list[float]:
    """The change of <cotangent, y> along each direction, by central differences."""
    step = STEP if case.reference else 1e-2

    def score(sign: float, direction: dict[str, Array]) -> float:
        moved = {name: feeds[name] + sign * step * direction[name] if name in wrt else feeds[name] for name in feeds}
        if not case.reference:
            moved = {name: array.astype(np.float32) if name in wrt else array for name, array in moved.items()}
        return float(np.sum(np.asarray(forward(moved), np.float64) * cotangent))

    return [(score(1, d) - score(-1, d)) / (2 * step) for d in directions]


@pytest.mark.parametrize("dynamic", [True, False], ids=["open", "fixed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule_agrees_with_central_differences(case: Case, dynamic: bool) -> None:
    """The gradient of <cotangent, y> is the slope of it along random directions, and the same however it is run."""
    rng = np.random.default_rng(7)
    dtype = np.float64 if case.reference else np.float32
    model, feeds, wrt = build(case, dtype, dynamic=dynamic)
    if case.reference:
        evaluator = ReferenceEvaluator(model)
        forward = lambda values: evaluator.run(None, values)[0]  # noqa: E731
    else:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model.SerializeToString(), options)
        forward = lambda values: session.run(None, values)[0]  # noqa: E731
    y = np.asarray(forward(feeds))
    cotangent = rng.standard_normal(y.shape).astype(dtype)
    single, single_feeds, _ = build(case, np.float32, dynamic=dynamic)
    backward = differentiate(single, single.graph.output[0].name, wrt)
    single_feeds["cotangent"] = cotangent.astype(np.float32)
    names = [o.name for o in backward.model.graph.output]
    kept = {i.name for i in backward.model.graph.input}
    single_feeds = {name: array for name, array in single_feeds.items() if name in kept}
    plain, fast = (dict(zip(names, run(backward.model, single_feeds, optimised=o), strict=True)) for o in (False, True))
    gradient = {name: plain[backward.gradients[name]] for name in wrt}
    if case.reference:
        exact = differentiate(model, model.graph.output[0].name, wrt)
        kept = {i.name for i in exact.model.graph.input}
        results = ReferenceEvaluator(exact.model).run(
            None, {n: a for n, a in {**feeds, "cotangent": cotangent}.items() if n in kept}
        )
        gradient = {n: np.asarray(results[names.index(exact.gradients[n])]) for n in wrt}
    directions = [{name: rng.standard_normal(feeds[name].shape) for name in wrt} for _ in range(4)]
    measured = slopes(case, forward, feeds, wrt, cotangent, directions)
    computed = [sum(float(np.sum(gradient[n].astype(np.float64) * d[n])) for n in wrt) for d in directions]
    np.testing.assert_allclose(
        computed, measured, rtol=1e-6 if case.reference else 2e-2, atol=1e-6 if case.reference else 2e-2
    )
    for name in wrt:
        assert gradient[name].shape == feeds[name].shape
        scale = max(float(np.abs(gradient[name]).max()), 1e-3)
        for result in (plain, fast):
            np.testing.assert_allclose(result[backward.gradients[name]], gradient[name], rtol=1e-4, atol=1e-5 * scale)


def test_every_rule_has_a_row_and_every_row_a_rule() -> None:
    """No rule goes untested."""
    assert {case.operator for case in CASES} | ELSEWHERE == set(RULES)


ELSEWHERE = {"Cast", "QuantizeLinear", "DequantizeLinear"}  # graphs of several nodes, below
ELSEWHERE |= {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}  # likewise, in test_lowering.py
