"""What a reader of importances should know about the data: said in every answer, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from onnxplain.explainers.tables.guards import Doubts
from onnxplain.explainers.tables.permutation import Group, PermutationImportance
from onnxplain.explainers.tables.table import Table
from onnxplain.facts.options import PermutationBody
from onnxplain.model.tables.table_model import TabularModel

OFF_SUPPORT = 0.05


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
    doubts: Doubts,
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
    constant = [names[j] for j in wanted if table.n_rows > 1 and _is_constant(table.column(j))]
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
        lack = "are not finished" if options.n_repeats == "exact" else "have fewer repeats than asked for"
        warnings.append(f"max_seconds ended the work early: {sum(short)} of {len(short)} columns {lack}.")
    for columns, strength in list(zip(doubts.groups, doubts.strongest, strict=True))[:10]:
        warnings.append(
            f"Strongly correlated (rank correlation up to {strength:.2f}), so that each may stand in for the others: "
            f"{_listed([names[j] for j in columns])}. Permute them together as a group."
        )
    apart = [
        (share, group.name) for share, group in zip(doubts.off_support, groups, strict=True) if share > OFF_SUPPORT
    ]
    if apart:
        share, name = max(apart)
        warnings.append(
            f"Permuting makes rows unlike any real one for {len(apart)} columns, most for '{name}' ({share:.0%} of its rows): "
            "there the model answers outside of its experience. See off_support."
        )
    unknown = _unknown_texts(model, table)
    if unknown:
        warnings.append(f"Texts that the model does not know, which it treats as it treats any unknown one: {unknown}.")
    return warnings


def _unknown_texts(model: TabularModel, table: Table) -> str:
    """The first unknown texts with row and column."""
    if model.categories is None:
        return ""
    found = []
    for j, name in enumerate(model.features):
        column = table.column(j)
        if column.dtype == object:
            values, rows = np.unique(column.astype(str), return_index=True)
            found += [
                (int(row), name, value)
                for value, row in zip(values.tolist(), rows.tolist(), strict=True)
                if value not in model.categories
            ]
    shown = ", ".join(f"'{value[:40]}' (row {row + 1}, column '{name}')" for row, name, value in sorted(found)[:5])
    return shown if len(found) <= 5 else f"{shown} and {len(found) - 5} more"


def _is_constant(column: Any) -> bool:
    first = column[:1]
    return bool(np.all((column == first) | ((column != column) & (first != first))))  # noqa: PLR0124  # NaN differs from itself


def _all_missing(column: Any) -> bool:
    if column.dtype.kind == "f":
        return bool(np.isnan(column).all())
    return column.dtype == object and all(value == "" for value in column)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
