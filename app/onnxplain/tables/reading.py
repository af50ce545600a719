"""Which reader reads which media type."""

from __future__ import annotations

from collections.abc import Callable

from onnxplain.facts.errors import UnsupportedMediaType
from onnxplain.tables.arrow_rows import read_arrow
from onnxplain.tables.cells import Decoded, Layout
from onnxplain.tables.csv_rows import read_csv
from onnxplain.tables.json_rows import read_json

ARROW_TYPES = (
    "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
)
MEDIA_TYPES = ("application/json", "text/csv", *ARROW_TYPES)
# What clients say of a file whose kind they do not know: curl of a .csv in a form, browsers on Windows.
_UNSAID = ("", "application/octet-stream", "text/plain", "application/vnd.ms-excel")
_FIRST_BYTES = {
    b"PAR1": "application/vnd.apache.parquet",
    b"ARROW1": "application/vnd.apache.arrow.file",
    b"\xff\xff\xff\xff": "application/vnd.apache.arrow.stream",
    b"{": "application/json",
}


def read(
    body: bytes,
    media_type: str,
    layout: Layout,
    *,
    label: str | None = None,
    max_cells: int,
    check: Callable[[], None] = lambda: None,
) -> Decoded:
    """The rows of a body in the model's own types.

    Args:
        body: as it was sent; empty for no rows.
        media_type: one of `MEDIA_TYPES`; where it says nothing, the first bytes decide, and what they leave open is CSV.
        layout: the model's inputs.
        label: the column that holds the labels, where one does.
        max_cells: rows times columns allowed.
        check: called again and again while reading; raises to stop.

    Raises:
        UnsupportedMediaType: no reader reads it.
        MalformedInput, BadTable, InputTooLarge: see the readers.
    """
    if not body:
        return Decoded()
    if media_type in _UNSAID:
        media_type = next((kind for first, kind in _FIRST_BYTES.items() if body.startswith(first)), "text/csv")
    if media_type == "application/json":
        return read_json(body, layout, label, max_cells, check)
    if media_type == "text/csv":
        return read_csv(body, layout, label, max_cells, check)
    if media_type in ARROW_TYPES:
        return read_arrow(body, media_type, layout, label, max_cells, check)
    raise UnsupportedMediaType(f"A table comes as {', '.join(MEDIA_TYPES[:-1])} or {MEDIA_TYPES[-1]}.")
