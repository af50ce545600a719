"""Rows in a JSON body, decoded a few megabytes at a time, so that a large table is never a tree of Python objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from onnxplain.facts.errors import BadTable, MalformedInput
from onnxplain.tables import strict_json
from onnxplain.tables.cells import Cells, Decoded, Layout

_CHUNK = 1 << 19
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_OPENING = re.compile(rb"\s*:\s*\[\s*([\[{\]])")
_END = {b"[": re.compile(rb"\]\s*\]"), b"{": re.compile(rb"\}\s*\]")}
_BETWEEN = {b"[": re.compile(rb"\]\s*,\s*\["), b"{": re.compile(rb"\}\s*,\s*\{")}


def read_json(
    body: bytes, layout: Layout, label: str | None, max_cells: int, check: Callable[[], None] = lambda: None
) -> Decoded:
    """A JSON body: `rows` as lists or objects, `columns`, `labels`, and options.

    Raises:
        MalformedInput: it is not strict JSON.
        BadTable: the rows do not fit the model.
        InputTooLarge: there are more cells than allowed.
    """
    where = _find_rows(body)
    if where is not None:
        try:
            document = strict_json.loads(body[: where[0]] + body[where[1] :])  # of the rows, an empty list is left
        except MalformedInput:
            where = None  # lists within rows, perhaps
    if where is None:
        document = strict_json.loads(body)
    if not isinstance(document, dict):
        raise MalformedInput("The body must be a JSON object with the key rows, as the examples show.")
    options = dict(document)
    rows, columns, labels = (options.pop(key, None) for key in ("rows", "columns", "labels"))
    label = options.pop("label", None) if label is None else label
    if labels is not None and not isinstance(labels, list):
        raise BadTable("labels must be a list with one label for each row.")
    if rows is None:
        if labels is not None or columns is not None:
            raise BadTable("labels and columns belong to rows, which are missing; send rows too.")
        return Decoded(options=options)
    if not isinstance(rows, list):
        raise BadTable("rows must be a list of rows, each a list or an object.")
    if columns is not None and not (isinstance(columns, list) and all(isinstance(name, str) for name in columns)):
        raise BadTable("columns must be a list of column names.")
    if label is not None and not isinstance(label, str):
        raise BadTable("label must be the name of a column.")
    chunks = _chunks(body, *where) if where is not None else iter([rows])
    return _collect(chunks, layout, columns, label, max_cells, check).finish(labels, options)


def _collect(
    chunks: Iterator[list[Any]],
    layout: Layout,
    columns: list[str] | None,
    label: str | None,
    max_cells: int,
    check: Callable[[], None],
) -> Cells:
    cells: Cells | None = None
    for rows in chunks:
        if not rows:
            continue
        objects = isinstance(rows[0], dict)
        if cells is None:
            if columns is None and objects:
                columns = list(rows[0])
            cells = Cells(layout, columns, label, max_cells, check)
        kind = dict if objects else list
        if set(map(type, rows)) != {kind}:
            number = next(i for i, row in enumerate(rows) if type(row) is not kind)
            raise BadTable(
                f"Row {cells.n_rows + number + 1} must be {'an object' if objects else 'a list'} like row 1."
            )
        cells.add(_ordered(rows, cells) if objects else rows)
    return Cells(layout, columns, label, max_cells, check) if cells is None else cells


def _ordered(rows: list[dict[str, Any]], cells: Cells) -> Sequence[Sequence[Any]]:
    """Objects as lists in the order of the columns."""
    names = cells.names
    try:
        if all(len(row) == len(names) for row in rows):
            return [[row[name] for name in names] for row in rows]
    except KeyError:
        pass
    for number, row in enumerate(rows):
        if row.keys() != set(names):
            odd = next(iter((row.keys() - set(names)) or (set(names) - row.keys())))
            problem = "has the unknown" if odd in row else "lacks the"
            raise BadTable(
                f"Row {cells.n_rows + number + 1} {problem} column '{odd[:60]}'; give all rows the same keys."
            )
    return []


def _find_rows(body: bytes) -> tuple[int, int] | None:
    """Where the inside of the list `rows` of the outermost object begins and ends; None for the slow way."""
    place = body.find(b'"rows"')
    if place < 0 or (opening := _OPENING.match(body, place + 6)) is None:
        return None
    depth = 0
    for token in _TOKEN.finditer(body, 0, place):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token.group(), 0)
    kind, first = opening.group(1), opening.start(1)
    if depth != 1 or kind == b"]":
        return None
    for end in _END[kind].finditer(body, first):
        if _outside_strings(body, first, end.start()):
            return first, end.end() - 1
    return None


def _outside_strings(body: bytes, first: int, last: int) -> bool:
    """Whether no string is open at `last` if none is at `first`."""
    if body.find(b'"', first, last) < 0:
        return True
    if body.find(b"\\", first, last) < 0:
        return body.count(b'"', first, last) % 2 == 0
    return sum(match.group() == b'"' for match in re.finditer(rb'\\.|"', body[first:last])) % 2 == 0


def _chunks(body: bytes, first: int, last: int) -> Iterator[list[Any]]:
    """The rows, some at a time."""
    between = _BETWEEN[body[first : first + 1]]
    while first < last:
        stop, following = last, last
        for boundary in between.finditer(body, min(first + _CHUNK, last), last):
            if _outside_strings(body, first, boundary.start()):
                stop, following = boundary.start() + 1, boundary.end() - 1
                break
        yield _decode(body, first, stop)
        first = following


def _decode(body: bytes, first: int, last: int) -> list[Any]:
    chunk = b"[" + body[first:last] + b"]"
    try:
        rows: list[Any] = orjson.loads(chunk)
    except orjson.JSONDecodeError:
        # Tell the reason in our own words; the place is counted from the start of the body.
        before = body[:first]
        strict_json.loads(b"\n" * before.count(b"\n") + b" " * (first - before.rfind(b"\n") - 2) + chunk)
        raise MalformedInput("The rows are not valid JSON. Send JSON as RFC 8259 defines it, in UTF-8.") from None
    if body[first : first + 1] == b"{" and _may_repeat_keys(chunk, rows):
        strict_json.loads(chunk)
    return rows


def _may_repeat_keys(chunk: bytes, rows: list[Any]) -> bool:
    """Whether there are more quotes than the decoded keys and texts account for (a repeated key is lost in decoding)."""
    if b"\\" in chunk:
        return True
    texts = sum(len(row) + list(map(type, row.values())).count(str) for row in rows if isinstance(row, dict))
    return chunk.count(b'"') != 2 * texts
