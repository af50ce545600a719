"""Rows in a Parquet file or an Arrow IPC stream or file, where pyarrow is installed (the extra `arrow`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.facts.cards import Feature
from onnxplain.facts.errors import BadTable, InputTooLarge, MalformedInput, UnsupportedMediaType
from onnxplain.tables.cells import Cells, Decoded, Layout, from_values


def read_arrow(
    body: bytes,
    media_type: str,
    layout: Layout,
    label: str | None,
    max_cells: int,
    check: Callable[[], None] = lambda: None,
) -> Decoded:
    """A Parquet or Arrow body; null is a missing value, and dictionary columns are read as their values.

    Raises:
        UnsupportedMediaType: pyarrow is not installed.
        MalformedInput: pyarrow cannot read it.
        BadTable: the rows do not fit the model.
        InputTooLarge: there are more cells than allowed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UnsupportedMediaType(
            "Parquet and Arrow are read where the service is installed with its extra 'arrow'; send JSON or CSV."
        ) from None
    source = pa.BufferReader(body)
    try:
        if media_type.endswith("parquet"):
            file = pq.ParquetFile(source)
            _check_size(file.metadata.num_rows, file.metadata.num_columns, max_cells)
            table = file.read(use_threads=False)
        elif media_type.endswith("stream"):
            table = pa.ipc.open_stream(source).read_all()
        else:
            table = pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedInput(
            f"The body is not what its media type {media_type} says; send such a file whole."
        ) from error
    _check_size(table.num_rows, table.num_columns, max_cells)
    cells = Cells(layout, table.column_names, label, max_cells, check)
    if not table.num_rows:
        raise BadTable("The table has no rows; send at least one.")
    features = {feature.name: feature for block in layout for feature in block}
    cells.add_columns([_column(table[name], features.get(name)) for name in table.column_names])
    return cells.finish(None, {})


def _check_size(rows: int, columns: int, max_cells: int) -> None:
    if rows * columns > max_cells:
        raise InputTooLarge(f"The table has more than {max_cells:,} cells; send fewer rows.")


def _column(column: Any, feature: Feature | None) -> NDArray[Any]:
    """A column as an array; numbers without a detour over Python objects."""
    import pyarrow as pa

    kind = column.type
    if feature is None:
        return np.array(column.to_pylist(), dtype=object)
    floating = feature.dtype.startswith("float")
    if floating and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        doubles = column.cast(pa.float64(), safe=False).to_numpy()
        with np.errstate(over="ignore"):
            rounded: NDArray[Any] = doubles.astype(feature.dtype)
        if not np.isinf(rounded).any():
            return rounded
    return from_values(column.to_pylist(), feature, 0)
