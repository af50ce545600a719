"""What an option may hold: how a value or a text is read, the words that refuse it, and its JSON Schema.

A kind is a type annotation: `int`, `float`, `bool`, `str`, `Literal[...]`, `tuple[kind, ...]`, `dict[str, kind]`, unions of
those, each perhaps `Annotated` with a `Range`. Query strings, forms, shells and JSON bodies are all read here, so they mean
the same and are refused in the same words. A worker does without pydantic, which would cost each one 9 MB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

Reader = Callable[[Any], Any]
Number = TypeVar("Number", int, float)

_INTEGERS = 2**63  # bound of the integers that JSON libraries, arrays and the runtime all hold
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class UnfitError(ValueError):
    """A value is not of its option's kind."""


@dataclass(frozen=True)
class Range:
    """Bounds of a number, or of how many items or characters there are; `above` and `below` are not reached."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, size: float) -> bool:
        """Whether a number lies within."""
        return (
            (self.least is None or size >= self.least)
            and (self.most is None or size <= self.most)
            and (self.above is None or size > self.above)
            and (self.below is None or size < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:,} to {self.most:,}"
        bounds = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {bound:,}" for words, bound in bounds.items() if bound is not None)


@cache
def reader(kind: Any) -> Reader:
    """The function that takes a JSON value as this kind holds it, or raises `UnfitError`.

    JSON has types: 0 is not false, "3" is not a number, 3.0 is not an integer. Numbers are finite.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _within(reader(inner[0]), inner[1])
    if origin in (Union, UnionType):
        return _first_of([reader(each) for each in inner])
    if origin is Literal:
        return _one_of(inner)
    if origin is tuple:
        return _list_of(reader(inner[0]))
    if origin is dict:
        return _object_of(reader(inner[1]))
    return _PLAIN[kind]


def interpreted(kind: Any, text: str) -> Any:
    """The JSON value that a text means where this kind is wanted; the text itself where it means none."""
    meanings: list[Any] = [text]
    if text.lower() in _TRUTH:
        meanings.append(_TRUTH[text.lower()])
    if _INTEGER.fullmatch(text):
        meanings.append(int(text))
    if _NUMBER.fullmatch(text):
        meanings.append(float(text))
    for meaning in meanings:
        try:
            reader(kind)(meaning)
        except UnfitError:
            continue
        return meaning
    return text


def takes_list(kind: Any) -> bool:
    """Whether a list fits, so that a name may be repeated in a query string."""
    return tuple in (get_origin(kind), *(get_origin(_bare(each)) for each in _alternatives(kind)))


def wanted(kind: Any) -> str:
    """The kind in words: `a whole number from 1 to 512`."""
    return ", or ".join(_wanted(each) for each in _alternatives(kind))


def schema(kind: Any, *, null: bool = False) -> dict[str, Any]:
    """The kind as JSON Schema; without its None, unless null may stand for what is not given, as in JSON it may."""
    alternatives = [_schema(each) for each in _alternatives(kind)]
    if null and NoneType in get_args(kind):
        alternatives.append({"type": "null"})
    return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}


# ---- readers --------------------------------------------------------------------------------------------------------


def _none(value: Any) -> None:
    if value is not None:
        raise UnfitError


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UnfitError
    return value


def _int(value: Any) -> int:
    if type(value) is not int or not -_INTEGERS <= value < _INTEGERS:
        raise UnfitError
    return value


def _float(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    return float(_int(value))


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise UnfitError
    return value


_PLAIN: dict[Any, Reader] = {NoneType: _none, bool: _bool, int: _int, float: _float, str: _str}


def _within(read: Reader, bounds: Range) -> Reader:
    def within(value: Any) -> Any:
        value = read(value)
        if not bounds.holds(len(value) if isinstance(value, Sized) else value):
            raise UnfitError
        return value

    return within


def _first_of(readers: Sequence[Reader]) -> Reader:
    def first_of(value: Any) -> Any:
        for read in readers:
            try:
                return read(value)
            except UnfitError:
                pass
        raise UnfitError

    return first_of


def _one_of(choices: Sequence[str]) -> Reader:
    def one_of(value: Any) -> str:
        if _str(value) not in choices:
            raise UnfitError
        return str(value)

    return one_of


def _list_of(read: Reader) -> Reader:
    def list_of(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise UnfitError
        return tuple(map(read, value))

    return list_of


def _object_of(read: Reader) -> Reader:
    def object_of(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise UnfitError
        return {_str(key): read(item) for key, item in value.items()}

    return object_of


# ---- words and schemas ----------------------------------------------------------------------------------------------


def _alternatives(kind: Any) -> list[Any]:
    """The kinds of a union but None; the kind itself where it is none."""
    return [each for each in get_args(kind) if each is not NoneType] if _is_union(kind) else [kind]


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _wanted(kind: Any, *, plural: bool = False) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(*inner, plural=plural)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return f"{'lists' if plural else 'a list'} of {_wanted(inner[0], plural=True)}"
    if origin is dict:
        return f"an object of {_wanted(inner[1], plural=True)}"
    one, many = _WORDS[kind]
    return many if plural else one


def _bounded(kind: Any, bounds: Range, *, plural: bool) -> str:
    """`a text of at most 200 characters`, `a list of 1 to 20 texts`, `a number from 0 to 1`, `numbers of at least 0`."""
    if get_origin(kind) is tuple:
        return f"{'lists' if plural else 'a list'} of {bounds} {_wanted(get_args(kind)[0], plural=True)}"
    if kind is str:
        return f"{_wanted(kind, plural=plural)} of {bounds} characters"
    joint = " from " if " to " in str(bounds) else " of " if str(bounds).startswith("at ") else " "
    return f"{_wanted(kind, plural=plural)}{joint}{bounds}"


_WORDS = {
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
}


def _schema(kind: Any) -> dict[str, Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bare = _schema(inner[0])
        return bare | _bounds(bare["type"], inner[1])
    if origin is Literal:
        return {"type": "string", "enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": schema(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema(inner[1])}
    return {"type": {bool: "boolean", int: "integer", float: "number", str: "string"}[kind]}


def _bounds(of: str, bounds: Range) -> dict[str, Any]:
    least, most = {"array": ("minItems", "maxItems"), "string": ("minLength", "maxLength")}.get(
        of, ("minimum", "maximum")
    )
    named = {least: bounds.least, most: bounds.most}
    named |= {"exclusiveMinimum": bounds.above, "exclusiveMaximum": bounds.below}
    return {name: bound for name, bound in named.items() if bound is not None}
