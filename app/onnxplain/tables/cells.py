"""From sent values to arrays: each column in the dtype that the model's input has, or an error that names row and column.

Rows are counted from 1, a header line not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxplain.facts.cards import Feature
from onnxplain.facts.errors import BadTable, InputTooLarge

Layout = Sequence[Sequence[Feature]]
"""The inputs of a model from left to right, each a block of columns of one dtype."""

MISSING_TEXTS = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL"})
_NUMBERS = {int, float}
_FLOATS = {"float32", "float64"}
_WORDS = {"true": 1.0, "false": 0.0, "True": 1.0, "False": 0.0, "TRUE": 1.0, "FALSE": 0.0}
_TRUTHS = {"true": True, "false": False, "1": True, "0": False, "True": True, "False": False}


@dataclass(frozen=True)
class Decoded:
    """What a body held.

    Attributes:
        blocks: arrays [n, width], as `Layout` has them; None where the body has no rows.
        labels: one value a row as it was sent, or None.
        options: the other keys of a JSON body.
    """

    blocks: tuple[NDArray[Any], ...] | None = None
    labels: list[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Cells:
    """Takes rows in the order they were sent and keeps them as arrays.

    Args:
        layout: what the model takes.
        names: the columns that the caller sends, in the sent order; None for the model's own order.
        label: a sent column that holds the labels.
        max_cells: how many cells are too many.
        check: called before each piece; raises to stop.

    Raises:
        BadTable: a column is unknown, missing or named twice.
    """

    def __init__(
        self,
        layout: Layout,
        names: Sequence[str] | None,
        label: str | None,
        max_cells: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._features = list(chain.from_iterable(layout))
        self._widths = [len(block) for block in layout]
        own = [feature.name for feature in self._features]
        self.names = own if names is None else list(names)
        self._label_place = _check_names(own, self.names, label)
        place = {name: i for i, name in enumerate(self.names)}
        self._places = [place[name] for name in own]
        self._max_cells = max_cells
        self._check = check
        self._uniform = self._features[0].dtype if len({f.dtype for f in self._features}) == 1 else None
        self._in_order = self._places == list(range(len(self.names)))
        self.has_text = any(feature.dtype not in _FLOATS for feature in self._features)
        self._parts: list[list[NDArray[Any]]] = []
        self._labels: list[Any] = []
        self.n_rows = 0

    def add(self, rows: Sequence[Sequence[Any]], *, text: bool = False) -> None:
        """Take rows of JSON values, or of texts as a CSV file has them.

        Raises:
            BadTable: a row is too short or long, or a value does not fit its column.
            InputTooLarge: there are more cells than allowed.
        """
        self._check()
        width = len(self.names)
        for number, row in enumerate(rows) if set(map(len, rows)) != {width} else ():
            if len(row) != width:
                raise BadTable(
                    f"Row {self.n_rows + number + 1} has {len(row)} values, but there are {width} columns; "
                    "send one value for each column."
                )
        if (self.n_rows + len(rows)) * width > self._max_cells:
            raise InputTooLarge(f"The table has more than {self._max_cells:,} cells; send fewer rows.")
        if rows:
            if self._label_place is not None:
                self._labels += [row[self._label_place] for row in rows]
            self._parts.append(self._columns(rows, text) if text else self._uniform_block(rows))
            self.n_rows += len(rows)

    def _uniform_block(self, rows: Sequence[Sequence[Any]]) -> list[NDArray[Any]]:
        """All cells at once, where they are nothing but numbers for columns of one float dtype."""
        if self._uniform not in _FLOATS:
            return self._columns(rows, text=False)
        flat = list(chain.from_iterable(rows))
        if not set(map(type, flat)) <= _NUMBERS:
            return self._columns(rows, text=False)
        with np.errstate(over="ignore"):
            cells = np.array(flat, dtype=np.float64).astype(self._uniform, copy=False).reshape(len(rows), -1)
        if not self._in_order:
            cells = cells[:, self._places]
        if not np.isfinite(cells).all():
            return self._columns(rows, text=False)
        return np.split(cells, np.cumsum(self._widths)[:-1], axis=1)

    def _columns(self, rows: Sequence[Sequence[Any]], text: bool) -> list[NDArray[Any]]:
        convert = from_texts if text else from_values
        columns = iter(
            [
                convert([row[place] for row in rows], feature, self.n_rows)
                for feature, place in zip(self._features, self._places, strict=True)
            ]
        )
        return [np.stack([next(columns) for _ in range(width)], axis=1) for width in self._widths]

    def add_columns(self, columns: Sequence[NDArray[Any]]) -> None:
        """Take whole columns, one for each name, converted already; the label's as it is."""
        if len(columns[0]) * len(self.names) > self._max_cells:
            raise InputTooLarge(f"The table has more than {self._max_cells:,} cells; send fewer rows.")
        if self._label_place is not None:
            self._labels += columns[self._label_place].tolist()
        ordered = iter([columns[place] for place in self._places])
        self._parts.append([np.stack([next(ordered) for _ in range(width)], axis=1) for width in self._widths])
        self.n_rows += len(columns[0])

    def finish(self, labels: list[Any] | None, options: dict[str, Any]) -> Decoded:
        """The whole table.

        Raises:
            BadTable: there are no rows.
        """
        if not self.n_rows:
            raise BadTable("The table has no rows; send at least one.")
        if labels is not None and self._label_place is not None:
            raise BadTable(
                f"Labels came twice: in the column '{self.names[self._label_place][:60]}' and in the list labels; send one of the two."
            )
        blocks = tuple(
            parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*self._parts, strict=True)
        )
        return Decoded(blocks, self._labels if self._label_place is not None else labels, options)


def _check_names(own: list[str], sent: list[str], label: str | None) -> int | None:
    """Every column of the model exactly once, and nothing else but the label; returns where the label is."""
    if len(set(sent)) != len(sent):
        twice = next(name for name in sent if sent.count(name) > 1)
        raise BadTable(f"Column '{twice}' is named twice; give every column a name of its own.")
    if label is not None and label not in sent:
        raise BadTable(f"There is no label column '{label}'; the table has {_listed(sent)}.")
    if missing := [name for name in own if name not in set(sent)]:
        others = [name for name in sent if name not in set(own) and name != label]
        same = f" If they are {_listed(others)}, name them so as `features` under [tabular] in model.toml."
        raise BadTable(
            f"The model needs column {_listed(missing)}, which the table lacks; add it."
            f"{same if len(others) == len(missing) else ''}"
        )
    # A model may read a column of the same name as the label; then the label has no column of its own.
    if unknown := [name for name in sent if name not in set(own) and name != label]:
        raise BadTable(
            f"The model knows no column {_listed(unknown)}; leave it out, or name it as label. It takes {_listed(own)}."
        )
    return None if label is None else sent.index(label)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name[:60]}'" for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _refuse(feature: Feature, row: int, came: object, expected: str) -> BadTable:
    shown = repr(came)
    shown = shown if len(shown) <= 40 else shown[:40] + "..."
    return BadTable(f"Row {row + 1}, column '{feature.name}': expected {expected}, but {shown} came; correct the cell.")


def from_values(values: list[Any], feature: Feature, first_row: int) -> NDArray[Any]:
    """A column of JSON values as an array [n] in the dtype of `feature`.

    null is a missing value: NaN for floats, an empty text for strings. true and false count as 1 and 0 for numbers.

    Raises:
        BadTable: a value does not fit, or lies beyond the range of the dtype.
    """
    kinds = set(map(type, values))
    if feature.dtype == "string":
        if not kinds <= {str, type(None)}:
            row, came = next((i, v) for i, v in enumerate(values) if v is not None and not isinstance(v, str))
            raise _refuse(feature, first_row + row, came, "text")
        return np.array(["" if value is None else value for value in values], dtype=object)
    if feature.dtype == "bool":
        if not kinds <= {bool}:
            row, came = next((i, v) for i, v in enumerate(values) if not isinstance(v, bool))
            raise _refuse(feature, first_row + row, came, "true or false")
        return np.array(values, dtype=np.bool_)
    floating = feature.dtype.startswith("float")
    expected = "a number" if floating else f"a whole number in the range of {feature.dtype}"
    allowed = {int, float, bool, type(None)} if floating else {int, float, bool}
    if not kinds <= allowed:
        row, came = next((i, v) for i, v in enumerate(values) if type(v) not in allowed)
        raise _refuse(feature, first_row + row, came, expected)
    if floating:
        return _floats(np.array(values, dtype=np.float64), feature, first_row)
    limits = np.iinfo(feature.dtype)
    for row, value in enumerate(values):
        if not (limits.min <= value <= limits.max) or value != int(value):
            raise _refuse(feature, first_row + row, value, expected)
    return np.array([int(value) for value in values], dtype=feature.dtype)


def _floats(column: NDArray[np.float64], feature: Feature, first_row: int) -> NDArray[Any]:
    """Doubles rounded to the model's own precision; what becomes infinite is refused."""
    with np.errstate(over="ignore"):
        rounded = column.astype(feature.dtype)
    if np.isinf(rounded).any():
        row = int(np.flatnonzero(np.isinf(rounded))[0])
        raise _refuse(feature, first_row + row, float(column[row]), f"a finite number in the range of {feature.dtype}")
    return rounded


def from_texts(texts: list[str], feature: Feature, first_row: int) -> NDArray[Any]:
    """A column of a CSV file as an array [n] in the dtype of `feature`; empty, NA and NaN are missing values.

    Raises:
        BadTable: a text is no value of that dtype.
    """
    if feature.dtype == "string":
        return np.array(texts, dtype=object)
    if feature.dtype == "bool":
        try:
            return np.array([_TRUTHS[text.strip()] for text in texts])
        except KeyError:
            row = next(i for i, text in enumerate(texts) if text.strip() not in _TRUTHS)
            raise _refuse(feature, first_row + row, texts[row], "true or false") from None
    if feature.dtype.startswith("float"):
        numbers = [_float(text) for text in texts]
        if None in numbers:
            row = numbers.index(None)
            raise _refuse(feature, first_row + row, texts[row], "a finite number")
        return _floats(np.array(numbers, dtype=np.float64), feature, first_row)
    whole: list[Any] = []
    for row, text in enumerate(texts):
        number = _float(text)
        if number is None or number != number or number != int(number):  # noqa: PLR0124  # NaN differs from itself
            raise _refuse(feature, first_row + row, text, "a whole number")
        digits = text.strip()
        whole.append(int(digits) if digits.lstrip("+-").isdigit() else int(number))
    return from_values(whole, feature, first_row)


def _float(text: str) -> float | None:
    """A finite number, NaN for a missing value, None for anything else (Python's own forms, such as 1_000, too).

    true and false are 1 and 0, as they are in JSON: whether a cell is a number must not depend on what other cells hold.
    """
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    if text in MISSING_TEXTS:
        return np.nan
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) and "_" not in text else None
