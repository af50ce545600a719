"""Rows in a CSV file with a header line. Plain numbers take a fast way, everything else the standard library's reader."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator

import orjson

from onnxplain.facts.errors import BadTable, MalformedInput
from onnxplain.tables.cells import Cells, Decoded, Layout

_CHUNK = 1 << 19


def read_csv(
    body: bytes, layout: Layout, label: str | None, max_cells: int, check: Callable[[], None] = lambda: None
) -> Decoded:
    """A CSV body in UTF-8, with or without a byte order mark.

    Raises:
        MalformedInput: it is not UTF-8, or a quote is left open.
        BadTable: the rows do not fit the model.
        InputTooLarge: there are more cells than allowed.
    """
    start = 3 if body.startswith(b"\xef\xbb\xbf") else 0
    if body[start : start + 2] in {b"\xff\xfe", b"\xfe\xff"} or b"\0" in body[:1000]:
        raise MalformedInput("The CSV file is not UTF-8 text; save it as UTF-8.")
    names, start = _header(body, start)
    if len(names) == 1 and ";" in names[0]:
        raise BadTable("The CSV header has semicolons; separate the columns with commas.")
    cells = Cells(layout, names, label, max_cells, check)
    quoted = body.find(b'"', start) >= 0
    for chunk in [body[start:]] if quoted else _lines(body, start):
        numbers = None if quoted or cells.has_text else _numbers(chunk)
        if numbers is None:
            cells.add(_texts(chunk, len(names)), text=True)
        else:
            cells.add(numbers)
    return cells.finish(None, {})


def _header(body: bytes, start: int) -> tuple[list[str], int]:
    """The column names, and where the rows begin; a quoted name may hold commas and line breaks."""
    stop = start
    while True:
        stop = body.find(b"\n", stop)
        stop = len(body) if stop < 0 else stop + 1
        if body.count(b'"', start, stop) % 2 == 0 or stop == len(body):
            break
    rows = _texts(body[start:stop], None)
    if not rows:
        raise BadTable("The CSV file is empty; send a header line with the column names, then the rows.")
    return [name.strip() for name in rows[0]], stop


def _lines(body: bytes, start: int) -> Iterator[bytes]:
    while start < len(body):
        stop = body.find(b"\n", min(start + _CHUNK, len(body)))
        stop = len(body) if stop < 0 else stop + 1
        yield body[start:stop]
        start = stop


def _numbers(chunk: bytes) -> list[list[float | None]] | None:
    """Lines of plain numbers, read as JSON after putting brackets round them; None where that is not what they are."""
    if b"[" in chunk or b"{" in chunk:
        return None
    lines = chunk.replace(b"\r\n", b"\n") if b"\r" in chunk else chunk
    rows = b"[[" + lines.removesuffix(b"\n").replace(b"\n", b"],[") + b"]]"
    decoded = _decoded(rows)
    if decoded is None:  # most often since cells are missing
        for empty, null in ((b",,", b",null,"), (b",,", b",null,"), (b"[,", b"[null,"), (b",]", b",null]")):
            rows = rows.replace(empty, null)
        decoded = _decoded(rows)
    return decoded if decoded and all(decoded) else None  # empty lines are for the other way


def _decoded(rows: bytes) -> list[list[float | None]] | None:
    try:
        decoded: list[list[float | None]] = orjson.loads(rows)
    except orjson.JSONDecodeError:
        return None
    return decoded


def _texts(chunk: bytes, width: int | None) -> list[list[str]]:
    try:
        text = chunk.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedInput(f"The CSV file is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise MalformedInput(f"The CSV file cannot be read ({error}); check its quotes.") from None
    # An empty line is no row; where there is but one column, it is a row with a missing value, as it is in pandas' writer.
    return [row for row in rows if row] if width != 1 else [row or [""] for row in rows]
