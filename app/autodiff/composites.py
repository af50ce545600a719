"""Activations that exporters write in several operators, seen as the one that they are: their gradient takes half as many passes.

Only the way back changes: the forward nodes stay as they are, and the runtime fuses them as it would in the model itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import helper

from app.autodiff.graph import Graph, Node, captured

_CLOSE = 1e-3  # relative; half precision writes the root of 2 as 1.4141


def composed(graph: Graph, path: Sequence[Node], kept: Collection[str]) -> list[Node]:
    """The path with one node, `Swish` or `Gelu`, in the place of those that spell it.

    Args:
        graph: what the path leads through.
        path: nodes in the order of the graph.
        kept: tensors whose cotangents are asked for; these stay visible.
    """
    reads = Counter(name for node in graph.nodes for name in (*node.input, *captured(node)))
    reads.update(value.name for value in graph.model.graph.output)
    hidden = {name for name, count in reads.items() if count == 1 and name not in kept}
    around = _Around(
        {node.outputs[0]: node for node in path}, {name: node for node in path for name in node.inputs}, hidden
    )
    replaced: dict[int, Node | None] = {}
    for node in path:
        kind, spell = _SPELLINGS.get(node.operator, ("", None))
        spelled = spell(node, around) if spell else None
        if spelled is not None:
            x, members = spelled
            last = members[-1]
            replaced |= dict.fromkeys(map(id, members))
            replaced[id(last)] = Node(helper.make_node(kind, [x], [last.outputs[0]], last.name), graph, (True,))
    return [found for node in path if (found := replaced.get(id(node), node)) is not None]


@dataclass(frozen=True)
class _Around:
    """Where a node of the path stands: who makes a tensor, who reads it, and which have no other reader."""

    makers: Mapping[str, Node]
    readers: Mapping[str, Node]
    hidden: Collection[str]


_Spelled = tuple[str, list[Node]]  # what goes in, and the nodes, the last of which makes what comes out


def _swish(sigmoid: Node, around: _Around) -> _Spelled | None:
    """x sigmoid(x)."""
    x, s = sigmoid.input(0), sigmoid.outputs[0]
    product = around.readers.get(s)
    if s not in around.hidden or product is None or product.operator != "Mul" or {*product.inputs} != {x, s}:
        return None
    return x, [sigmoid, product]


def _gelu(erf: Node, around: _Around) -> _Spelled | None:
    """x (1 + erf(x / sqrt 2)) / 2, the factors in any order."""
    scaled = around.makers.get(erf.input(0))
    x = _operand(scaled, 1 / math.sqrt(2))
    if scaled is None or not x:
        return None
    members, missing = [scaled, erf], {"one", "x", "half"}
    while missing:
        value = members[-1].outputs[0]
        node = around.readers.get(value)
        if node is None or not {value, scaled.outputs[0]} <= set(around.hidden):
            return None
        others = [name for name in node.inputs if name != value]
        half = around.makers.get(others[0]) if others else None
        if "one" in missing:
            found = {"one"} if node.operator == "Add" and _number(node) == 1 else set()
        elif _operand(node, 0.5) == value:
            found = {"half"}
        elif node.operator == "Mul" and others == [x]:
            found = {"x"}
        elif node.operator == "Mul" and half and others[0] in around.hidden and _operand(half, 0.5) == x:
            found = {"x", "half"}
            members.insert(0, half)
        else:
            return None
        if not found or not found <= missing:
            return None
        missing -= found
        members.append(node)
    return x, members


def _operand(node: Node | None, factor: float) -> str:
    """What the node multiplies by this number, which it may do by dividing; empty if it does something else."""
    number = None if node is None else _number(node)
    if node is None or not number or node.operator not in ("Mul", "Div"):
        return ""
    if node.operator == "Div" and node.constant(1) is None:
        return ""
    given = number if node.operator == "Mul" else 1 / number
    if abs(given - factor) > _CLOSE * factor:
        return ""
    return next(name for index, name in enumerate(node.inputs) if node.constant(index) is None)


def _number(node: Node) -> float | None:
    """The one operand of two that is a fixed number and makes the other no larger."""
    constants = [value for index in range(len(node.inputs)) if (value := node.constant(index)) is not None]
    if len(node.inputs) != 2 or len(constants) != 1 or constants[0].size != 1:
        return None
    return float(constants[0].item()) if constants[0].ndim <= 1 else None


_SPELLINGS = {"Sigmoid": ("Swish", _swish), "Erf": ("Gelu", _gelu)}
