"""Columns that stand for each other are named, and permuted rows that no real row is like are counted."""

from __future__ import annotations

import numpy as np
import pytest

from onnxplain.explainers.tables.guards import find_doubts
from onnxplain.explainers.tables.permutation import Shuffles
from onnxplain.explainers.tables.table import Table


def test_correlated_columns_are_grouped_by_rank() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 500))
    X = np.column_stack([a, b, np.exp(a), random.normal(size=500), -(b**3)])
    X[::50, 2] = np.nan
    sources = Shuffles(500, 0).take(3)
    doubts = find_doubts(Table((X,)), [(j,) for j in range(5)], sources)
    assert doubts.groups == ((0, 2), (1, 4))
    assert doubts.strongest[1] == pytest.approx(1)


def test_independent_columns_have_support_and_functions_of_each_other_have_not() -> None:
    random = np.random.default_rng(1)
    a = random.normal(size=2000)
    X = np.column_stack([a, 2 * a, random.normal(size=2000)])
    sources = Shuffles(2000, 0).take(3)
    doubts = find_doubts(Table((X,)), [(0,), (2,), (0, 1)], sources)
    assert doubts.off_support[0] == pytest.approx(0.95, abs=0.01)  # only the diagonal of 20 x 20 cells is real
    assert doubts.off_support[1] < 0.02
    assert np.isnan(doubts.off_support[2])


def test_few_rows_or_texts_are_not_judged() -> None:
    sources = Shuffles(4, 0).take(2)
    doubts = find_doubts(Table((np.zeros((4, 2)),)), [(0,)], sources)
    assert doubts.groups == ()
    assert np.isnan(doubts.off_support).all()
