"""Walking trees gives the runtime's predictions to the last bit, for every exporter's trees, groups and missing values."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxplain.explainers.evaluators.blackbox import BlackBox
from onnxplain.explainers.evaluators.tree_ensemble import TreeEnsemble
from onnxplain.explainers.evaluators.trees import TreeEvaluator
from onnxplain.explainers.tables.permutation import Job, Shuffles
from onnxplain.explainers.tables.table import Table
from onnxplain.facts.errors import Cancelled
from onnxplain.model import Cancellation, TabularModel, load
from onnxplain.model.tables.cut_at_trees import TreeModel
from onnxplain.model.tables.trees import read_ensemble

FOLDER = Path(__file__).parents[2] / "vectors" / "tables"
DATA = dict(np.load(FOLDER / "data.npz"))
TREES = [
    "forest", "forest-apart", "forest-deep", "extra-trees-two-targets", "boosting", "boosting-three", "boosting-number", "tree",
    "scaled-forest", "filled-forest", "lightgbm", "lightgbm-three", "lightgbm-number", "lightgbm-holes",
    "lightgbm-categories", "xgboost", "xgboost-three", "xgboost-number", "catboost", "catboost-three", "catboost-number",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _walk_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models are so small that predicting every row would often be chosen."""
    monkeypatch.setattr(TreeModel, "is_faster", lambda *_: True)


def opened(name: str) -> tuple[TabularModel, Cancellation]:
    cancellation = Cancellation()
    model = load(FOLDER / name, name=name, cancellation=cancellation)
    assert isinstance(model, TabularModel)
    return model, cancellation


def table(name: str) -> Table:
    return Table((DATA["holes" if name in {"filled-forest", "lightgbm-holes"} else "X"],))


def assert_same(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.values, b.values)
        assert (a.classes is None) == (b.classes is None)
        assert a.classes is None or np.array_equal(a.classes, b.classes)


@pytest.mark.parametrize("name", TREES)
def test_walked_predictions_are_the_runtimes(name: str) -> None:
    model, _ = opened(name)
    rows = table(name)
    evaluator = model.evaluator(rows)
    assert isinstance(evaluator, TreeEvaluator)
    sources = Shuffles(rows.n_rows, 0).take(3)
    groups = [(0,), (1,), (2,), (3,), (4,), (5,), (0, 1), (1, 5, 3), (0, 1, 2, 3, 4, 5)]
    jobs = [Job(group, sources) for group in groups]
    assert_same(evaluator.permuted(jobs), model.black_box(rows).permuted(jobs))
    assert not evaluator.failed
    assert evaluator.audited > 0


@pytest.mark.parametrize("repeats", [1, 8, 9, 20])
@pytest.mark.parametrize("small", [0, 1024])
@pytest.mark.parametrize("name", ["forest-deep", "lightgbm-three", "lightgbm-holes"])
def test_neither_the_number_of_repeats_nor_the_size_of_trees_changes_predictions(
    name: str, small: int, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxplain.explainers.evaluators.tree_layout._SMALL", small)
    model, _ = opened(name)
    rows = table(name)
    sources = Shuffles(rows.n_rows, 0).take(repeats)
    jobs = [Job(group, sources) for group in [(0,), (1,), (2, 3), (4,), (5,)]]
    assert_same(model.evaluator(rows).permuted(jobs), model.black_box(rows).permuted(jobs))


def test_columns_of_many_thresholds_are_walked_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of two bytes instead of one."""
    codes = TreeEnsemble.codes
    monkeypatch.setattr(TreeEnsemble, "codes", lambda *given: codes(*given).astype(np.uint16))
    model, _ = opened("lightgbm")
    rows = table("lightgbm")
    jobs = [Job((j,), Shuffles(rows.n_rows, 0).take(9)) for j in range(6)]
    evaluator = model.evaluator(rows)
    assert isinstance(evaluator, TreeEvaluator)
    assert_same(evaluator.permuted(jobs), model.black_box(rows).permuted(jobs))


def test_encoded_texts_are_walked_as_one_column() -> None:
    model, _ = opened("mixed-forest")
    random = np.random.default_rng(0)
    blocks = (
        random.integers(18, 80, (90, 1)),
        random.normal(size=(90, 1)).astype(np.float32),
        random.choice(np.array(["red", "green", "blue", "unknown"], dtype=object), (90, 1)),
        random.choice(np.array(["S", "M", "L"], dtype=object), (90, 1)),
    )
    rows = Table(blocks)
    evaluator = model.evaluator(rows)
    assert isinstance(evaluator, TreeEvaluator)
    sources = Shuffles(90, 1).take(3)
    jobs = [Job(group, sources) for group in [(0,), (1,), (2,), (3,), (2, 3), (0, 2)]]
    assert_same(evaluator.permuted(jobs), model.black_box(rows).permuted(jobs))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = opened("lightgbm-number")
    rows = Table((np.tile(DATA["X"], (5, 1)),))
    sources = Shuffles(rows.n_rows, 0).take(4)
    jobs = [Job((j,), sources) for j in range(6)]
    expected = list(model.black_box(rows).permuted(jobs))
    monkeypatch.setattr("onnxplain.explainers.evaluators.trees._CELLS", 300)
    assert_same(model.evaluator(rows).permuted(jobs), expected)
    monkeypatch.setattr("onnxplain.explainers.evaluators.trees._ANSWER", 2 * 800 * 4)  # two jobs a batch
    assert_same(model.evaluator(rows).permuted(jobs), expected)


def test_values_between_the_same_thresholds_count_as_equal() -> None:
    model, _ = opened("lightgbm")
    evaluator = model.evaluator(table("lightgbm"))
    codes, representatives = evaluator.distinct((0,))
    assert len(representatives) < len(np.unique(DATA["X"][:, 0]))
    same = Table((DATA["X"].copy(),))
    same.column(0)[:] = same.column(0)[representatives[codes]]
    assert np.array_equal(model.predict(same).values, model.predict(table("lightgbm")).values)


def test_a_difference_found_by_the_audit_sends_the_work_to_the_runtime() -> None:
    model, _ = opened("lightgbm-number")
    evaluator = model.evaluator(table("lightgbm-number"))
    assert isinstance(evaluator, TreeEvaluator)
    assert evaluator.agrees()
    for tree in evaluator._ensemble.trees:
        tree.weights[0][:] += np.float32(0.01)
    assert not evaluator.agrees()
    sources = Shuffles(160, 0).take(3)
    jobs = [Job((0,), sources)]
    assert_same(evaluator.permuted(jobs), model.black_box(table("lightgbm-number")).permuted(jobs))
    assert evaluator.failed
    assert model.engine(evaluator)["name"] == "black-box"


def test_a_cancelled_walk_stops_between_trees() -> None:
    model, cancellation = opened("forest-deep")
    evaluator = model.evaluator(table("forest-deep"))
    cancellation.cancel()
    sources = Shuffles(160, 0).take(3)
    with pytest.raises(Cancelled):
        list(evaluator.permuted([Job((0,), sources)]))


def test_a_walk_under_way_ends_soon_after_it_is_cancelled() -> None:
    model, cancellation = opened("forest-deep")
    rows = Table((np.tile(DATA["X"], (200, 1)),))
    evaluator = model.evaluator(rows)
    sources = Shuffles(rows.n_rows, 0).take(50)
    cancelled_at = []

    def cancel() -> None:
        cancelled_at.append(time.perf_counter())
        cancellation.cancel()

    threading.Timer(0.1, cancel).start()
    with pytest.raises(Cancelled):
        list(evaluator.permuted([Job((j,), sources) for j in range(6)]))
    assert time.perf_counter() - cancelled_at[0] < 1  # a hundredth of that on a free machine


def test_columns_that_no_tree_tests_are_unread() -> None:
    model, _ = opened("catboost")
    tested = {int(j) for tree in model._cut.ensemble.trees for j in tree.feature[~tree.is_leaf]}
    assert model.unread == frozenset(range(6)) - tested


@pytest.mark.parametrize("mode", [b"BRANCH_LEQ", b"BRANCH_EQ"])
def test_lists_that_make_no_trees_are_left_to_the_runtime(mode: bytes) -> None:
    """Two nodes share a child, or a chain of equality tests bites its tail; walking that is not tried."""
    model, _ = opened("lightgbm-number")
    assert model._model is not None
    node = next(node for node in model._model.graph.node if node.op_type == "TreeEnsembleRegressor")
    lists = {attribute.name: attribute.ints or attribute.strings for attribute in node.attribute}
    lists["nodes_modes"][0] = mode
    lists["nodes_falsenodeids"][0] = lists["nodes_truenodeids" if mode == b"BRANCH_LEQ" else "nodes_nodeids"][0]
    assert model._cut is None
    assert isinstance(model.evaluator(table("lightgbm-number")), BlackBox)


def test_nodes_that_hang_on_no_root_make_no_tree() -> None:
    """Nodes 1 and 2 are each other's parents: to climb from them would never end."""
    modes = ["LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF"]
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_modes=modes,
        nodes_treeids=[0] * 5, nodes_nodeids=[0, 1, 2, 3, 4], nodes_featureids=[0, 0, 1, 0, 0], nodes_values=[0.0] * 5,
        nodes_truenodeids=[0, 2, 1, 0, 0], nodes_falsenodeids=[0, 3, 4, 0, 0],
        target_treeids=[0] * 3, target_nodeids=[0, 3, 4], target_ids=[0] * 3, target_weights=[1.0, 2.0, 3.0],
    )  # fmt: skip
    with pytest.raises(ValueError, match="do not form trees"):
        read_ensemble(node, 2)
