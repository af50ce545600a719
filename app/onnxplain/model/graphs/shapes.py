"""Write down in a graph what probing found: shapes, and the shape arithmetic whose result is known beforehand.

Exporters compute sizes at run time by long chains of Shape, Gather and Concat. With the picture's size fixed all of it is known but
the batch. What is left is smaller, loads and differentiates faster, and can be cut at any layer.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, helper, numpy_helper

from onnxplain.autodiff.graph import PROBED_BATCHES, Extents
from onnxplain.autodiff.graph import Graph as ProbedGraph
from onnxplain.facts.errors import InputRefusedByModel
from onnxplain.model.graphs.graph import BATCH, trim
from onnxplain.model.runtime.noise import Noise
from onnxplain.model.runtime.sessions import Cancellation, Session

_MADE_OF = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(int8)": TensorProto.INT8,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int64)": TensorProto.INT64,
    "tensor(bool)": TensorProto.BOOL,
}
_WHOLE = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})


class Shapes:
    """Type and extents (lengths of the axes, once per probed batch) of every tensor of a model with one input.

    They are inferred. Where operators without a public schema stand between input and score, as in models that a runtime has
    already optimised or quantised, the model is run and its tensors are measured.
    """

    def __init__(self, model: ModelProto, source: str, score: str) -> None:
        self.probed = ProbedGraph(model)
        self._measured: dict[str, tuple[int, Extents]] = {}
        if not known(self.probed.extents(score)):
            names = [name for node in model.graph.node for name in node.output if name]
            unknown = [
                name for name in names if not known(self.probed.extents(name)) or self.probed.dtype(name) is None
            ]
            self._measured = _measure(model, source, unknown)

    def extents(self, name: str) -> Extents | None:
        """Lengths of the axes; None for an unknown axis, None altogether for an unknown rank."""
        return self._measured[name][1] if name in self._measured else self.probed.extents(name)

    def dtype(self, name: str) -> int | None:
        """Element type as in `onnx.TensorProto`, None where unknown."""
        return self._measured[name][0] if name in self._measured else self.probed.dtype(name)


def known(extents: Extents | None) -> bool:
    """Whether the length of every axis is known."""
    return extents is not None and None not in extents


def _measure(model: ModelProto, source: str, names: list[str]) -> dict[str, tuple[int, Extents]]:
    """Type and extents of these tensors, by runs on noise; nothing where the model does not run at all."""
    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(ValueInfoProto(name=name) for name in names)
    dims = next(value for value in model.graph.input if value.name == source).type.tensor_type.shape.dim
    batches = PROBED_BATCHES if dims[0].dim_param else PROBED_BATCHES[:1]
    session = Session(shown, Cancellation(), optimise=False)
    noise = Noise()
    lengths = []
    try:
        for batch in batches:
            x = noise.standard((batch, *(dim.dim_value for dim in dims[1:])))
            lengths.append([np.shape(found) for found in session.run({source: x})])
    except InputRefusedByModel:
        return {}
    return {
        name: (_MADE_OF.get(session.types[name], TensorProto.UNDEFINED), tuple(zip(*shapes, strict=True)))
        for name, *shapes in zip(names, *lengths, strict=True)
        if len({len(shape) for shape in shapes}) == 1
    }


def write_shapes(model: ModelProto, shapes: Shapes) -> None:
    """Change `model` in place: constants for shape arithmetic, one written-out shape for each Reshape, and every tensor's type."""
    constants: dict[str, TensorProto] = {}
    kept = []
    for node in model.graph.node:
        found = _whole_numbers(node, shapes.probed)
        if found:
            constants |= found
            continue
        if node.op_type == "Reshape" and not node.domain:
            _write_target(node, shapes, constants)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(constants.values())
    trim(model, list(model.graph.output))
    del model.graph.value_info[:]
    for node in model.graph.node:
        for name in node.output:
            dtype = shapes.dtype(name) if name else None
            if dtype:
                model.graph.value_info.append(typed(name, dtype, shapes.extents(name)))


def loses_the_batch(model: ModelProto, shapes: Shapes) -> bool:
    """Whether a Reshape wants one number of elements whatever the batch: the exporter has written its batch of one into it."""
    for node in model.graph.node:
        if node.op_type == "Reshape" and not node.domain:
            sizes = [_sizes(shapes.extents(name)) for name in (node.input[0], node.output[0])]
            if None not in sizes and sizes[0] != sizes[1]:
                return True
    return False


def typed(name: str, dtype: int, extents: Extents | None) -> ValueInfoProto:
    """A value with the shape that probing found: static lengths, `N` for the batch, open where it is something else."""
    value = ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = dtype
    if extents is not None:
        shape = TensorShapeProto()
        for lengths in extents:
            dim = shape.dim.add()
            if lengths is not None and len(set(lengths)) == 1:
                dim.dim_value = lengths[0]
            elif lengths is not None and lengths[0] == 1:
                dim.dim_param = BATCH
        value.type.tensor_type.shape.CopyFrom(shape)
    return value


def _whole_numbers(node: NodeProto, probed: ProbedGraph) -> dict[str, TensorProto]:
    """What a node makes, if that is whole numbers which are the same for every picture and batch; else nothing."""
    names = [name for name in node.output if name]
    if any(probed.dtype(name) not in _WHOLE for name in names):
        return {}
    values = {name: probed.constant(name) for name in names}
    return (
        {name: numpy_helper.from_array(np.asarray(value), name) for name, value in values.items() if value is not None}
        if all(value is not None for value in values.values())
        else {}
    )


def _write_target(node: NodeProto, shapes: Shapes, constants: dict[str, TensorProto]) -> None:
    """Let a Reshape have its target written out, -1 standing for the axis that follows the batch."""
    extents = shapes.extents(node.output[0])
    if extents is None or any(lengths is None or 0 in lengths for lengths in extents):
        return
    target = [lengths[0] if len(set(lengths)) == 1 else -1 for lengths in extents if lengths is not None]
    if target.count(-1) > 1:
        return
    name = "onnxplain_shape_" + "x".join(map(str, target))
    constants[name] = helper.make_tensor(name, TensorProto.INT64, [len(target)], target)
    node.input[1] = name


def _sizes(extents: Extents | None) -> list[int] | None:
    """Elements of a tensor, once per probed batch; None for a scalar, which has no batch, and where an axis is unknown."""
    if not extents or any(lengths is None for lengths in extents):
        return None
    return [
        int(np.prod(lengths)) for lengths in zip(*(lengths for lengths in extents if lengths is not None), strict=True)
    ]
