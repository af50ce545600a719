"""What makes permutation importance doubtful: columns that stand for each other, and permuted rows unlike any real row.

Permuting one of two correlated columns makes combinations that the model never saw, and the other column may stand in for
it (Hooker, Mentch and Zhou 2021, arXiv:1905.03151).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxplain.explainers.tables.permutation import Group, Rows
from onnxplain.explainers.tables.table import Table

STRONG = 0.9
_ROWS = 2000  # rows looked at: enough for a rank correlation to about two digits
_COLUMNS = 1000
_PER_CELL = 5  # rows expected in each cell of independent columns: an empty one is then rarer than one in a hundred
_BINS = 20


@dataclass(frozen=True)
class Doubts:
    """What was found in a table.

    Attributes:
        groups: columns that are correlated among each other, directly or through others.
        strongest: for each group its strongest rank correlation.
        off_support: for each permuted group of columns, the share of permuted rows that fall where no row is; NaN where it
            was not looked at (more than one column, texts).
    """

    groups: tuple[Group, ...]
    strongest: tuple[float, ...]
    off_support: NDArray[np.float64]


def find_doubts(
    table: Table, groups: Sequence[Group], sources: Rows, check: Callable[[], None] = lambda: None
) -> Doubts:
    """Look for correlated columns (absolute Spearman correlation of at least 0.9) and for unsupported permuted rows.

    Support is judged in the plane of a column and the one it is most correlated with, cut into cells of equal shares of
    rows: a permuted row is off the support if its cell holds no row.
    """
    n = table.n_rows
    columns = [j for j in range(min(table.n_features, _COLUMNS)) if table.column(j).dtype.kind in "fiub"]
    nothing = Doubts((), (), np.full(len(groups), np.nan))
    if n < 2 * _PER_CELL or len(columns) < 2:
        return nothing
    sample = np.arange(n) if n <= _ROWS else np.sort(np.random.default_rng(0).choice(n, _ROWS, replace=False))
    ranks = np.stack([_ranks(table.column(j)[sample]) for j in columns])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=1))
    rho = np.abs(centred @ centred.T / np.maximum(np.outer(norm, norm), 1e-300))
    np.fill_diagonal(rho, 0)
    found, strongest = _components(rho, columns)
    return Doubts(found, strongest, _off_support(table, groups, sources, columns, rho, check))


def _ranks(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Mean ranks; missing values get the middle one."""
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)
    _, place, counts = np.unique(values[~missing], return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = np.full(len(values), (len(values) - missing.sum() - 1) / 2)
    ranks[~missing] = (ends - (counts + 1) / 2)[place]
    return ranks


def _components(rho: NDArray[np.float64], columns: list[int]) -> tuple[tuple[Group, ...], tuple[float, ...]]:
    """Columns connected by strong correlations, and the strongest one of each set."""
    strong = rho >= STRONG
    left = set(np.flatnonzero(strong.any(axis=1)).tolist())
    groups, strongest = [], []
    while left:
        members, waiting = set(), [min(left)]
        while waiting:
            member = waiting.pop()
            if member not in members:
                members.add(member)
                waiting += np.flatnonzero(strong[member]).tolist()
        left -= members
        group = sorted(members)
        groups.append(tuple(columns[i] for i in group))
        strongest.append(float(rho[np.ix_(group, group)].max()))
    return tuple(groups), tuple(strongest)


def _off_support(
    table: Table,
    groups: Sequence[Group],
    sources: Rows,
    columns: list[int],
    rho: NDArray[np.float64],
    check: Callable[[], None],
) -> NDArray[np.float64]:
    n = table.n_rows
    bins = int(np.clip(np.sqrt(n / _PER_CELL), 2, _BINS))
    place = {column: i for i, column in enumerate(columns)}
    cells: dict[int, NDArray[np.intp]] = {}

    def cell(column: int) -> NDArray[np.intp]:
        if column not in cells:
            cells[column] = (_ranks(table.column(column)) * bins / n).astype(np.intp)
        return cells[column]

    shares = np.full(len(groups), np.nan)
    for g, group in enumerate(groups):
        check()
        if len(group) == 1 and group[0] in place:
            own, other = cell(group[0]), cell(columns[int(np.argmax(rho[place[group[0]]]))])
            occupied = np.zeros(bins * bins, dtype=np.bool_)
            occupied[own * bins + other] = True
            shares[g] = 1 - occupied[own[sources] * bins + other].mean()
    return shares
