"""Tasks of the command line, run as the service runs them: in a worker process, so that a model file may crash it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxplain.facts.errors import ExplainError, ModelNotFound
from onnxplain.facts.tasks import ModelRef, Task, WorkerLimits
from onnxplain.settings import MEBIBYTE, Settings
from onnxplain.workers.pool import Pool, PoolLimits

_TIMEOUT_S = 24 * 3600.0  # whoever waits at a terminal can press Ctrl-C


def find(model: str, settings: Settings) -> ModelRef:
    """The model that a path or a name means.

    Raises:
        ModelNotFound: neither an .onnx file, nor a folder with one, nor a name in the models' folder.
    """
    for path in (Path(model), settings.models / model):
        file = path if path.is_file() else path / "model.onnx"
        if file.is_file():
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return ModelRef(path.stem if path.is_file() else path.resolve().name, str(path), digest)
    raise ModelNotFound(
        f"'{model}' is neither an .onnx file nor a folder with a model.onnx, and {settings.models} has no model of this name."
    )


def run(tasks: Sequence[Task], settings: Settings, on_progress: Callable[[float], None] | None = None) -> list[Any]:
    """The answers of tasks in order, one worker for all; an `ExplainError` stands in the place of its answer."""

    async def run_all() -> list[Any]:
        pool = Pool(PoolLimits(workers=1, worker=WorkerLimits(settings.threads, settings.worker_memory * MEBIBYTE)))
        await pool.start()
        try:
            return [await _answer(pool, task, on_progress) for task in tasks]
        finally:
            await pool.stop()

    return asyncio.run(run_all())


async def _answer(pool: Pool, task: Task, on_progress: Callable[[float], None] | None) -> Any:
    try:
        return await pool.run(task, _TIMEOUT_S, on_progress)
    except ExplainError as error:
        return error
