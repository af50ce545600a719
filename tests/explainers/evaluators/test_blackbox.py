"""The black box predicts no row twice, answers the same for any number of threads and run size, and stops when told to."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxplain.explainers.evaluators.blackbox import BlackBox
from onnxplain.explainers.tables.permutation import Job, Shuffles
from onnxplain.explainers.tables.table import Table
from onnxplain.explainers.tables.truth import Predicted
from onnxplain.facts.errors import Cancelled
from onnxplain.model import Cancellation, TabularModel, load


def predict(table: Table) -> Predicted:
    values = np.stack([np.sin(table.blocks[0].sum(axis=1)), np.cos(table.blocks[0][:, 0])], axis=1)
    return Predicted(values, np.argmax(values, axis=1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("run_rows", [7, 60, 61, 240, 100_000])
def test_answers_do_not_depend_on_run_size_or_threads(run_rows: int, threads: int) -> None:
    random = np.random.default_rng(0)
    table = Table((np.column_stack([random.normal(size=(60, 2)), random.integers(0, 3, 60)]),))
    sources = Shuffles(60, 0).take(5)
    jobs = [Job((0,), sources), Job((2,), sources), Job((0, 1), sources), Job((1, 2), sources[:2])]
    box = BlackBox(predict, table, run_rows=run_rows, threads=threads)
    for job, answer in zip(jobs, box.permuted(jobs), strict=True):
        for k, source in enumerate(job.sources):
            permuted = table.blocks[0].copy()
            permuted[:, job.features] = table.blocks[0][source][:, job.features]
            expected = predict(Table((permuted,)))
            assert np.array_equal(answer.values[k], expected.values)
            assert np.array_equal(answer.classes[k], expected.classes)


def test_a_column_of_few_values_is_predicted_once_for_each_other_value() -> None:
    random = np.random.default_rng(1)
    table = Table((np.column_stack([random.normal(size=100), random.integers(0, 2, 100)]),))
    sources = Shuffles(100, 0).take(50)
    box = BlackBox(predict, table)
    list(box.permuted([Job((1,), sources)]))
    assert box.rows_predicted == 100 + 100  # the baseline, and each row once with the value that is not its own


def test_unread_and_constant_columns_cost_nothing() -> None:
    table = Table((np.column_stack([np.random.default_rng(2).normal(size=100), np.ones(100)]),))
    sources = Shuffles(100, 0).take(5)
    box = BlackBox(lambda t: Predicted(t.blocks[0][:, 1:]), table, unread=frozenset({0}))
    answers = list(box.permuted([Job((0,), sources), Job((1,), sources), Job((0, 1), sources)]))
    assert box.rows_predicted == 100
    assert all(np.array_equal(answer.values[k], table.blocks[0][:, 1:]) for answer in answers for k in range(5))


def test_missing_values_and_texts_count_as_values() -> None:
    numbers = np.array([1.0, np.nan, np.nan, 1.0])
    texts = np.array([["a"], ["b"], ["a"], ["b"]], dtype=object)
    codes, representatives = Table((numbers[:, None], texts)).codes([0, 1])
    assert len(representatives) == 4
    assert Table((numbers[:, None], texts)).codes([0])[0].tolist() in ([0, 1, 1, 0], [1, 0, 0, 1])
    assert sorted(codes.tolist()) == [0, 1, 2, 3]


def test_it_stops_before_the_next_run() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Cancelled("stop")

    table = Table((np.random.default_rng(3).normal(size=(100, 2)),))
    sources = Shuffles(100, 0).take(50)
    box = BlackBox(predict, table, run_rows=100, check=check)
    with pytest.raises(Cancelled):
        list(box.permuted([Job((0,), sources)]))
    assert box.rows_predicted <= 300


def slow_model(folder: Path) -> Path:
    """About two milliseconds a row, nearly all of it in one operator, which cannot be stopped inside."""
    nodes = [
        helper.make_node("Mul", ["x", "factors"], ["wide"]),
        helper.make_node("Asinh", ["wide"], ["waves"]),
        helper.make_node("ReduceMean", ["waves", "axes"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.linspace(1, 2, 100_000, dtype=np.float32)[None], "factors"),
        numpy_helper.from_array(np.array([1]), "axes"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])
    model = helper.make_model(
        helper.make_graph(nodes, "slow", [x], [y], weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def test_a_slow_model_on_two_threads_ends_soon_after_it_is_told_to(tmp_path: Path) -> None:
    cancellation = Cancellation()
    model = load(slow_model(tmp_path), name="slow", cancellation=cancellation, threads=2)
    assert isinstance(model, TabularModel)
    table = Table((np.random.default_rng(0).normal(size=(128, 1)).astype(np.float32),))
    jobs = [Job((0,), Shuffles(128, 0).take(50))]
    taken = []
    for delay in (0.5, 0.6, 0.7):
        cancellation.reset()
        threading.Timer(delay, cancellation.cancel).start()
        started = time.perf_counter()
        with pytest.raises(Cancelled):
            list(model.black_box(table).permuted(jobs))
        taken.append(time.perf_counter() - started - delay)
    assert sorted(taken)[1] < 0.1  # the machine may have other work
