"""Write down in a graph what probing found: shapes, and the shape arithmetic whose result is known beforehand.

Exporters compute sizes at run time by long chains of Shape, Gather and Concat. With the picture's size fixed all of it is known but
the batch. What is left is smaller, loads and differentiates faster, and can be cut at any layer.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, helper, numpy_helper

from app.autodiff.graph import Extents
from app.autodiff.graph import Graph as ProbedGraph
from app.model.graph import BATCH, trim

_WHOLE = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})


def write_shapes(model: ModelProto, probed: ProbedGraph) -> None:
    """Change `model` in place: constants for shape arithmetic, one written-out shape for each Reshape, and every tensor's type."""
    constants: dict[str, TensorProto] = {}
    kept = []
    for node in model.graph.node:
        found = _whole_numbers(node, probed)
        if found:
            constants |= found
            continue
        if node.op_type == "Reshape" and not node.domain:
            _write_target(node, probed, constants)
        kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(constants.values())
    trim(model, list(model.graph.output))
    del model.graph.value_info[:]
    for node in model.graph.node:
        for name in node.output:
            dtype = probed.dtype(name) if name else None
            if dtype:
                model.graph.value_info.append(typed(name, dtype, probed.extents(name)))


def loses_the_batch(model: ModelProto, probed: ProbedGraph) -> bool:
    """Whether a Reshape wants one number of elements whatever the batch: the exporter has written its batch of one into it."""
    for node in model.graph.node:
        if node.op_type == "Reshape" and not node.domain:
            sizes = [_sizes(probed.extents(name)) for name in (node.input[0], node.output[0])]
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


def _write_target(node: NodeProto, probed: ProbedGraph, constants: dict[str, TensorProto]) -> None:
    """Let a Reshape have its target written out, -1 standing for the axis that follows the batch."""
    extents = probed.extents(node.output[0])
    if extents is None or any(lengths is None or 0 in lengths for lengths in extents):
        return
    target = [lengths[0] if len(set(lengths)) == 1 else -1 for lengths in extents if lengths is not None]
    if target.count(-1) > 1:
        return
    name = "onnxplain_shape_" + "x".join(map(str, target))
    constants[name] = helper.make_tensor(name, TensorProto.INT64, [len(target)], target)
    node.input[1] = name


def _sizes(extents: Extents | None) -> list[int] | None:
    """Elements of a tensor, once per probed batch; None where an axis is unknown."""
    if extents is None or any(lengths is None for lengths in extents):
        return None
    return [
        int(np.prod(lengths)) for lengths in zip(*(lengths for lengths in extents if lengths is not None), strict=True)
    ]
