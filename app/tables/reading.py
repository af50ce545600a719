"""Which reader reads which media type."""

from __future__ import annotations

from app.errors import UnsupportedMediaType
from app.tables.arrow_rows import read_arrow
from app.tables.cells import Decoded, Layout
from app.tables.csv_rows import read_csv
from app.tables.json_rows import read_json

ARROW_TYPES = (
    "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
)
MEDIA_TYPES = ("application/json", "text/csv", *ARROW_TYPES)


def read(body: bytes, media_type: str, layout: Layout, *, label: str | None = None, max_cells: int) -> Decoded:
    """The rows of a body in the model's own types.

    Args:
        body: as it was sent; empty for no rows.
        media_type: one of `MEDIA_TYPES`.
        layout: the model's inputs.
        label: the column that holds the labels, where one does.
        max_cells: rows times columns allowed.

    Raises:
        UnsupportedMediaType: no reader reads it.
        MalformedInput, BadTable, InputTooLarge: see the readers.
    """
    if not body:
        return Decoded()
    if media_type == "application/json":
        return read_json(body, layout, label, max_cells)
    if media_type == "text/csv":
        return read_csv(body, layout, label, max_cells)
    if media_type in ARROW_TYPES:
        return read_arrow(body, media_type, layout, label, max_cells)
    raise UnsupportedMediaType(f"A table comes as {', '.join(MEDIA_TYPES[:-1])} or {MEDIA_TYPES[-1]}.")
