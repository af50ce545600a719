"""Activations that exporters write in several operators, seen as the one that they are.

Only the way back changes. It reads what goes in and what comes out, no longer what lies between; so the runtime fuses the forward nodes
as it would in the model itself, where the rules of the parts would keep each of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import helper

from onnxplain.autodiff.graph import Array, Graph, Node, captured

_CLOSE = 2e-4  # largest relative error of a known constant; half precision writes the root of 2 as 1.4141


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
        {node.outputs[0]: node for node in path if node.outputs[0] in hidden},
        {name: node for node in path for name in node.inputs if name in hidden},
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
    """Of every tensor that one node alone reads: who makes it, and who reads it."""

    makers: Mapping[str, Node]
    readers: Mapping[str, Node]


_Spelled = tuple[str, list[Node]]  # what goes in, and the nodes, the last of which makes what comes out


def _swish(sigmoid: Node, around: _Around) -> _Spelled | None:
    """x sigmoid(x)."""
    x, s = sigmoid.input(0), sigmoid.outputs[0]
    product = around.readers.get(s)
    if product is None or product.operator != "Mul" or {*product.inputs} != {x, s}:
        return None
    return x, [sigmoid, product]


def _gelu(erf: Node, around: _Around) -> _Spelled | None:
    """x (1 + erf(x / sqrt 2)) / 2, the factors in any order."""
    scaled, one_more = around.makers.get(erf.input(0)), around.readers.get(erf.outputs[0])
    x = _multiplied(scaled, 1 / math.sqrt(2))
    if scaled is None or one_more is None or not x:
        return None
    if one_more.operator != "Add" or not any(_is(one_more.constant(index), 1.0) for index in (0, 1)):
        return None
    members, missing = [scaled, erf, one_more], {"x", "half"}
    while missing:
        value = members[-1].outputs[0]
        node = around.readers.get(value)
        if node is None:
            return None
        other = next((name for name in node.inputs if name != value), "")
        half = around.makers.get(other)
        found: set[str] = set()
        if _multiplied(node, 0.5) == value:
            found = {"half"}
        elif node.operator == "Mul" and other == x:
            found = {"x"}
        elif node.operator == "Mul" and half and _multiplied(half, 0.5) == x:
            found = {"x", "half"}
            members.insert(0, half)
        if not found or not found <= missing:
            return None
        missing -= found
        members.append(node)
    return x, members


def _multiplied(node: Node | None, factor: float) -> str:
    """What the node multiplies by this number, be it by dividing; empty if it does something else."""
    if node is None or node.operator not in ("Mul", "Div"):
        return ""
    if node.operator == "Div":
        return node.input(0) if _is(node.constant(1), 1 / factor) else ""
    return next((node.input(1 - index) for index in (0, 1) if _is(node.constant(index), factor)), "")


def _is(operand: Array | None, number: float) -> bool:
    """Whether an operand is fixed, and this number, and leaves the other operand its shape."""
    if operand is None or operand.size != 1 or operand.ndim > 1:
        return False
    return math.isclose(float(operand.item()), number, rel_tol=_CLOSE)


_SPELLINGS = {"Sigmoid": ("Swish", _swish), "Erf": ("Gelu", _gelu)}
