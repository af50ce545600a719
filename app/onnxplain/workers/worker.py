"""Inside a worker process: task -> model -> explainer -> answer, one task at a time.

A second thread listens to the socket, so that a cancel is heard while ONNX Runtime works.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import resource
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

from onnxplain import logs
from onnxplain.explain.picture import explain_picture, explainer_model, predict_picture
from onnxplain.explain.table import predict_table
from onnxplain.explain.table_methods import TABLES
from onnxplain.facts.errors import ExplainError, InputTooLarge, MethodNotApplicable
from onnxplain.facts.methods import METHODS
from onnxplain.facts.tasks import (
    ARENA_SHARE,
    ExplainerFileTask,
    ExplainTask,
    ForgetTask,
    InspectTask,
    ModelRef,
    PictureExplanation,
    PredictTask,
    TableExplanation,
    Task,
    WarmTask,
    WorkerLimits,
    work_of,
)
from onnxplain.model import Cancellation, ImageModel, TabularModel, load, load_unoptimised
from onnxplain.model.runtime.sessions import share_arena
from onnxplain.workers.frames import Frame, head_of, receive, send

log = logging.getLogger("onnxplain.worker")

_PROGRESS_EVERY_S = 0.1
_PROBE_BYTES = 2**30
_PROBE_PER_FILE_BYTE = 8  # weights as read, as protobuf, in the session, and in a second session of another graph


class Worker:
    """Answers the frames of one socket until it closes."""

    def __init__(self, sock: socket.socket, limits: WorkerLimits) -> None:
        self._sock = sock
        self._limits = limits
        self._models: OrderedDict[ModelRef, ImageModel | TabularModel] = OrderedDict()
        self._inbox: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._cancellation = Cancellation()
        self._current = 0

    def serve(self) -> None:
        """Say that work can come, then answer until the process ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        send(self._sock, Frame("ready"))
        while True:
            self._sock.sendall(self._answer(self._inbox.get()))

    def _listen(self) -> None:
        """Pass questions on and hear cancels; without a web process there is nothing left to do."""
        try:
            while True:
                frame = receive(self._sock)
                if frame.kind != "cancel":
                    self._current = frame.number
                    self._cancellation.reset()
                    self._inbox.put(frame)
                elif frame.number == self._current:
                    self._cancellation.cancel()
        except (EOFError, OSError):
            os._exit(0)

    def _answer(self, frame: Frame) -> bytes:
        """The answer as it goes over the socket."""
        task: Task = frame.value
        failure: ExplainError
        try:
            return head_of(Frame("done", frame.number, self._do(task, frame.body, self._reporter(frame.number))))
        except ExplainError as error:
            failure = error
        except MemoryError:
            failure = InputTooLarge("The work needs more memory than a worker may use. Send less.")
        except Exception:
            # What nobody foresaw is logged here in full and answered without its text, which may hold addresses or paths.
            log.exception("%s on model %s failed", work_of(task), task.model.name)
            failure = ExplainError("Something failed inside the service. It has been logged.")
        return head_of(Frame("error", frame.number, failure))

    def _reporter(self, number: int) -> Callable[[float], None]:
        last = time.monotonic()

        def report(fraction: float) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_EVERY_S:
                last = time.monotonic()
                send(self._sock, Frame("progress", number, fraction))

        return report

    def _do(self, task: Task, body: bytes, report: Callable[[float], None]) -> Any:
        if isinstance(task, ForgetTask):
            self._models.pop(task.model, None)
            return None
        if self._limits.probe:
            _bound_memory(task.model)
            load_unoptimised(Path(task.model.path), self._cancellation)
        model = self._model(task.model)
        match task:
            case WarmTask():
                return None
            case InspectTask():
                return model.card
            case ExplainerFileTask():
                return explainer_model(task, model)
            case PredictTask():
                task = replace(task, body=body)
                return predict_picture(task, model) if isinstance(model, ImageModel) else predict_table(task, model)
            case ExplainTask():
                return _explained(replace(task, body=body), model, report)
            case _:
                assert_never(task)

    def _model(self, ref: ModelRef) -> ImageModel | TabularModel:
        """The loaded model, from memory where it is; the one not used for longest makes room."""
        model = self._models.pop(ref, None)
        if model is None:
            while len(self._models) >= self._limits.models:
                self._models.popitem(last=False)
            model = load(
                Path(ref.path),
                name=ref.name,
                version=ref.version,
                sha256=ref.sha256,
                cancellation=self._cancellation,
                threads=self._limits.threads,
            )
        self._models[ref] = model
        return model


def _explained(
    task: ExplainTask, model: ImageModel | TabularModel, report: Callable[[float], None]
) -> PictureExplanation | TableExplanation:
    if METHODS[task.method].kind != model.card.kind:
        takes = {"image": "pictures", "tabular": "tables"}
        raise MethodNotApplicable(
            f"{task.method} explains {takes[METHODS[task.method].kind]}, but model '{model.card.name}' takes "
            f"{takes[model.card.kind]}. Use one of: {', '.join(model.card.explainers)}."
        )
    if isinstance(model, ImageModel):
        return explain_picture(task, model, report)
    return TABLES[task.method](task, model, report)


def _bound_memory(ref: ModelRef) -> None:
    """Let a model that is not trusted yet take so much more memory as its size makes plausible, and no more."""
    path = Path(ref.path)
    file = path / "model.onnx" if path.is_dir() else path
    status = Path("/proc/self/statm")
    if not status.exists():
        return  # no Linux: the worker's own limit must do
    now = int(status.read_text().split()[0]) * resource.getpagesize()
    most = now + _PROBE_BYTES + _PROBE_PER_FILE_BYTE * file.stat().st_size
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _stand_back() -> None:
    """Let the web process come first: it answers everybody, a worker one request.

    When memory runs out, the kernel shall end a worker, which is replaced. And a worker that wakes up shall not push the
    web process off its core; its share of the cores in the long run stays the same.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main() -> None:
    """Run a worker: the socket's file descriptor and the limits come as arguments."""
    limits = WorkerLimits(**json.loads(sys.argv[2]))
    logs.configure("warning", json=limits.json_logs)
    logging.captureWarnings(capture=True)
    if limits.memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    share_arena(int(ARENA_SHARE * limits.memory_bytes))
    _stand_back()
    Worker(socket.socket(fileno=int(sys.argv[1])), limits).serve()


if __name__ == "__main__":
    main()
