"""Labels as callers write them -> what metrics compare with: class indices, or numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.truth import Truth
from onnxplain.facts.errors import BadTable
from onnxplain.model.tables.table_model import TabularModel


def read_truth(labels: list[Any], n: int, model: TabularModel, weights: NDArray[np.float64] | None) -> Truth:
    """The labels of n rows.

    Raises:
        BadTable: there are too few or too many, or one is neither a class of the model nor a number.
    """
    if len(labels) != n:
        raise BadTable(f"There are {len(labels)} labels for {n} rows; send one for each row.")
    if model.card.task == "regression":
        return Truth(_numbers(labels), 0, weights)
    index = model.label_index
    if None in labels:
        raise BadTable(
            f"Row {labels.index(None) + 1}: the label None says nothing; give the row a label, or leave it out."
        )
    indices = [next((index[text] for text in _spellings(label) if text in index), -1) for label in labels]
    if -1 in indices:
        row = indices.index(-1)
        known = ", ".join(f"'{name}'" for name in model.classes[:10]) + (" ..." if len(model.classes) > 10 else "")
        raise BadTable(
            f"Row {row + 1}: the label {labels[row]!r:.60} is not a class of the model; its classes are {known}. Correct the label."
        )
    return Truth(np.array(indices, dtype=np.intp), len(model.classes), weights)


def _spellings(label: Any) -> Iterator[str]:
    """How a label may be written as the name of a class, the label's own spelling first.

    1.0, "1.0" and 1 are the same class to people and to CSV files; so are true, "True" and "TRUE", which are 1 where classes are numbers.
    """
    text = str(label).strip()
    yield str(label)
    yield text
    whole, dot, zeros = text.partition(".")
    if whole.lstrip("-").isdigit() and not zeros.strip("0"):
        yield whole
        if not dot:
            yield f"{whole}.0"
    if text.lower() in {"true", "false"}:
        yield text.capitalize()
        yield text.lower()
        yield text.upper()
        yield str(int(text.lower() == "true"))


def refuse_other_width(truth: Truth, width: int) -> None:
    """Labels of a regression come as many a row as the model gives numbers a row.

    Raises:
        BadTable: there are more or fewer.
    """
    came = truth.values.shape[1]
    if came != width:
        raise BadTable(
            f"The rows have {came} {'label' if came == 1 else 'labels'} each, but the model predicts {width} "
            f"{'target' if width == 1 else 'targets'}; send {width} for each row."
        )


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
