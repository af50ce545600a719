"""The pool, with real worker processes and models that crash, hang or count as long as they are told to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import onnx
import pytest
from tests import graphs
from tests.soak.load import resident

from onnxplain.facts.errors import (
    BadTable,
    Busy,
    DeadlineExceeded,
    InputCrashedRuntime,
    InputTooLarge,
    ModelRefused,
    ModelUnavailable,
    WorkerLost,
)
from onnxplain.facts.tasks import ModelRef, PredictTask, WorkerLimits
from onnxplain.workers.pool import Pool, PoolLimits

FOR_EVER = 10**12
CRASH = [-(2**63), -1]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    folder = tmp_path_factory.mktemp("models")
    made = {"division": graphs.division(), "counter": graphs.counter(), "filler": graphs.filler()}
    for name, model in made.items():
        (folder / name).mkdir()
        onnx.save(model, folder / name / "model.onnx")
    return {name: ModelRef(name, str(folder / name)) for name in made}


def with_pool(scenario: Callable[[Pool], Awaitable[None]], **limits: Any) -> None:
    """Run a scenario against a started pool, and stop it afterwards."""

    async def scene() -> None:
        pool = Pool(PoolLimits(**{"workers": 1, "grace_s": 1.0} | limits))
        await pool.start()
        try:
            await scenario(pool)
        finally:
            await pool.stop()

    asyncio.run(scene())


def predict(model: ModelRef, *row: int) -> PredictTask:
    body = json.dumps({"rows": [list(row)]}).encode()
    return PredictTask(model, "application/json", body)


async def answer(pool: Pool, model: ModelRef, *row: int, timeout_s: float = 20.0) -> float:
    """What the model says of one row."""
    result = await pool.run(predict(model, *row), timeout_s)
    return float(result.rows[0])


async def until(condition: Callable[[], object], within_s: float = 5.0) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s
        await asyncio.sleep(0.005)
    return time.monotonic() - started


def start(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.ensure_future(coroutine)


def test_a_crash_of_the_runtime_costs_one_answer_and_the_worker_is_back_within_two_seconds(
    models: dict[str, ModelRef],
) -> None:
    async def scenario(pool: Pool) -> None:
        assert await answer(pool, models["division"], 7, 2) == 3
        with pytest.raises(InputCrashedRuntime, match="division"):
            await answer(pool, models["division"], *CRASH)
        crashed = time.monotonic()
        assert await answer(pool, models["division"], 9, 2) == 4
        assert time.monotonic() - crashed < 2
        assert pool.counts["crashes"] == 1

    with_pool(scenario)


def test_a_task_whose_worker_is_killed_from_outside_is_tried_again(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)
        (worker,) = pool.pids()
        waiting = start(answer(pool, models["counter"], 300_000))
        await asyncio.sleep(0.05)
        os.kill(worker, signal.SIGKILL)
        assert await waiting == 300_000
        assert pool.pids() != [worker]

    with_pool(scenario)


def test_a_task_that_loses_two_workers_is_given_up(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        waiting = start(answer(pool, models["counter"], FOR_EVER))
        for _ in range(2):
            await until(lambda: pool.pids() and pool.busy)
            await asyncio.sleep(0.1)
            os.kill(pool.pids()[0], signal.SIGKILL)
            await until(lambda: not pool.pids() or waiting.done())
        with pytest.raises(WorkerLost):
            await waiting

    with_pool(scenario)


def test_a_deadline_stops_the_work_and_the_same_worker_takes_the_next_task(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)
        workers = pool.pids()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await answer(pool, models["counter"], FOR_EVER, timeout_s=0.2)
        assert time.monotonic() - started < 0.5
        assert await answer(pool, models["counter"], 5) == 5
        assert pool.pids() == workers

    with_pool(scenario)


def test_work_that_does_not_stop_within_the_grace_costs_the_worker(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)
        (worker,) = pool.pids()
        os.kill(worker, signal.SIGSTOP)  # as deaf as a worker inside a long native call
        with pytest.raises(DeadlineExceeded):
            await answer(pool, models["counter"], 1, timeout_s=0.1)
        assert await answer(pool, models["counter"], 5) == 5
        assert worker not in pool.pids()
        assert pool.counts["killed"] == 1

    with_pool(scenario, grace_s=0.2)


def test_a_cancelled_task_frees_its_worker_within_300_milliseconds(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)
        waiting = start(answer(pool, models["counter"], FOR_EVER))
        await until(lambda: pool.busy)
        await asyncio.sleep(0.05)
        waiting.cancel()
        assert await until(lambda: not pool.busy) < 0.3
        assert pool.active == 0

    with_pool(scenario)


def test_a_task_cancelled_in_the_queue_never_starts(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)
        running = start(answer(pool, models["counter"], FOR_EVER))
        await until(lambda: pool.busy)
        queued = start(answer(pool, models["counter"], 1))
        await until(lambda: pool.waiting)
        queued.cancel()
        running.cancel()
        await asyncio.wait([queued, running])
        assert pool.waiting == 0
        assert await answer(pool, models["counter"], 3) == 3

    with_pool(scenario)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        tasks = [start(answer(pool, models["counter"], FOR_EVER)) for _ in range(3)]
        await until(lambda: pool.waiting == 2)
        started = time.monotonic()
        with pytest.raises(Busy, match="Try again in") as refused:
            await answer(pool, models["counter"], 1)
        assert time.monotonic() - started < 0.02
        assert refused.value.retry_after >= 1
        for task in tasks:
            task.cancel()

    with_pool(scenario, queue=2)


def test_a_crowd_of_small_tasks_is_let_in_while_it_need_not_wait_long(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        for _ in range(30):  # now the pool knows that this costs next to nothing
            await answer(pool, models["counter"], 1)
        assert await asyncio.gather(*(answer(pool, models["counter"], 1) for _ in range(6))) == [1] * 6
        with pytest.raises(Busy):
            await asyncio.gather(*(answer(pool, models["counter"], 1) for _ in range(40)))

    with_pool(scenario, queue=2)


def test_a_task_that_the_queue_would_keep_beyond_its_deadline_is_refused_at_once(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        for _ in range(10):  # now the pool knows what this model costs
            await answer(pool, models["counter"], 40_000)
        tasks = [start(answer(pool, models["counter"], 40_000)) for _ in range(8)]
        await until(lambda: pool.waiting == 7)
        with pytest.raises(Busy, match="X-Request-Timeout"):
            await answer(pool, models["counter"], 1, timeout_s=pool.expected_wait_s() / 4)
        await asyncio.gather(*tasks)

    with_pool(scenario)


def test_a_task_that_overran_what_it_was_thought_to_take_is_thought_to_go_on(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)  # now the pool takes such tasks to be short
        running = start(answer(pool, models["counter"], FOR_EVER))
        await until(lambda: pool.busy)
        await asyncio.sleep(0.3)
        assert 0.2 < pool.expected_wait_s() < 0.6
        running.cancel()

    with_pool(scenario)


def test_a_deadline_that_passes_in_the_queue_is_told_as_such(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)
        running = start(answer(pool, models["counter"], FOR_EVER))
        await until(lambda: pool.busy)
        with pytest.raises(DeadlineExceeded, match="not started"):
            await answer(pool, models["counter"], 1, timeout_s=0.2)
        running.cancel()

    with_pool(scenario)


def test_three_crashes_within_a_minute_quarantine_that_model_alone(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        for _ in range(3):
            with pytest.raises(InputCrashedRuntime):
                await answer(pool, models["division"], *CRASH)
        with pytest.raises(ModelUnavailable, match="is paused"):
            await answer(pool, models["division"], 4, 2)
        assert await answer(pool, models["counter"], 4) == 4
        pool._quarantine._crashes[models["division"]].popleft()  # as if the first had been longer ago than the window
        assert await answer(pool, models["division"], 4, 2) == 2

    with_pool(scenario)


def test_a_replacement_loads_its_models_before_it_takes_work(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        pool.keep_warm(models.values())
        await pool.warm()
        victim, _ = pool.pids()
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in pool.pids() and pool.alive == 2 and not pool.busy)
        assert all(worker.loaded == set(models.values()) for worker in pool._idle)

    with_pool(scenario, workers=2)


def test_a_worker_forgets_a_model_that_is_no_longer_served(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        pool.keep_warm(models.values())
        await pool.warm()
        pool.keep_warm([models["counter"]])
        await pool.warm()
        (worker,) = pool._idle
        assert worker.loaded == {models["counter"]}

    with_pool(scenario)


def test_a_stop_lets_running_work_finish_and_refuses_new_work(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        await answer(pool, models["counter"], 1)
        running = start(answer(pool, models["counter"], 200_000))
        await until(lambda: pool.busy)
        stopping = start(pool.stop(drain_s=20))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="stopping"):
            await answer(pool, models["counter"], 1)
        assert await running == 200_000
        await stopping
        assert pool.alive == 0

    with_pool(scenario)


def test_what_the_worker_refuses_arrives_as_the_same_error(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        with pytest.raises(BadTable):
            await answer(pool, models["division"], 1, 2, 3)
        assert await answer(pool, models["division"], 8, 2) == 4

    with_pool(scenario)


def test_work_that_needs_too_much_memory_is_refused_and_the_worker_lives_on(models: dict[str, ModelRef]) -> None:
    async def scenario(pool: Pool) -> None:
        workers = pool.pids()
        with pytest.raises(InputTooLarge, match="memory"):
            await answer(pool, models["filler"], 2**30)
        assert await answer(pool, models["filler"], 7) == 7
        assert pool.pids() == workers

    with_pool(scenario, worker=WorkerLimits(memory_bytes=3 * 2**30))


def test_models_of_a_worker_share_what_their_runs_need(models: dict[str, ModelRef], tmp_path: Path) -> None:
    """One after the other takes half a gigabyte for a moment: the second finds what the first one left."""
    (tmp_path / "model.onnx").write_bytes(Path(models["filler"].path, "model.onnx").read_bytes())
    other = ModelRef("other", str(tmp_path))

    async def scenario(pool: Pool) -> None:
        (worker,) = pool.pids()
        await answer(pool, models["filler"], 2**27)
        await answer(pool, other, 1)
        first = resident(worker)
        await answer(pool, other, 2**27)
        assert first > 512
        assert resident(worker) < first + 64

    with_pool(scenario, worker=WorkerLimits(memory_bytes=3 * 2**30))


def test_an_untrusted_model_is_tried_in_a_process_of_its_own(models: dict[str, ModelRef], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")

    async def scenario(pool: Pool) -> None:
        workers = pool.pids()
        card = await pool.probe(models["division"], 20, WorkerLimits())
        assert card.kind == "tabular"
        with pytest.raises(ModelRefused):
            await pool.probe(ModelRef("none", str(tmp_path)), 20, WorkerLimits())
        assert pool.pids() == workers

    with_pool(scenario)


def test_a_worker_ends_with_the_process_that_started_it(models: dict[str, ModelRef]) -> None:
    async def scenario() -> list[int]:
        pool = Pool(PoolLimits(workers=2))
        await pool.start()
        pids = pool.pids()
        await pool.stop()
        return pids

    for pid in asyncio.run(scenario()):
        assert not Path(f"/proc/{pid}").exists()
