"""Tables that callers send: JSON, CSV, Parquet or Arrow in, arrays in the model's own types out, cell by cell right or refused."""

from __future__ import annotations

from onnxplain.tables.cells import Decoded, Layout
from onnxplain.tables.reading import MEDIA_TYPES, read

__all__ = ["MEDIA_TYPES", "Decoded", "Layout", "read"]
