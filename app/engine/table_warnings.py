"""What a reader of importances should know about the data: said in every answer, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from app.explainers.permutation import Group, PermutationImportance, Rows
from app.explainers.table import Table
from app.model.tabular import TabularModel
from app.options import PermutationBody


class NamedGroup(Protocol):
    """Columns with a name."""

    @property
    def name(self) -> str:
        """What to call them."""
        ...

    @property
    def features(self) -> Group:
        """Their numbers."""
        ...


def table_warnings(
    model: TabularModel,
    table: Table,
    groups: Sequence[NamedGroup],
    found: Mapping[str, PermutationImportance],
    options: PermutationBody,
    sources: Rows,
    *,
    labeled: bool,
) -> list[str]:
    """Sentences for the answer's `warnings`."""
    names = model.features
    warnings = []
    if table.n_rows == 1:
        warnings.append("The table has one row, and permuting one row changes nothing: every importance is 0.")
    if not labeled:
        warnings.append(
            "No labels came: importance is how far the predictions move (prediction_change), not how much worse they get."
        )
    wanted = sorted({feature for group in groups for feature in group.features})
    constant = [names[j] for j in wanted if table.n_rows > 1 and len(table.codes([j])[1]) == 1]
    if constant:
        warnings.append(f"Constant in these rows, so of importance 0 whatever the model does: {_listed(constant)}.")
    missing = [names[j] for j in wanted if _all_missing(table.column(j))]
    if missing:
        warnings.append(f"All values are missing: {_listed(missing)}.")
    unread = [names[j] for j in wanted if j in model.unread]
    if unread:
        warnings.append(f"The model never reads: {_listed(unread)}.")
    first = next(iter(found.values()))
    short = [bool(np.isnan(values).any()) for values in first.importances]
    if any(short) and options.max_seconds is not None:
        warnings.append(
            f"max_seconds ended the work early: {sum(short)} of {len(short)} columns have fewer repeats than asked for."
        )
    del sources
    return warnings


def _all_missing(column: Any) -> bool:
    if column.dtype.kind == "f":
        return bool(np.isnan(column).all())
    return column.dtype == object and all(value == "" for value in column)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
