"""Hostile model files get their verdict in time, open no other file, and cost at most the process that looked at them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import graphs
from tests.conftest import running
from tests.hostile.models import Hostile, corpus, mutants

from onnxplain.facts.errors import EngineError, ExplainError, InputCrashedRuntime, InputError, ModelError
from onnxplain.facts.tasks import InspectTask, ModelRef, PredictTask, WorkerLimits
from onnxplain.workers.pool import Pool, PoolLimits

TIMEOUT_S = 2.0  # short, so that the suite stays short; the endless ones take all of it
LEAKS = re.compile(r"0x[0-9a-f]{6,}|/home|/root|/tmp|/work|Traceback|site-packages")
FOUR = 4 * 2**30


async def free(pool: Pool) -> None:
    """Wait for a worker: the last file may have cost one, which is being replaced."""
    while pool.busy or not pool.alive:  # noqa: ASYNC110 - a pool has no event for this, and needs none
        await asyncio.sleep(0.01)


async def verdict(pool: Pool, path: Path, name: str, timeout_s: float = TIMEOUT_S) -> ExplainError | None:
    """What the gate says of a file: the error, or None when it is served."""
    await free(pool)
    try:
        await pool.run(InspectTask(ModelRef(name, str(path))), timeout_s)
    except ExplainError as error:
        return error
    return None


@contextmanager
def opened(*paths: Path) -> Iterator[list[int]]:
    """The number of times that any process opens one of these files meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    if descriptor < 0:
        pytest.skip("inotify is not available")
    for path in paths:
        assert libc.inotify_add_watch(descriptor, os.fsencode(path), 0x20) >= 0  # IN_OPEN
    events: list[int] = []
    try:
        yield events
        try:
            events.append(len(os.read(descriptor, 65536)) // struct.calcsize("iIII"))
        except BlockingIOError:
            events.append(0)
    finally:
        os.close(descriptor)


def test_the_corpus_has_a_hundred_files_and_is_the_same_every_time() -> None:
    assert len(corpus()) >= 100
    assert corpus() == corpus.__wrapped__()


def test_every_hostile_file_gets_its_verdict_in_time_and_opens_no_other_file(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    beside = tmp_path / "weights.bin"
    for file in (canary, beside):
        file.write_bytes(bytes(64))
    wrong: list[str] = []

    async def judge(pool: Pool, file: Hostile) -> None:
        path = tmp_path / f"{file.name}.onnx"
        path.write_bytes(file.content)
        await free(pool)
        started = time.monotonic()
        refusal = await verdict(pool, path, file.name)
        seconds = time.monotonic() - started
        if (refusal is not None) != (file.verdict == "refused"):
            wrong.append(f"{file.name}: must be {file.verdict} ({file.reason}), but: {refusal}")
        if seconds > TIMEOUT_S + 1:
            wrong.append(f"{file.name}: took {seconds:.1f} s")
        if refusal is not None and (
            LEAKS.search(str(refusal)) or not isinstance(refusal, (ModelError, EngineError, InputError))
        ):
            wrong.append(f"{file.name}: says {type(refusal).__name__}: {refusal}")
        if refusal is None:
            wrong.extend(await ask(pool, ModelRef(file.name, str(path))))

    async def ask(pool: Pool, ref: ModelRef) -> list[str]:
        """An odd model that is served answers, or says why it cannot; no internal error, no crash."""
        await free(pool)
        try:
            await pool.run(PredictTask(ref, "application/json", b'{"rows": [[1, 2]]}'), TIMEOUT_S)
        except (InputError, ModelError):
            pass
        except ExplainError as error:
            return [f"{ref.name}: answers with {type(error).__name__}: {error}"]
        return []

    async def judge_all(files: Iterator[Hostile]) -> None:
        pool = Pool(PoolLimits(workers=1, worker=WorkerLimits(memory_bytes=FOUR, models=2, probe=True)))
        await pool.start()
        for file in files:
            await judge(pool, file)
        await pool.stop()

    async def scene() -> None:
        files = iter(corpus(str(canary)))
        with opened(canary, beside) as events:
            await asyncio.gather(judge_all(files), judge_all(files))
        assert events == [0]

    asyncio.run(scene())
    assert not wrong, "\n".join(wrong)


def test_byte_flips_of_good_models_get_a_verdict_and_nothing_else_happens(tmp_path: Path) -> None:
    """Sixty here; the soak run tries thousands."""
    good = [graphs.tiny_cnn().SerializeToString(), graphs.division().SerializeToString()]

    async def scene() -> None:
        pool = Pool(PoolLimits(workers=1, worker=WorkerLimits(memory_bytes=FOUR, models=2, probe=True)))
        await pool.start()
        path = tmp_path / "model.onnx"
        for number, content in enumerate(content for model in good for content in mutants(model, 30)):
            path.write_bytes(content)
            refusal = await verdict(pool, path, f"mutant-{number}", 10)
            assert refusal is None or type(refusal) is not ExplainError, (number, refusal)
        await pool.stop()

    asyncio.run(scene())


def test_hostile_uploads_leave_the_service_as_it_was(tmp_path: Path) -> None:
    """One of each family over HTTP: a clear refusal, the same registry, the same workers, the others still served."""
    names = {"crash-div-int64", "endless-loop", "memory-constant-of-2e31", "external-absolute", "foreign-pickle"}
    models = tmp_path / "models"
    (models / "good").mkdir(parents=True)
    (models / "good" / "model.onnx").write_bytes(graphs.division().SerializeToString())
    key = {"X-API-Key": "admin-key-0123456789"}
    settings = {"uploads": True, "admin_key": key["X-API-Key"], "probe_timeout": 3}
    with running(tmp_path / "log", models=models, **settings) as service:
        before, workers = service.client.get("/v1/models").json(), set(service.workers())
        for file in (file for file in corpus() if file.name in names):
            answer = service.client.put("/v1/models/evil", files={"model": file.content}, headers=key)
            assert (answer.status_code, answer.json()["code"]) == (422, "model_refused"), (file.name, answer.text)
            assert not LEAKS.search(answer.text)
        assert service.client.get("/v1/models").json() == before
        assert set(service.workers()) == workers
        answer = service.client.post("/v1/models/good/predictions", json={"rows": [[6, 2]]})
        assert answer.json()["predictions"] == [3]


def test_a_crash_that_happens_while_loading_is_told_as_such(tmp_path: Path) -> None:
    (file,) = [file for file in corpus() if file.name == "crash-div-int32"]
    (tmp_path / "model.onnx").write_bytes(file.content)

    async def scene() -> None:
        pool = Pool(PoolLimits(workers=1))
        await pool.start()
        with pytest.raises(InputCrashedRuntime):
            await pool.probe(ModelRef("crash", str(tmp_path)), 20, WorkerLimits())
        await pool.stop()

    asyncio.run(scene())
