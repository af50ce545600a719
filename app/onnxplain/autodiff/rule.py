"""What a rule is, and the two tables: operators with a rule, operators whose derivative is zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxplain.autodiff.graph import Node
from onnxplain.facts.errors import UnsupportedOperator

Cotangents = Sequence[str | None]


@dataclass(frozen=True)
class Rule:
    """The vector-Jacobian product of one operator, as a graph.

    `write(op, node, g)` returns one cotangent per input of the node, None for an input that needs none.

    Attributes:
        write: the function that emits it.
        broadcasts: its cotangents have the output's shape; the driver sums them over broadcast axes.
        every_output: it takes one cotangent per output (None for an unused one) instead of the first output's only.
        flat: inputs on whose values the output does not depend; the path does not lead through them.
    """

    write: Callable[..., Cotangents]
    broadcasts: bool = False
    every_output: bool = False
    flat: tuple[int, ...] = ()


RULES: dict[str, Rule] = {}


def vjp(
    *operators: str, broadcasts: bool = False, every_output: bool = False, flat: tuple[int, ...] = ()
) -> Callable[[Callable[..., Cotangents]], Callable[..., Cotangents]]:
    """Enter the decorated function into the table as the rule of these operators."""

    def enter(write: Callable[..., Cotangents]) -> Callable[..., Cotangents]:
        for operator in operators:
            if operator in RULES:
                raise ValueError(f"{operator} has a rule already.")
            RULES[operator] = Rule(write, broadcasts, every_output, flat)
        return write

    return enter


def unsupported(node: Node, why: str) -> UnsupportedOperator:
    """The refusal of one usage of an operator that has a rule."""
    return UnsupportedOperator(
        f"Operator {node.operator} at node {node.name!r} {why}. Explain a later layer, or choose a method that needs no gradient.",
        node.operator,
        node.name,
    )


ZERO_DERIVATIVE = frozenset(
    {
        *(
            "And",
            "ArgMax",
            "ArgMin",
            "Bernoulli",
            "BitShift",
            "BitwiseAnd",
            "BitwiseNot",
            "BitwiseOr",
            "BitwiseXor",
            "Ceil",
        ),
        *(
            "Constant",
            "ConstantOfShape",
            "Equal",
            "EyeLike",
            "Floor",
            "Greater",
            "GreaterOrEqual",
            "IsInf",
            "IsNaN",
            "Less",
        ),
        *("LessOrEqual", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike", "Range", "Round", "Shape", "Sign", "Size", "Unique", "Xor"),
    }
)
