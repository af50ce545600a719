"""One worker process, seen from the web process: start, ask, cancel, kill."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from app.engine.frames import LENGTHS, MOST, Frame, frame_of, head_of
from app.engine.task import ExplainTask, ModelRef, WorkerLimits

log = logging.getLogger("onnxplain.pool")

Progress = Callable[[float], None]


class WorkerDied(Exception):
    """The process is gone. `signal` names what killed it, 0 for an ordinary exit."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"worker died of signal {signal_number}" if signal_number else "worker exited")
        self.signal = signal_number


class WorkerProcess:
    """A running `app.engine.worker`. It answers one question at a time."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._numbers = itertools.count(1)
        self._number = 0
        self._killed = False
        self._sending = asyncio.Lock()
        self.loaded: set[ModelRef] = set()

    @classmethod
    async def start(cls, limits: WorkerLimits, timeout_s: float) -> WorkerProcess:
        """Start a process and wait until it can take work.

        Raises:
            WorkerDied: it ended, or did not report within `timeout_s`.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # One thread for every library: the parallelism of this service is its processes.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.engine.worker",
            str(theirs.fileno()),
            json.dumps(asdict(limits)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env=environment,
            start_new_session=True,  # a Ctrl-C in the terminal is for the web process, which then drains
        )
        theirs.close()
        worker = cls(process, ours)
        try:
            async with asyncio.timeout(timeout_s):
                await _receive(ours)
        except BaseException as error:
            signal_number = await worker.end()
            if isinstance(error, (TimeoutError, EOFError, OSError)):
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

    async def ask(self, kind: str, value: Any, on_progress: Progress | None = None) -> Any:
        """Send one question and wait for its answer.

        Raises:
            WorkerDied: the process ended before it answered.
            ExplainError: what the worker raised.
        """
        self._number = next(self._numbers)
        body = b""
        if isinstance(value, ExplainTask):
            value, body = replace(value, body=b""), value.body
        try:
            async with self._sending:
                await _send(self._sock, Frame(kind, self._number, value, body))
            while True:
                frame = await _receive(self._sock)
                if frame.number != self._number:
                    continue
                if frame.kind == "progress":
                    if on_progress is not None:
                        on_progress(frame.value)
                elif frame.kind == "error":
                    raise frame.value
                else:
                    return frame.value
        except (EOFError, ConnectionError, BrokenPipeError):
            self.kill()
            raise WorkerDied(await self.died()) from None

    async def cancel(self) -> None:
        """Tell the worker to stop what it does; it then answers with `Cancelled`."""
        with contextlib.suppress(OSError):
            async with self._sending:
                await _send(self._sock, Frame("cancel", self._number))

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
        try:
            return await self.died()
        finally:
            self._sock.close()


async def _send(sock: socket.socket, frame: Frame) -> None:
    """Write one frame to a non-blocking socket."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, head_of(frame))
    if frame.body:
        await loop.sock_sendall(sock, frame.body)


async def _receive(sock: socket.socket) -> Frame:
    """Read one frame from a non-blocking socket.

    Raises:
        EOFError: the other side is gone, or no longer itself.
    """
    loop = asyncio.get_running_loop()

    async def exactly(size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = await loop.sock_recv_into(sock, view)
            if not count:
                raise EOFError
            view = view[count:]
        return data

    head, body = LENGTHS.unpack(await exactly(LENGTHS.size))
    if max(head, body) > MOST:
        raise EOFError
    try:
        return frame_of(await exactly(head), bytes(await exactly(body)) if body else b"")
    except pickle.UnpicklingError:
        log.exception("a worker sent what is no frame")
        raise EOFError from None
