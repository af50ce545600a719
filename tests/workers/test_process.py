"""How a worker process is started."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from onnxplain.facts.tasks import WorkerLimits
from onnxplain.workers.process import WorkerProcess, worker_environment


def test_a_worker_runs_nothing_of_the_folder_that_the_service_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "onnxplain", "json", "app"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)

    async def scene() -> None:
        worker = await WorkerProcess.start(WorkerLimits(), 20)
        await worker.end()

    asyncio.run(scene())
    assert not (tmp_path / "ran").exists()


def test_the_runtime_of_a_worker_reports_to_nobody() -> None:
    assert worker_environment()["ORT_DISABLE_TELEMETRY"] == "1"


def test_a_worker_does_not_know_the_keys_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPLAIN_API_KEYS", "secret")
    monkeypatch.setenv("HARMLESS", "kept")
    environment = worker_environment()
    assert "secret" not in environment.values()
    assert environment["HARMLESS"] == "kept"
