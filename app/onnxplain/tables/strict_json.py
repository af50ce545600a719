"""JSON as RFC 8259 and nothing more: what lenient parsers let through is refused here with its reason.

Refused: NaN and Infinity, numbers beyond float64, duplicate keys, lone surrogates, any encoding but UTF-8, and
nesting or integers beyond what a request needs.
"""

from __future__ import annotations

import json
import math
from typing import Any

from onnxplain.facts.errors import MalformedInput

_REMEDY = "Send JSON as RFC 8259 defines it, in UTF-8."


def _refuse_constant(name: str) -> Any:
    raise MalformedInput(f"The body holds {name}, which JSON does not have. Use null for a missing value.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MalformedInput("The body holds a number beyond the range of a 64-bit float. Send finite numbers.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise MalformedInput("An object in the body names the same key twice. Send every key once.")
    return document


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)


def loads(data: bytes) -> Any:
    """Decode `data`.

    Raises:
        MalformedInput: it is not strict JSON; the sentence says what is wrong and where.
    """
    try:
        text = data.decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        raise MalformedInput(f"The body is not UTF-8 (byte {error.start}). {_REMEDY}") from None
    if text.startswith("\ufeff"):
        raise MalformedInput(f"The body starts with a byte order mark. {_REMEDY}")
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedInput(
            f"The body is not valid JSON at line {error.lineno}, column {error.colno}. {_REMEDY}"
        ) from None
    except RecursionError:
        raise MalformedInput("The body is nested too deeply. Send flat JSON, as the examples show.") from None
    except ValueError:
        raise MalformedInput("The body holds an integer with too many digits. Send 64-bit numbers.") from None
    if "\\u" in text:
        _refuse_surrogates(document)
    return document


def _refuse_surrogates(document: Any) -> None:
    """A lone surrogate can only come from an escape; it cannot be written as UTF-8 again."""
    try:
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedInput(f"The body holds half of a surrogate pair. {_REMEDY}") from None
