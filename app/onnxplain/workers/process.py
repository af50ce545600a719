"""One worker process, seen from the web process: start, ask, cancel, kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from onnxplain.facts.tasks import ExplainTask, ModelRef, PredictTask, Task, WorkerLimits
from onnxplain.workers.channel import Channel
from onnxplain.workers.frames import Frame

Progress = Callable[[float], None]


def worker_environment() -> dict[str, str]:
    """What a worker is started with.

    One thread for every library: the parallelism of this service is its processes. Weights and activations in pages of 2 MiB, where
    glibc is 2.35 or newer and the kernel lends them: fewer addresses have to be translated, and ResNet-50 takes 2 to 4 % less time
    forward, 5 to 6 % less forward and backward. Nothing is reported to the maker of the runtime.
    The settings of the service stay behind: keys are among them, and a worker opens files that strangers sent.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ONNXPLAIN_")}
    fixed = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "ORT_DISABLE_TELEMETRY": "1"}
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | inherited | fixed


class WorkerDied(Exception):
    """The process is gone. `signal` names what killed it, 0 for an ordinary exit."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"worker died of signal {signal_number}" if signal_number else "worker exited")
        self.signal = signal_number


class WorkerProcess:
    """A running `onnxplain.workers.worker`. It answers one question at a time."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self._process = process
        self._channel = Channel(sock, self._take, self._lose)
        self._number = 0
        self._answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()  # the first: that it is ready
        self._on_progress: Progress | None = None
        self._killed = False
        self._ending: asyncio.Future[int] | None = None
        self.loaded: set[ModelRef] = set()

    @classmethod
    async def start(cls, limits: WorkerLimits, timeout_s: float) -> WorkerProcess:
        """Start a process and wait until it can take work.

        Raises:
            WorkerDied: it ended, or did not report within `timeout_s`.
        """
        ours, theirs = socket.socketpair()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the safe path: a worker runs nothing of the folder that the service was started in
            "-m",
            "onnxplain.workers.worker",
            str(theirs.fileno()),
            json.dumps(asdict(limits)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env=worker_environment(),
            start_new_session=True,  # a Ctrl-C in the terminal is for the web process, which then drains
        )
        theirs.close()
        worker = cls(process, ours)
        try:
            async with asyncio.timeout(timeout_s):
                await worker._answer
        except BaseException as error:
            signal_number = await worker.end()
            if isinstance(error, TimeoutError):
                raise WorkerDied(signal_number) from None
            raise
        return worker

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether the process has ended or has been told to."""
        return self._killed or self._process.returncode is not None

    async def died(self) -> int:
        """Wait until the process is gone; the signal that ended it, or 0."""
        code = await self._process.wait()
        return -code if code < 0 else 0

    def ask(self, task: Task, on_progress: Progress | None = None) -> asyncio.Future[Any]:
        """Send one task; its answer to come, or the `ExplainError` that the worker raised, or `WorkerDied`."""
        self._number += 1
        self._answer = asyncio.get_running_loop().create_future()
        self._on_progress = on_progress
        body = b""
        if isinstance(task, ExplainTask | PredictTask):
            task, body = replace(task, body=b""), task.body
        self._channel.send(Frame("run", self._number, task, body))
        return self._answer

    def cancel(self) -> None:
        """Tell the worker to stop what it does; it then answers with `Cancelled`."""
        self._channel.send(Frame("cancel", self._number))

    def kill(self) -> None:
        """End the process now, if it still runs."""
        self._killed = True
        if self._process.returncode is None:
            # Not Process.kill(): it would reap a process that has just died, and its exit status would be lost.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def end(self) -> int:
        """Kill the process if it still runs, wait until it is gone, give its socket back; the signal that ended it."""
        self.kill()
        signal_number = await self.died()
        self._channel.close()
        if not self._answer.done():
            self._answer.set_exception(WorkerDied(signal_number))
        return signal_number

    def _take(self, frame: Frame) -> None:
        """A frame has come. One that belongs to no task, or to one that nobody waits for, changes nothing."""
        if frame.number != self._number or self._answer.done():
            return
        if frame.kind == "progress":
            if self._on_progress is not None:
                self._on_progress(frame.value)
        elif frame.kind == "error":
            self._answer.set_exception(frame.value)
        else:
            self._answer.set_result(frame.value)

    def _lose(self) -> None:
        """The socket is closed: so is the process, or soon."""
        self.kill()
        self._ending = asyncio.ensure_future(self.end())
