"""Operators that ONNX Runtime's optimiser and quantiser write into files, in terms of standard ones.

An optimised file holds Conv and Relu as one `com.microsoft.FusedConv`, a quantised one `QLinearConv`. Both say nothing that standard
operators could not say; said in these, the rules apply, and the runtime fuses them again when it loads the graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxplain.autodiff.emit import Emitter
from onnxplain.autodiff.graph import Graph, Node

Lowering = Callable[[Emitter, Node], list[str] | None]
LOWERINGS: dict[str, Lowering] = {}


def lower(model: onnx.ModelProto, lowerings: Mapping[str, Lowering] = LOWERINGS) -> onnx.ModelProto:
    """The model without these operators; itself where it has none. A node that uses one in an unknown way stays."""
    if not any(_operator(node) in lowerings for node in model.graph.node):
        return model
    graph = Graph(model)
    op = Emitter(graph, prefix="lowered")
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    op.dtype = TensorProto.FLOAT16 if halves else TensorProto.FLOAT
    for proto in model.graph.node:
        write, start = lowerings.get(_operator(proto)), len(op.nodes)
        results = write(op, Node(proto, graph)) if write is not None else None
        if results is None:
            op.nodes[start:] = [proto]
            continue
        names = {result: name for name, result in zip(proto.output, results, strict=False) if name and result}
        for node in op.nodes[start:]:
            for part in (node.input, node.output):
                part[:] = [names.get(name, name) for name in part]
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    del lowered.graph.node[:]
    lowered.graph.node.extend(op.nodes)
    lowered.graph.initializer.extend(op.constants.values())
    return lowered


def in_own_domain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name the runtime's domain, in place, at operators that its optimiser writes into ONNX's, where these are none.

    LayerNormalization became one with opset 17.
    """
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    names = {"SimplifiedLayerNormalization", *({"LayerNormalization"} if version < 17 else ())}
    foreign = [node for node in model.graph.node if node.op_type in names and not node.domain]
    for node in foreign:
        node.domain = "com.microsoft"
    if foreign and all(o.domain != "com.microsoft" for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _lowers(*operators: str) -> Callable[[Lowering], Lowering]:
    """Enter the decorated function into the table; operators without a dot are the runtime's own."""

    def enter(write: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(operators, write))
        return write

    return enter


def _activated(op: Emitter, node: Node, value: str) -> str:
    """The value behind the activation that is fused into the node."""
    kind = node.attribute("activation", "")
    numbers = [float(n) for n in node.attribute("activation_params", [])]
    if not kind:
        return value
    if kind == "Clip":
        return op.emit(kind, value, *numbers)[0]
    names = {"LeakyRelu": ["alpha"], "HardSigmoid": ["alpha", "beta"]}.get(kind, [])
    settings: dict[str, Any] = dict(zip(names, numbers, strict=False))
    return op.emit(kind, value, **settings)[0]


@_lowers("com.microsoft.FusedConv")
def fused_conv(op: Emitter, node: Node) -> list[str] | None:
    """activation(w * x + b + z)."""
    x, w, b, z = (node.input(index) for index in range(4))
    settings = {k: v for k, v in node.attributes.items() if not k.startswith("activation")}
    y = op.Conv(x, w, *([b] if b else []), **settings)
    return [_activated(op, node, op.Add(y, z) if z else y)]


@_lowers("com.microsoft.FusedGemm")
def fused_gemm(op: Emitter, node: Node) -> list[str] | None:
    """activation(alpha a b + beta c)."""
    settings = {k: v for k, v in node.attributes.items() if not k.startswith("activation")}
    return [_activated(op, node, op.Gemm(*node.inputs, **settings))]


@_lowers("com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul")
def fused_mat_mul(op: Emitter, node: Node) -> list[str] | None:
    """alpha a' b'; if asked, the first axis of a' and b' is taken behind the batch axes, and the last two are exchanged."""
    operands = []
    for name, flag in zip(node.inputs, ("A", "B"), strict=True):
        rank = _rank(node, name)
        if rank is None:
            return None
        axes = list(range(rank))
        turned = [*axes[1:-1], 0, axes[-1]] if node.attribute(f"transBatch{flag}", 0) else axes
        if node.attribute(f"trans{flag}", 0):
            turned = [*turned[:-2], turned[-1], turned[-2]]
        operands.append(op.Transpose(name, perm=turned) if turned != axes else name)
    product, alpha = op.MatMul(*operands), float(node.attribute("alpha", 1.0))
    return [product if alpha == 1 else op.Mul(product, alpha)]


def _rank(node: Node, name: str) -> int | None:
    """Number of axes, if need be as the file itself declares it: behind a fused operator inference does not see."""
    shape = node.graph.shape(name)
    if shape is not None:
        return len(shape)
    kinds = (v.type.tensor_type for v in node.graph.model.graph.value_info if v.name == name)
    return next((len(kind.shape.dim) for kind in kinds if kind.HasField("shape")), None)


@_lowers("com.microsoft.Gelu", "com.microsoft.BiasGelu")
def gelu(op: Emitter, node: Node) -> list[str] | None:
    """x (1 + erf(x / sqrt 2)) / 2, of x + bias if there is one."""
    x = op.Add(*node.inputs) if node.input(1) else node.input(0)
    return [op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0)), 0.5)]


@_lowers("com.microsoft.FastGelu")
def fast_gelu(op: Emitter, node: Node) -> list[str] | None:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, of x + bias if there is one."""
    x = op.Add(*node.inputs) if node.input(1) else node.input(0)
    inner = op.Mul(op.Mul(x, op.Add(op.Mul(op.Mul(x, x), 0.044715), 1.0)), math.sqrt(2 / math.pi))
    return [op.Mul(op.Mul(x, op.Add(op.Tanh(inner), 1.0)), 0.5)]


@_lowers("com.microsoft.QuickGelu")
def quick_gelu(op: Emitter, node: Node) -> list[str] | None:
    """x sigmoid(alpha x)."""
    x, alpha = node.input(0), float(node.attribute("alpha", 1.702))
    return [op.Mul(x, op.Sigmoid(x if alpha == 1 else op.Mul(x, alpha)))]


@_lowers("com.microsoft.SkipLayerNormalization")
def skip_layer_normalization(op: Emitter, node: Node) -> list[str] | None:
    """LayerNormalization of input + skip + bias; the sum is the fourth output."""
    total = op.Add(node.input(0), node.input(1))
    if node.input(4):
        total = op.Add(total, node.input(4))
    operands = [node.input(2), *([node.input(3)] if node.input(3) else [])]
    epsilon = float(node.attribute("epsilon", 1e-12))
    return [*op.emit("LayerNormalization", total, *operands, outputs=3, axis=-1, epsilon=epsilon), total]


@_lowers("com.microsoft.LayerNormalization")
def layer_normalization(op: Emitter, node: Node) -> list[str] | None:
    """The same, under the name that it had before it was a standard operator."""
    return op.emit("LayerNormalization", *node.inputs, outputs=len(node.outputs), **node.attributes)


@_lowers("com.microsoft.SimplifiedLayerNormalization")
def simplified_layer_normalization(op: Emitter, node: Node) -> list[str] | None:
    """gamma x / sqrt(mean(x^2) + epsilon) along the last axis."""
    x, gamma = node.inputs
    rank = _rank(node, x) or 0
    return [_scaled_by_norm(op, node, x, gamma)] if node.attribute("axis", -1) in (-1, rank - 1) else None


@_lowers("com.microsoft.SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(op: Emitter, node: Node) -> list[str] | None:
    """The same of input + skip + bias; the sum is the fourth output."""
    total = op.Add(node.input(0), node.input(1))
    if node.input(3):
        total = op.Add(total, node.input(3))
    return [_scaled_by_norm(op, node, total, node.input(2)), "", "", total]


def _scaled_by_norm(op: Emitter, node: Node, x: str, gamma: str) -> str:
    square = op.Add(op.ReduceMean(op.Mul(x, x), [-1]), float(node.attribute("epsilon", 1e-5)))
    return op.Mul(op.Div(x, op.Sqrt(square)), gamma)


@_lowers("com.microsoft.Attention")
def attention(op: Emitter, node: Node) -> list[str] | None:
    """Attention of x W + b with itself; the columns of W are those of queries, keys and values."""
    x, w, b, mask, past, bias = (node.input(index) for index in range(6))
    shape, sizes = node.shape(1), node.attribute("qkv_hidden_sizes")
    if mask or past or node.attribute("unidirectional", 0) or node.attribute("do_rotary", 0) or shape is None:
        return None
    product = op.MatMul(x, w)
    parts = np.array(sizes or [(shape[1] or 0) // 3] * 3, np.int64)
    q, k, v = op.emit("Split", op.Add(product, b) if b else product, parts, outputs=3, axis=-1)
    return [_attended(op, node, q, k, v, bias)]


@_lowers("com.microsoft.MultiHeadAttention")
def multi_head_attention(op: Emitter, node: Node) -> list[str] | None:
    """Attention of queries, keys and values, each `[n, tokens, heads * d]`; one bias holds those of the three."""
    q, k, v, b, mask, bias, *past = (node.input(index) for index in range(8))
    if not k or not v or mask or any(past) or node.attribute("unidirectional", 0) or _rank(node, k) == 4:
        return None
    if b:
        biases = node.constant(3)
        if biases is None or biases.size % 3:
            return None
        q, k, v = (op.Add(value, part) for value, part in zip((q, k, v), np.split(biases, 3), strict=True))
    return [_attended(op, node, q, k, v, bias)]


def _attended(op: Emitter, node: Node, q: str, k: str, v: str, bias: str) -> str:
    """softmax(q k' / sqrt(d) + bias) v, head by head."""
    heads = [0, 0, node.attribute("num_heads"), -1]
    q, k, v = (
        op.Transpose(op.Reshape(part, heads), perm=turned)
        for part, turned in ((q, [0, 2, 1, 3]), (k, [0, 2, 3, 1]), (v, [0, 2, 1, 3]))
    )
    scale = float(node.attribute("scale", 0.0)) or op.Reciprocal(op.Sqrt(op.Cast(op.Shape(q, start=3), to=op.dtype)))
    scores = op.MatMul(op.Mul(q, scale), k)
    found = op.MatMul(op.Softmax(op.Add(scores, bias) if bias else scores, axis=-1), v)
    return op.Reshape(op.Transpose(found, perm=[0, 2, 1, 3]), [0, 0, -1])


def _numbers(op: Emitter, node: Node, first: int, axis: int | None = None) -> str:
    """What a quantised operand stands for; its scale and zero point are the inputs that follow."""
    names = [name for name in node.inputs[first : first + 3] if name]
    return op.DequantizeLinear(*names, axis=axis)


def _whole(op: Emitter, node: Node, value: str, first: int) -> list[str]:
    """The value quantised by the scale and zero point from the given input on."""
    return [op.QuantizeLinear(value, *(name for name in node.inputs[first : first + 2] if name))]


@_lowers("QLinearConv")
def qlinear_conv(op: Emitter, node: Node) -> list[str] | None:
    """Quantised w * x + b; b counts in steps of the product of both scales."""
    operands = [_numbers(op, node, 0), _numbers(op, node, 3, axis=0)]
    if node.input(8):
        operands.append(op.DequantizeLinear(node.input(8), op.Mul(node.input(1), node.input(4)), axis=0))
    return _whole(op, node, op.Conv(*operands, **node.attributes), 6)


@_lowers("QLinearMatMul")
def qlinear_mat_mul(op: Emitter, node: Node) -> list[str] | None:
    """Quantised a b."""
    return _whole(op, node, op.MatMul(_numbers(op, node, 0), _numbers(op, node, 3, axis=1)), 6)


@_lowers("com.microsoft.QGemm")
def qgemm(op: Emitter, node: Node) -> list[str] | None:
    """alpha a' b' + c; c counts in steps of the product of both scales, and the result is quantised if it has a scale."""
    axis = 0 if node.attribute("transB", 0) else 1
    operands = [_numbers(op, node, 0), _numbers(op, node, 3, axis=axis)]
    if node.input(6):
        operands.append(op.DequantizeLinear(node.input(6), op.Mul(node.input(1), node.input(4)), axis=0))
    result = op.Gemm(*operands, **node.attributes)
    return _whole(op, node, result, 7) if node.input(7) else [result]


@_lowers("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def qlinear_arithmetic(op: Emitter, node: Node) -> list[str] | None:
    """Quantised a + b or a b."""
    kind = node.proto.op_type.removeprefix("QLinear")
    return _whole(op, node, op.emit(kind, _numbers(op, node, 0), _numbers(op, node, 3))[0], 6)


@_lowers(
    *(
        f"com.microsoft.QLinear{kind}"
        for kind in ("GlobalAveragePool", "AveragePool", "Sigmoid", "LeakyRelu", "Softmax")
    )
)
def qlinear_of_one(op: Emitter, node: Node) -> list[str] | None:
    """A quantised function of one operand."""
    if node.attribute("channels_last", 0):
        return None
    settings: dict[str, Any] = {k: v for k, v in node.attributes.items() if k not in ("channels_last", "opset")}
    kind = node.proto.op_type.removeprefix("QLinear")
    return _whole(op, node, op.emit(kind, _numbers(op, node, 0), **settings)[0], 3)


@_lowers("com.microsoft.QLinearConcat")
def qlinear_concat(op: Emitter, node: Node) -> list[str] | None:
    """Quantised parts one after the other; the scale of the result comes first."""
    parts = [_numbers(op, node, first) for first in range(2, len(node.inputs), 3)]
    return _whole(op, node, op.Concat(*parts, axis=node.attribute("axis")), 0)
