"""Tables that callers send: JSON, CSV, Parquet or Arrow in, arrays in the model's own types out, cell by cell right or refused."""

from __future__ import annotations

from app.tables.cells import Decoded, Layout
from app.tables.reading import MEDIA_TYPES, read

__all__ = ["MEDIA_TYPES", "Decoded", "Layout", "read"]
