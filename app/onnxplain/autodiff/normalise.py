"""One dialect for the rules: every model is brought to a form in which an operator is written in one way only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, defs, helper, inliner, version_converter

from onnxplain.autodiff.graph import Graph
from onnxplain.autodiff.lowering import lower
from onnxplain.facts.errors import ModelRefused

DIALECT = 18  # the opset that rules read and write: axes, bounds, pads and splits are inputs from here on
OLDEST = 7  # the oldest opset read; older ones broadcast along an axis that each node names
LARGE = 1 << 10  # bytes of the largest weight that passes through the converter, which copies each several times


def normalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in the dialect of the rules; itself where nothing is to do.

    Local functions are inlined, operators are upgraded to opset 18 where they are older, and of an `If` whose condition is fixed
    the branch that is always taken stays. What ONNX Runtime fuses or quantises is said in standard operators. Operators of opset 18
    and later are left as they are.

    Raises:
        ModelRefused: the model is older than opset 7, or the upgrade fails.
    """
    if model.functions:
        model = inliner.inline_local_functions(_with_defaults(model))
    while any(node.op_type == "If" for node in model.graph.node):
        resolved = _resolve_branches(model)
        if resolved is model:
            break
        model = resolved
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), DIALECT)
    return lower(model if version >= DIALECT else _upgrade(model, version))


def _with_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every call of a function naming all its attributes, in a copy where that changes something.

    The inliner forgets the attributes that a function has defaults for, and what is left then takes the operator's own.
    """
    if not any(function.attribute_proto for function in model.functions):
        return model
    original, model = model, onnx.ModelProto()
    model.CopyFrom(original)
    defaults = {
        (function.domain, function.name, function.overload): {a.name: a for a in function.attribute_proto}
        for function in model.functions
    }
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        named = {attribute.name for attribute in node.attribute}
        missing = defaults.get((node.domain, node.op_type, node.overload), {})
        node.attribute.extend(attribute for name, attribute in missing.items() if name not in named)
        waiting += [inner for a in node.attribute for graph in (a.g, *a.graphs) for inner in graph.node]
    return model


def expand(graph: Graph, operators: Iterable[str]) -> onnx.ModelProto:
    """The model with operators replaced by the function bodies that the ONNX specification gives for them.

    The inliner wants every type declared and every attribute written out, for it leaves defaults of a function's attributes empty.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    chosen = set(operators)
    declared = {v.name for v in [*model.graph.input, *model.graph.output, *model.graph.value_info]}
    for node in model.graph.node:
        for name in node.input:
            kind = graph.dtype(name)
            if node.op_type in chosen and name and kind is not None and name not in declared:
                declared.add(name)
                model.graph.value_info.append(helper.make_tensor_value_info(name, kind, graph.named_shape(name)))
        if node.op_type in chosen:
            schema, given = defs.get_schema(node.op_type, graph.opset[""]), {a.name for a in node.attribute}
            defaults = [a.default_value for name, a in schema.attributes.items() if name not in given]
            node.attribute.extend(default for default in defaults if default.type)
    try:
        return inliner.inline_selected_functions(model, [("", name) for name in chosen], inline_schema_functions=True)
    except RuntimeError:  # it knows no absent input between others; the operator stays, and is refused by its name
        return graph.model


def write_out_shapes(graph: Graph, kept: Collection[str]) -> None:
    """Give every Reshape the shape that it will have anyway, as a constant, and write views as reshapes.

    Exporters work such shapes out at run time, and PyTorch exports a view as flatten, gather 0, 1, 2, ... and reshape. Behind that,
    ONNX Runtime no longer knows that two batches are one, and leaves its blocked layout at every product of the two.

    Args:
        graph: changed in place; names, types and shapes of tensors stay.
        kept: tensors that must stay on the way.
    """
    for index, node in enumerate(graph.nodes):
        if node.domain or not (node.op_type == "Reshape" or (node.op_type == "Gather" and graph.is_view(node))):
            continue
        source, (result,) = node.input[0], node.output
        before = graph.producers.get(source)
        if before is not None and before.op_type == "Reshape" and source not in kept:
            source = before.input[0]
        shape, extents, origin = graph.shape(result), graph.extents(result), graph.extents(source)
        if shape is None or extents is None or shape.count(None) > 1 or 0 in shape:
            continue
        copied = (
            None in shape
            and origin is not None
            and extents[: shape.index(None) + 1][-1:] == origin[shape.index(None) :][:1]
        )
        target = graph.add_constant(np.array([n if n is not None else 0 if copied else -1 for n in shape], np.int64))
        graph.replace(index, helper.make_node("Reshape", [source, target], [result], node.name))


def is_function(operator: str) -> bool:
    """Whether the specification defines the operator by a function body, so that `expand` can replace it."""
    try:
        schema = defs.get_schema(operator)
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]  # absent from the stub


def _upgrade(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    if version < OLDEST:
        raise ModelRefused(
            f"The model is of opset {version}, but opset {OLDEST} or newer is needed. Export it again with a newer opset."
        )
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    large = [t for t in slim.graph.initializer if t.ByteSize() > LARGE]
    small = [t for t in slim.graph.initializer if t.ByteSize() <= LARGE]
    known = {i.name for i in slim.graph.input}
    del slim.graph.initializer[:]
    slim.graph.initializer.extend(small)
    stand_ins = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large if t.name not in known]
    slim.graph.input.extend(stand_ins)
    slim.ir_version = max(slim.ir_version, 8)
    try:
        upgraded = version_converter.convert_version(slim, DIALECT)
    except Exception as error:
        raise ModelRefused(
            f"The model cannot be brought from opset {version} to {DIALECT} ({error}). Export it again with opset {DIALECT} or newer."
        ) from error
    for node in upgraded.graph.node:
        # until opset 10 there was but one way to resize, and the converter forgets to say which
        if node.op_type == "Resize" and version <= 10:
            kept = [a for a in node.attribute if a.name not in ("coordinate_transformation_mode", "nearest_mode")]
            del node.attribute[:]
            node.attribute.extend(kept)
            node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(helper.make_attribute("nearest_mode", "floor"))
    added = {i.name for i in stand_ins}
    inputs = [i for i in upgraded.graph.input if i.name not in added]
    del upgraded.graph.input[:]
    upgraded.graph.input.extend(inputs)
    upgraded.graph.initializer.extend(large)
    return upgraded


def _resolve_branches(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put in place of each `If` with a fixed condition the nodes of the branch taken."""
    graph = Graph(model)
    nodes: list[NodeProto] = []
    weights = list(model.graph.initializer)
    taken = {*graph.producers, *graph.inputs, *graph.initializers}
    found = False
    for node in model.graph.node:
        condition = graph.constant(node.input[0]) if node.op_type == "If" else None
        if condition is None:
            nodes.append(node)
            continue
        found = True
        branch = GraphProto()
        branch.CopyFrom(
            next(a.g for a in node.attribute if a.name == ("then_branch" if condition.item() else "else_branch"))
        )
        own = [t.name for t in branch.initializer] + [name for inner in branch.node for name in inner.output if name]
        clashing = taken.intersection(own)
        taken |= {*own, *(f"{node.output[0]}/{name}" for name in clashing)}
        _rename(branch, {name: f"{node.output[0]}/{name}" for name in clashing})
        weights.extend(branch.initializer)
        nodes.extend(branch.node)
        nodes.extend(
            helper.make_node("Identity", [inner.name], [outer])
            for inner, outer in zip(branch.output, node.output, strict=True)
        )
    if not found:
        return model
    resolved = onnx.ModelProto()
    resolved.CopyFrom(model)
    del resolved.graph.node[:], resolved.graph.initializer[:]
    resolved.graph.node.extend(nodes)
    resolved.graph.initializer.extend(weights)
    return resolved


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors of a graph, and of the graphs inside its nodes, other names, in place."""
    if not names:
        return
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in (*graph.value_info, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for list_of_names in (node.input, node.output):
            for index, name in enumerate(list_of_names):
                list_of_names[index] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                _rename(inner, names)
