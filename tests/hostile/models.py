"""A corpus of hostile ONNX files, each with the verdict it must get: `refused`, or `served` where it is odd but harmless.

    python -m tests.hostile.models FOLDER    writes every file and verdicts.json

Nothing here is random: the same files come out every time. The bytes are made by the `onnx` package and by hand.
"""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from tests import graphs

Verdict = Literal["refused", "served"]
CANARY = "/etc/passwd"  # no file may be opened besides the model; a test may name another one to watch

F32, I32, I64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


@dataclass(frozen=True)
class Hostile:
    """A file: what is in it, what must become of it, and why."""

    name: str
    content: bytes
    verdict: Verdict
    reason: str


@functools.cache
def corpus(canary: str = CANARY) -> list[Hostile]:
    """Every file of the corpus; those that try to read another file try to read `canary`."""
    makers = (_foreign, _truncated, _operators, _memory, _endless, _structure, _types, _names, _crash)
    made = [(make.__name__, case) for make in makers for case in make()]
    made += [("_external", case) for case in _external(canary)]
    files = [Hostile(f"{family[1:]}-{case[0]}", *case[1:]) for family, case in made]
    assert len({file.name for file in files}) == len(files)
    return files


def mutants(model: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Copies of a good model with one to eight bytes changed."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        content = bytearray(model)
        for place in rng.integers(0, len(content), rng.integers(1, 9)):
            content[place] = int(rng.integers(0, 256))
        yield bytes(content)


Case = tuple[str, bytes, Verdict, str]


# ---- building blocks --------------------------------------------------------------------------------------------------


def _x(shape: Sequence[Any] = ("N", 2), kind: int = F32, name: str = "x") -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def _y(shape: Sequence[Any] | None = ("N", 1), kind: int = F32, name: str = "y") -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), domain=domain, **attributes)


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto] | None = None,
    outputs: Sequence[ValueInfoProto] | None = None,
    tensors: Sequence[TensorProto] = (),
    **options: Any,
) -> ModelProto:
    inputs = [_x()] if inputs is None else inputs
    outputs = [_y()] if outputs is None else outputs
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(tensors))
    return helper.make_model(
        graph,
        opset_imports=options.pop("opsets", [helper.make_opsetid("", 18)]),
        ir_version=options.pop("ir", 10),
        **options,
    )


def _ints(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, I64, [len(values)], values)


def _scalar(name: str, value: float, kind: int = F32) -> TensorProto:
    return helper.make_tensor(name, kind, [], [value])


def _linear() -> ModelProto:
    """A good model: y = x @ w."""
    weights = helper.make_tensor("w", F32, [2, 1], [1.0, 2.0])
    return _model([_node("MatMul", ["x", "w"], ["y"])], tensors=[weights])


def _changed(change: Callable[[ModelProto], object], model: ModelProto | None = None) -> bytes:
    model = _linear() if model is None else model
    change(model)
    return model.SerializeToString()


def _plus_everything(nodes: Sequence[NodeProto], value: str, tensors: Sequence[TensorProto] = ()) -> bytes:
    """y = x[:, :1] + sum of a tensor that the nodes make: nothing of it can be left out."""
    tail = [
        _node("ReduceSum", [value], ["all"], keepdims=0),
        _node("ReduceSum", ["x", "axis"], ["row"], keepdims=1),
        _node("Add", ["row", "all"], ["y"]),
    ]
    return _model([*nodes, *tail], tensors=[*tensors, _ints("axis", 1)]).SerializeToString()


# ---- not ONNX at all --------------------------------------------------------------------------------------------------


def _foreign() -> Iterator[Case]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("../../evil.onnx"), _linear().SerializeToString())
    contents = {
        "empty": b"",
        "one-byte": b"\x08",
        "zeros": bytes(100_000),
        "ones": b"\xff" * 100_000,
        "text": b"this is not a model\n" * 100,
        "html": b"<!doctype html><script>alert(1)</script>",
        "json": json.dumps({"graph": {"node": []}}).encode(),
        "pickle": pickle.dumps({"model": [1, 2, 3]}),
        "zip": archive.getvalue(),
        "gzip": gzip.compress(_linear().SerializeToString(), mtime=0),
        "ort-flatbuffer": b"\x20\x00\x00\x00ORTM" + bytes(1000),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(500),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "safetensors": (64).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        + bytes(16),
        "protobuf-groups": b"\x0b" * 10_000 + b"\x0c" * 10_000,
        "protobuf-long-length": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        "protobuf-long-varint": b"\x08" + b"\xff" * 20,
        "tensor-only": _scalar("t", 1).SerializeToString(),
    }
    for name, content in contents.items():
        yield name, content, "refused", "not an ONNX model"


def _truncated() -> Iterator[Case]:
    whole = graphs.tiny_cnn().SerializeToString()
    for percent in (1, 5, 10, 25, 50, 75, 90, 99):
        yield f"{percent}-percent", whole[: len(whole) * percent // 100], "refused", "a part of a model"


# ---- files outside of the model ---------------------------------------------------------------------------------------


def _external(canary: str) -> Iterator[Case]:
    places = {
        "beside": {"location": "weights.bin"},
        "parent": {"location": "../../../../../../../../etc/passwd"},
        "inside-and-out": {"location": "a/../../b"},
        "absolute": {"location": canary},
        "environment": {"location": "/proc/self/environ"},
        "device": {"location": "/dev/zero"},
        "backslash": {"location": "..\\..\\etc\\passwd"},
        "url": {"location": "http://127.0.0.1/weights"},
        "empty": {"location": ""},
        "null-byte": {"location": "a\0b"},
        "negative-offset": {"location": canary, "offset": "-1"},
        "endless": {"location": canary, "offset": "0", "length": str(2**60)},
        "attribute-injection": {"location": canary, "__class__": "x"},
        "no-location": {},
    }
    for name, entries in places.items():
        yield (
            name,
            _changed(lambda model, e=entries: _make_external(model.graph.initializer[0], e)),
            "refused",
            "reads files",
        )

    tensor = helper.make_tensor("w", F32, [2, 1], [1.0, 2.0])
    _make_external(tensor, {"location": canary})
    constant = [_node("Constant", [], ["w"], value=tensor), _node("MatMul", ["x", "w"], ["y"])]
    yield "in-a-constant", _model(constant).SerializeToString(), "refused", "reads files"

    branch = helper.make_graph(constant, "branch", [], [_y()])
    choice = [_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [1])
    yield "in-a-branch", _model(choice, tensors=[yes]).SerializeToString(), "refused", "reads files"

    function = helper.make_function("f", "F", ["x"], ["y"], constant, [helper.make_opsetid("", 18)])
    call = _model([_node("F", ["x"], ["y"], domain="f")], functions=[function])
    call.opset_import.append(helper.make_opsetid("f", 1))
    yield "in-a-function", call.SerializeToString(), "refused", "reads files"

    sparse = _model([_node("MatMul", ["x", "w"], ["y"])])
    values = helper.make_tensor("w", F32, [1], [1.0])
    _make_external(values, {"location": canary})
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(values, _ints("indices", 0), [2, 1]))
    yield "sparse", sparse.SerializeToString(), "refused", "reads files"


def _make_external(tensor: TensorProto, entries: dict[str, str]) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


# ---- operators and functions ------------------------------------------------------------------------------------------


def _operators() -> Iterator[Case]:
    def single(kind: str, domain: str, outputs: Sequence[ValueInfoProto] | None = None) -> bytes:
        opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        return _model([_node(kind, ["x"], ["y"], domain=domain)], outputs=outputs, opsets=opsets).SerializeToString()

    yield "unknown-domain", single("Relu", "evil.example"), "refused", "operators of foreign libraries"
    yield "unknown-operator", single("Explode", ""), "refused", "no such operator"
    yield "unknown-contrib-operator", single("Explode", "com.microsoft"), "refused", "no such operator"
    yield "unknown-ml-operator", single("Explode", "ai.onnx.ml"), "refused", "no such operator"
    yield "training-domain", single("Gradient", "ai.onnx.preview.training"), "refused", "not for inference"
    yield "python-operator", single("PyOp", "pyopmulti_1"), "refused", "would run code"
    yield "no-operator", _changed(lambda m: setattr(m.graph.node[0], "op_type", "")), "refused", "a node of no type"
    yield "internal-domain", single("MemcpyToHost", "com.microsoft.internal"), "refused", "internal operators"

    opset = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]

    def calling(functions: Sequence[FunctionProto], first: str) -> bytes:
        model = _model([_node(first, ["x"], ["y"], domain="f")], functions=list(functions), opsets=opset)
        return model.SerializeToString()

    def function(name: str, nodes: Sequence[NodeProto]) -> FunctionProto:
        return helper.make_function("f", name, ["x"], ["y"], list(nodes), opset)

    itself = function("Self", [_node("Self", ["x"], ["y"], domain="f")])
    yield "recursive-function", calling([itself], "Self"), "refused", "calls itself for ever"
    two = [function(a, [_node(b, ["x"], ["y"], domain="f")]) for a, b in (("Ping", "Pong"), ("Pong", "Ping"))]
    yield "mutually-recursive-functions", calling(two, "Ping"), "refused", "call each other for ever"

    def tenfold(level: int) -> FunctionProto:
        kind, domain = (f"L{level - 1}", "f") if level else ("Identity", "")
        names = ["x", *(f"v{i}" for i in range(9)), "y"]
        nodes = [_node(kind, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        return function(f"L{level}", nodes)

    yield (
        "billion-laughs",
        calling([tenfold(level) for level in range(10)], "L9"),
        "refused",
        "10^10 nodes when inlined",
    )
    yield "function-without-body", calling([function("Empty", [])], "Empty"), "refused", "makes no output"
    overridden = helper.make_function(
        "", "Relu", ["x"], ["y"], [_node("Neg", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    yield "redefined-operator", _changed(lambda m: m.functions.append(overridden)), "served", "never called"


# ---- memory ----------------------------------------------------------------------------------------------------------


def _memory() -> Iterator[Case]:
    for bits in (31, 34, 40, 62):
        nodes = [_node("ConstantOfShape", ["shape"], ["bomb"])]
        yield (
            f"constant-of-2e{bits}",
            _plus_everything(nodes, "bomb", [_ints("shape", 2**bits)]),
            "refused",
            "too much memory",
        )
    one = _scalar("one", 1)
    yield (
        "expand",
        _plus_everything([_node("Expand", ["one", "shape"], ["bomb"])], "bomb", [one, _ints("shape", 2**32)]),
        ("refused"),
        "too much memory",
    )
    cell = helper.make_tensor("cell", F32, [1, 1], [1.0])
    yield (
        "tile",
        _plus_everything(
            [_node("Tile", ["cell", "repeats"], ["bomb"])], "bomb", [cell, _ints("repeats", 2**16, 2**16)]
        ),
        "refused",
        "too much memory",
    )
    numbers = [_scalar("start", 0), _scalar("limit", 2.0**33), _scalar("delta", 1)]
    yield (
        "range",
        _plus_everything([_node("Range", ["start", "limit", "delta"], ["bomb"])], "bomb", numbers),
        "refused",
        ("too much memory"),
    )
    yield (
        "pad",
        _plus_everything([_node("Pad", ["cell", "pads"], ["bomb"])], "bomb", [cell, _ints("pads", 0, 0, 2**17, 2**16)]),
        "refused",
        "too much memory",
    )
    picture = helper.make_tensor("picture", F32, [1, 1, 2, 2], [1.0] * 4)
    sizes = _ints("sizes", 1, 1, 2**17, 2**16)
    yield (
        "resize",
        _plus_everything([_node("Resize", ["picture", "", "", "sizes"], ["bomb"])], "bomb", [picture, sizes]),
        ("refused"),
        "too much memory",
    )
    doubling = [_node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(40)]
    start = helper.make_tensor("d0", F32, [1], [1.0])
    yield "doubling", _plus_everything(doubling, "d40", [start]), "refused", "2^40 numbers"
    long = [
        _node("ConstantOfShape", ["column_shape"], ["column"]),
        _node("ConstantOfShape", ["row_shape"], ["wide"]),
        _node("MatMul", ["column", "wide"], ["bomb"]),
    ]
    yield (
        "outer-product",
        _plus_everything(long, "bomb", [_ints("column_shape", 2**16, 1), _ints("row_shape", 1, 2**16)]),
        ("refused"),
        "too much memory",
    )
    depth = [_node("OneHot", ["indices", "depth", "values"], ["bomb"])]
    hot = [
        _ints("indices", 1),
        helper.make_tensor("depth", I64, [], [2**33]),
        helper.make_tensor("values", F32, [2], [0, 1]),
    ]
    yield "one-hot", _plus_everything(depth, "bomb", hot), "refused", "too much memory"
    noise = [_node("RandomNormal", [], ["bomb"], shape=[2**17, 2**16])]
    yield "random", _plus_everything(noise, "bomb"), "refused", "too much memory"

    shapes = {
        "dims-overflow": [2**31, 2**31, 2**31],
        "dims-negative": [-2, 1],
        "dims-huge": [2**62],
        "dims-without-data": [1000, 1000],
    }
    for name, dims in shapes.items():

        def resize(model: ModelProto, dims: list[int] = dims) -> None:
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(dims)

        yield name, _changed(resize), "refused", "dimensions and data disagree"

    def raw(data: bytes) -> Callable[[ModelProto], None]:
        def change(model: ModelProto) -> None:
            model.graph.initializer[0].ClearField("float_data")
            model.graph.initializer[0].raw_data = data

        return change

    yield "raw-short", _changed(raw(b"\0" * 7)), "refused", "dimensions and data disagree"
    yield "raw-long", _changed(raw(b"\0" * 9)), "refused", "dimensions and data disagree"


# ---- time ------------------------------------------------------------------------------------------------------------


def _loop(trips: int, body_nodes: Sequence[NodeProto]) -> list[NodeProto]:
    body = helper.make_graph(
        [_node("Identity", ["go"], ["goes_on"]), *body_nodes],
        "body",
        [
            helper.make_tensor_value_info("step", I64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", F32, ["N", 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", F32, ["N", 1]),
        ],
    )
    count = _node("Constant", [], ["trips"], value=helper.make_tensor("t", I64, [], [trips]))
    yes = _node("Constant", [], ["yes"], value=helper.make_tensor("b", TensorProto.BOOL, [], [1]))
    row = _node("ReduceSum", ["x", "axis"], ["row"], keepdims=1)
    return [count, yes, row, _node("Loop", ["trips", "yes", "row"], ["y"], body=body)]


def _endless() -> Iterator[Case]:
    add = [_node("Add", ["before", "before"], ["after"])]
    for name, trips in (("loop", 2**62), ("long-loop", 10**10)):
        yield name, _model(_loop(trips, add), tensors=[_ints("axis", 1)]).SerializeToString(), "refused", "never ends"
    inner = _loop(2**40, add)
    inner[2] = _node("Identity", ["before"], ["row"])
    nested = _loop(2**40, [*inner[:3], _node("Loop", ["trips", "yes", "row"], ["after"], body=inner[3].attribute[0].g)])
    yield "nested-loops", _model(nested, tensors=[_ints("axis", 1)]).SerializeToString(), "refused", "never ends"

    yield "nested-8-branches", _branches(8), "served", "deep, but finite"
    yield "nested-200-branches", _branches(200), "refused", "deeper than the runtime reads"

    row = _node("ReduceSum", ["x", "axis"], ["n0"], keepdims=1)
    chain = [
        row,
        *(_node("Neg", [f"n{i}"], [f"n{i + 1}"]) for i in range(120_000)),
        _node("Identity", ["n120000"], ["y"]),
    ]
    yield "chain-of-120000", _model(chain, tensors=[_ints("axis", 1)]).SerializeToString(), "refused", "too many nodes"
    big = [
        _node("ConstantOfShape", ["shape"], ["m0"]),
        *(_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(500)),
    ]
    yield "matrix-products", _plus_everything(big, "m500", [_ints("shape", 4096, 4096)]), "refused", "hours of work"


def _branches(depth: int) -> bytes:
    """`If` within `If`: written by hand, because the protobuf library itself refuses to nest as deep."""
    leaf = helper.make_graph([_node("Identity", ["row"], ["y"])], "leaf", [], [_y()]).SerializeToString()
    graph = leaf
    for _ in range(depth):
        choice = _field(1, b"yes") + _field(2, b"y") + _field(4, b"If")
        for name, branch in ((b"then_branch", graph), (b"else_branch", leaf)):
            choice += _field(5, _field(1, name) + _field(6, branch) + b"\xa0\x01\x05")
        graph = _field(1, choice) + _field(2, b"level") + _field(12, _y().SerializeToString())
    top = _model([_node("ReduceSum", ["x", "axis"], ["row"], keepdims=1)], tensors=[_ints("axis", 1)])
    top.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [1]))
    # Parts of one message may come twice: the nodes of the deep graph are added to those of the outer one.
    return top.SerializeToString() + _field(7, _field(1, choice))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    length, size = len(content), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


# ---- structure --------------------------------------------------------------------------------------------------------


def _structure() -> Iterator[Case]:
    relu = [_node("Relu", ["x"], ["y"])]
    same = [_y(("N", 2))]
    cycle = [_node("Add", ["x", "b"], ["a"]), _node("Neg", ["a"], ["b"]), _node("Identity", ["b"], ["y"])]
    yield "cycle", _model(cycle, outputs=same).SerializeToString(), "refused", "goes in a circle"
    yield (
        "itself",
        _model([_node("Add", ["x", "y"], ["y"])], outputs=same).SerializeToString(),
        "refused",
        "needs itself",
    )
    twice = [*relu, _node("Neg", ["x"], ["y"])]
    yield "output-made-twice", _model(twice, outputs=same).SerializeToString(), "refused", "which one counts?"
    yield (
        "missing-input",
        _model([_node("Add", ["x", "ghost"], ["y"])]).SerializeToString(),
        "refused",
        "no such tensor",
    )
    yield "missing-output", _model(relu, outputs=[_y(name="ghost")]).SerializeToString(), "refused", "no such tensor"
    yield (
        "no-inputs",
        _model([_node("Identity", ["w"], ["y"])], [], tensors=[_scalar("w", 1)]).SerializeToString(),
        ("refused"),
        "nothing to explain",
    )
    yield "no-outputs", _model(relu, outputs=[]).SerializeToString(), "refused", "nothing to explain"
    yield "no-nodes", _model([], outputs=[_y(name="x")]).SerializeToString(), "refused", "nothing happens"
    yield "no-graph", _changed(lambda m: m.ClearField("graph")), "refused", "nothing at all"
    yield "no-opset", _changed(lambda m: m.ClearField("opset_import")), "refused", "which operators?"
    for name, version in (("zero", 0), ("negative", -1), ("far", 9999), ("overflow", 2**62)):
        opsets = [helper.make_opsetid("", version)]
        yield f"opset-{name}", _model(relu, outputs=same, opsets=opsets).SerializeToString(), "refused", "no such opset"
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("", 7)]
    yield "two-opsets", _model(relu, outputs=same, opsets=opsets).SerializeToString(), "refused", "which one?"
    yield "ir-far", _changed(lambda m: setattr(m, "ir_version", 2**31)), "refused", "no such version"
    yield "ir-zero", _changed(lambda m: setattr(m, "ir_version", 0)), "refused", "no such version"
    double = [helper.make_tensor("w", F32, [2, 1], [1, 2]), helper.make_tensor("w", F32, [2, 1], [3, 4])]
    yield (
        "weights-twice",
        _model([_node("MatMul", ["x", "w"], ["y"])], tensors=double).SerializeToString(),
        "refused",
        ("which one counts?"),
    )
    yield "inputs-twice", _model(relu, [_x(), _x()], same).SerializeToString(), "refused", "which one counts?"
    yield "outputs-twice", _model(relu, outputs=[*same, *same]).SerializeToString(), "served", "the same twice"
    yield (
        "too-many-inputs",
        _model([_node("Relu", ["x"] * 300, ["y"])], outputs=same).SerializeToString(),
        "refused",
        ("an operator of one input"),
    )
    yield (
        "attribute-of-wrong-type",
        _model(
            [_node("ReduceSum", ["x", "axis"], ["y"], keepdims="yes")], tensors=[_ints("axis", 1)]
        ).SerializeToString(),
        "refused",
        "a text for a number",
    )
    yield (
        "attribute-missing",
        _model([_node("Cast", ["x"], ["y"])], outputs=same).SerializeToString(),
        "refused",
        "cast to what?",
    )
    yield (
        "attribute-unknown",
        _model([_node("Relu", ["x"], ["y"], evil=1)], outputs=same).SerializeToString(),
        "refused",
        ("no such attribute"),
    )

    typed = _model(
        [_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)], tensors=[_ints("axis", 1)]
    ).SerializeToString()
    untyped = typed.replace(b"\xa0\x01\x02", b"\xa0\x01\x63")  # the attribute's type, 2 for an integer
    yield "attribute-type-99", untyped, "refused", "no such type"
    yield (
        "axis-out-of-range",
        _model([_node("Softmax", ["x"], ["y"], axis=7)], outputs=same).SerializeToString(),
        "refused",
        ("two axes only"),
    )
    far = [_node("Gather", ["x", "i"], ["y"], axis=1)]
    yield (
        "index-out-of-range",
        _model(far, tensors=[_ints("i", 2**40)]).SerializeToString(),
        "served",
        ("made-up rows may fail where real ones do not; each answer is an error"),
    )
    yield (
        "shapes-that-do-not-fit",
        _model(
            [_node("MatMul", ["x", "w"], ["y"])], tensors=[helper.make_tensor("w", F32, [3, 1], [1, 2, 3])]
        ).SerializeToString(),
        "refused",
        "fails on every input",
    )
    yield (
        "wrong-output-type",
        _model(relu, outputs=[_y(("N", 2), I64)]).SerializeToString(),
        "refused",
        "says what is not so",
    )


# ---- types and sizes ---------------------------------------------------------------------------------------------------


def _types() -> Iterator[Case]:
    def pictures(shape: Sequence[Any], kind: int = F32) -> bytes:
        nodes = [_node("GlobalAveragePool", ["x"], ["means"]), _node("Flatten", ["means"], ["y"])]
        return _model(nodes, [_x(shape, kind)], [_y(None, kind)]).SerializeToString()

    yield "picture-of-100000-squared", pictures((1, 3, 100_000, 100_000)), "refused", "120 GB a picture"
    yield "picture-of-no-rows", pictures((1, 3, 0, 8)), "refused", "no pixels"
    yield "picture-of-negative-size", pictures((1, 3, -8, 8)), "refused", "no such size"
    yield "picture-of-a-million-channels", pictures((1, 10**6, 2, 2)), "refused", "no picture has as many channels"
    yield "picture-of-overflowing-size", pictures((1, 3, 2**31, 2**33)), "refused", "no such size"
    yield (
        "picture-in-complex-numbers",
        pictures((1, 3, 8, 8), TensorProto.COMPLEX64),
        "refused",
        "no picture is complex",
    )
    yield "batch-of-none", pictures((0, 3, 8, 8)), "refused", "takes no picture at all"

    identity = [_node("Identity", ["x"], ["y"])]
    for name, kind in (("unknown", 999), ("undefined", 0), ("complex", TensorProto.COMPLEX128)):
        yield (
            f"elements-{name}",
            _model(identity, [_x(("N", 2), kind)], [_y(("N", 2), kind)]).SerializeToString(),
            "refused",
            ("no such numbers"),
        )
    sequence = helper.make_tensor_sequence_value_info("x", F32, None)
    first = [_node("SequenceAt", ["x", "zero"], ["y"])]
    zero = helper.make_tensor("zero", I64, [], [0])
    yield (
        "sequence-input",
        _model(first, [sequence], [_y(None)], [zero]).SerializeToString(),
        "refused",
        "no table or picture",
    )
    optional = helper.make_value_info(
        "x", helper.make_optional_type_proto(helper.make_tensor_type_proto(F32, ["N", 1]))
    )
    yield (
        "optional-input",
        _model([_node("OptionalGetElement", ["x"], ["y"])], [optional]).SerializeToString(),
        "refused",
        ("no table or picture"),
    )
    untyped = ValueInfoProto(name="x")
    yield "input-without-type", _model(identity, [untyped], [_y(None)]).SerializeToString(), "refused", "of what type?"
    text = [_node("Identity", ["x"], ["y"])]
    yield (
        "text-out",
        _model(text, [_x(("N", 1), TensorProto.STRING)], [_y(("N", 1), TensorProto.STRING)]).SerializeToString(),
        "refused",
        "scores are numbers",
    )
    yield (
        "five-axes",
        _model(identity, [_x((1, 2, 3, 4, 5))], [_y((1, 2, 3, 4, 5))]).SerializeToString(),
        "refused",
        ("no table or picture"),
    )
    yield "a-scalar", _model(identity, [_x(())], [_y(())]).SerializeToString(), "refused", "no table or picture"
    wide = [_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)]
    yield (
        "ten-million-columns",
        _model(wide, [_x(("N", 10**7))], tensors=[_ints("axis", 1)]).SerializeToString(),
        "refused",
        ("no table is as wide"),
    )
    for name, number in (("nan", np.nan), ("infinite", np.inf)):
        weights = helper.make_tensor("w", F32, [2, 1], [number, 1.0])
        content = _model([_node("MatMul", ["x", "w"], ["y"])], tensors=[weights]).SerializeToString()
        yield f"weights-{name}", content, "served", "answers with an error for each input"


# ---- names and texts ---------------------------------------------------------------------------------------------------


def _names() -> Iterator[Case]:
    def renamed(name: str) -> ModelProto:
        return _model(
            [_node("ReduceSum", [name, "axis"], ["y"], keepdims=1)], [_x(name=name)], tensors=[_ints("axis", 1)]
        )

    odd = {
        "path": "../../etc/passwd",
        "html": "<script>alert(1)</script>",
        "newline": "a\r\nX-Evil: 1",
        "null": "a\0b",
        "right-to-left": "\u202egnp.exe",
        "format": "%s%n{0}",
        "emoji": "🦊" * 100,
    }
    for name, text in odd.items():
        yield name, renamed(text).SerializeToString(), "served", "an odd name harms nobody"
    yield "ten-megabytes", renamed("x" * 10_000_000).SerializeToString(), "refused", "no name is as long"
    bad = _linear().SerializeToString().replace(b"x", b"\xff")
    yield "not-utf8", bad, "refused", "names are UTF-8"
    yield "empty", _changed(lambda m: setattr(m.graph.input[0], "name", "")), "refused", "an input without a name"
    yield "long-description", _changed(lambda m: setattr(m, "doc_string", "a" * 5_000_000)), "served", "only a text"

    def much_metadata(model: ModelProto) -> None:
        for number in range(20_000):
            model.metadata_props.add(key=f"key{number}", value="<b>")

    yield "metadata", _changed(much_metadata), "served", "only texts"
    unknown_field = b"\xfa\x3f\x80\x08" + b"z" * 1024
    yield "unknown-field", _linear().SerializeToString() + unknown_field, "served", "a newer writer's field"


# ---- what kills the runtime ---------------------------------------------------------------------------------------------


def _crash() -> Iterator[Case]:
    for kind, bits, name in ((I32, 32, "int32"), (I64, 64, "int64")):
        smallest = helper.make_tensor("a", kind, [1], [-(2 ** (bits - 1))])
        minus_one = helper.make_tensor("b", kind, [1], [-1])
        for operator in ("Div", "Mod"):
            nodes = [_node(operator, ["a", "b"], ["q"]), _node("Cast", ["q"], ["bomb"], to=F32)]
            content = _plus_everything(nodes, "bomb", [smallest, minus_one])
            yield f"{operator.lower()}-{name}", content, "refused", "kills the runtime while it loads"


def main(folder: Path) -> None:
    """Write the corpus into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = corpus()
    for file in files:
        (folder / f"{file.name}.onnx").write_bytes(file.content)
    verdicts = {file.name: {"verdict": file.verdict, "reason": file.reason} for file in files}
    (folder / "verdicts.json").write_text(json.dumps(verdicts, indent=1))
    print(f"{len(files)} files in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
