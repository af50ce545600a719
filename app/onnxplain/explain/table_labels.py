"""Labels as callers write them -> what metrics compare with: class indices, or numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.metrics import Truth
from onnxplain.facts.errors import BadTable
from onnxplain.model.tables.table_model import TabularModel


def read_truth(labels: list[Any], n: int, model: TabularModel, weights: NDArray[np.float64] | None) -> Truth:
    """The labels of n rows.

    Raises:
        BadTable: there are too few or too many, or one is no class of the model or no number.
    """
    if len(labels) != n:
        raise BadTable(f"There are {len(labels)} labels for {n} rows; send one for each row.")
    if model.card.task == "regression":
        return Truth(_numbers(labels), 0, weights)
    index = model.label_index
    # Where the classes are 0 and 1, true and false are those.
    texts = [_text(int(label) if isinstance(label, bool) and str(label) not in index else label) for label in labels]
    indices = [index.get(text, -1) for text in texts]
    if -1 in indices:
        row = indices.index(-1)
        known = ", ".join(f"'{name}'" for name in model.classes[:10]) + (" ..." if len(model.classes) > 10 else "")
        raise BadTable(
            f"Row {row + 1}: the label {labels[row]!r:.60} is no class of the model; its classes are {known}. Correct the label."
        )
    return Truth(np.array(indices, dtype=np.intp), len(model.classes), weights)


def _text(label: Any) -> str:
    """1.0, "1.0" and 1 are the same class to people and to CSV files."""
    if isinstance(label, str):
        whole, dot, zeros = label.strip().partition(".")
        return whole if dot and not zeros.strip("0") and whole.lstrip("-").isdigit() else label.strip()
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)


def _numbers(labels: list[Any]) -> NDArray[np.float64]:
    """float64[n, k]: one number a row, or a list of numbers where there are several targets."""
    rows = [label if isinstance(label, list) else [label] for label in labels]
    width = len(rows[0])
    for number, row in enumerate(rows):
        if len(row) != width:
            raise BadTable(
                f"Row {number + 1} has {len(row)} labels, row 1 has {width}; send the same number for each row."
            )
        for place, label in enumerate(row):
            try:
                value = float(label) if isinstance(label, int | float | str) else np.nan
            except ValueError:
                value = np.nan
            if not np.isfinite(value):
                raise BadTable(
                    f"Row {number + 1}: the label {label!r:.60} is no finite number; correct it or leave the row out."
                )
            row[place] = value
    return np.array(rows, dtype=np.float64)
