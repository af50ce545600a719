"""Which models exist, and which versions stay on disk: nothing that is served or in use is ever deleted."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests import graphs
from tests.web.test_uploads import linear

from onnxplain.facts.errors import ModelNotFound, ModelRefused, ModelUnavailable
from onnxplain.facts.tasks import PredictTask
from onnxplain.registry.registry import Registry
from onnxplain.workers.pool import Pool, PoolLimits


def with_registry(folder: Path, scenario: Callable[[Registry, Pool], Awaitable[None]]) -> None:
    """Run a scenario with a registry that keeps a replaced version no longer than it is used."""

    async def scene() -> None:
        pool = Pool(PoolLimits(workers=1))
        await pool.start()
        registry = Registry(folder, pool, probe_s=20, keep_s=0)
        try:
            await registry.load()
            await scenario(registry, pool)
        finally:
            await pool.stop()

    asyncio.run(scene())


async def put(registry: Registry, name: str, model: bytes) -> None:
    await registry.put(name, io.BytesIO(model), b"")


async def says(registry: Registry, pool: Pool, name: str, x: int) -> float:
    ref, _ = registry.ready(name)
    body = json.dumps({"rows": [[x]]}).encode()
    answer = await pool.run(PredictTask(ref, "application/json", body), 20)
    return float(answer.rows[0])


def kept(folder: Path) -> int:
    return len(list((folder / ".store").rglob("model.onnx")))


def test_a_version_that_comes_back_is_served_though_it_was_retired_before(tmp_path: Path) -> None:
    async def scenario(registry: Registry, pool: Pool) -> None:
        for slope in (2, 3, 2, 3, 2):
            await put(registry, "m", linear(slope))
            assert await says(registry, pool, "m", 5) == 5 * slope
            assert kept(tmp_path) == 1
        pool.keep_warm([])  # a worker that has it not in memory reads it from disk
        await pool.warm()
        assert await says(registry, pool, "m", 5) == 10

    with_registry(tmp_path, scenario)


def test_a_version_in_use_stays_on_disk_until_it_is_not(tmp_path: Path) -> None:
    async def scenario(registry: Registry, pool: Pool) -> None:
        await put(registry, "m", graphs.counter().SerializeToString())
        ref, _ = registry.ready("m")
        body = b'{"rows": [[1000000000000]]}'
        running = asyncio.ensure_future(pool.run(PredictTask(ref, "application/json", body), 60))
        await asyncio.sleep(0.2)
        changing = asyncio.ensure_future(put(registry, "m", linear(2)))
        await asyncio.sleep(2)
        assert kept(tmp_path) == 2
        running.cancel()
        await changing
        await put(registry, "m", linear(3))
        assert kept(tmp_path) == 1

    with_registry(tmp_path, scenario)


def test_a_folder_that_cannot_be_served_is_listed_with_its_reason_and_stops_nobody_else(tmp_path: Path) -> None:
    for name, content in (("good", linear(2)), ("bad", b"no model"), ("Odd Name", linear(2))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(content)

    async def scenario(registry: Registry, pool: Pool) -> None:
        assert [model.ref.name for model in registry.all()] == ["bad", "good"]
        assert await says(registry, pool, "good", 4) == 8
        with pytest.raises(ModelUnavailable, match="not an ONNX model"):
            registry.ready("bad")
        with pytest.raises(ModelNotFound, match="Known models: bad, good"):
            registry.ready("none")

    with_registry(tmp_path, scenario)


def test_a_refused_replacement_leaves_the_old_version_and_nothing_on_disk(tmp_path: Path) -> None:
    async def scenario(registry: Registry, pool: Pool) -> None:
        await put(registry, "m", linear(2))
        with pytest.raises(ModelRefused):
            await put(registry, "m", linear(3)[:-5])
        assert await says(registry, pool, "m", 3) == 6
        assert kept(tmp_path) == 1

    with_registry(tmp_path, scenario)


def test_two_models_of_the_same_graph_keep_their_own_manifests(tmp_path: Path) -> None:
    """The same bytes with another manifest are another model, in a worker's memory too."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(linear(2))
        (tmp_path / name / "model.toml").write_text(f'[tabular]\nfeatures = ["column_{name}"]')

    async def scenario(registry: Registry, pool: Pool) -> None:
        for name in ("a", "b"):
            ref, _ = registry.ready(name)
            body = json.dumps({"rows": [{f"column_{name}": 4}]}).encode()
            answer = await pool.run(PredictTask(ref, "application/json", body), 20)
            assert answer.rows == [8]

    with_registry(tmp_path, scenario)


def test_a_model_file_that_is_a_folder_or_a_pipe_hides_no_other(tmp_path: Path) -> None:
    """Reading a folder fails, and reading a pipe waits for a writer who never comes."""
    (tmp_path / "folder" / "model.onnx").mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "model.onnx")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "model.onnx").write_bytes(linear(2))

    async def scenario(registry: Registry, pool: Pool) -> None:
        assert [model.ref.name for model in registry.all()] == ["good"]
        assert await says(registry, pool, "good", 5) == 10

    with_registry(tmp_path, scenario)
