"""The worker processes behind the web process: admission, queue, deadline, cancellation, crash and replacement.

Why our own and not pebble or anyio: a cancelled explanation must first be asked to stop (a killed worker costs its
warm sessions), every worker must have a channel of its own (so that a crash cannot take a shared lock along), and a
crash must be told from an out-of-memory kill, model by model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from app.engine.process import Progress, WorkerDied, WorkerProcess
from app.engine.task import ExplainTask, ModelRef, WorkerLimits
from app.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    ExplainError,
    InputCrashedRuntime,
    ModelUnavailable,
    WorkerLost,
)

log = logging.getLogger("onnxplain.pool")


@dataclass(frozen=True)
class PoolLimits:
    """How much work is taken at once, and how long anything may take.

    Attributes:
        workers: processes that explain, one task at a time each.
        queue: tasks that may wait for a worker.
        grace_s: how long a cancelled task may take to stop before its worker is killed.
        start_s: how long a worker may take to start.
        crashes: so many crashes within `crash_window_s` put a model in quarantine, for as long again.
    """

    workers: int = 2
    queue: int = 16
    grace_s: float = 1.0
    start_s: float = 30.0
    crashes: int = 3
    crash_window_s: float = 60.0
    worker: WorkerLimits = field(default_factory=WorkerLimits)


class Pool:
    """Runs tasks in worker processes. Make it inside a running event loop; `start()` before use, `stop()` after."""

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.counts: Counter[str] = Counter()
        self._workers: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._waiting: deque[tuple[asyncio.Future[WorkerProcess], str]] = deque()
        self._background: set[asyncio.Task[Any]] = set()
        self._crashes: defaultdict[str, deque[float]] = defaultdict(deque)
        self._warm: dict[str, ModelRef] = {}
        self._mean_s = 0.05  # running mean of a task's time in a worker, to tell how long the queue is
        self._active = 0
        self._stopping = False
        self._drained = asyncio.Event()

    async def start(self) -> None:
        """Start all workers.

        Raises:
            WorkerDied: not one of them came up.
        """
        results = await asyncio.gather(
            *(self._add_worker() for _ in range(self.limits.workers)), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, BaseException)]
        if len(failures) == len(results):
            raise failures[0]

    async def stop(self, drain_s: float = 0.0) -> None:
        """Take no more work, let what runs finish for at most `drain_s` seconds, then end all workers."""
        self._stopping = True
        if self._active:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._drained.wait()
        for worker in list(self._workers):
            worker.kill()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    @property
    def busy(self) -> int:
        """Workers at work."""
        return len(self._workers) - len(self._idle)

    @property
    def alive(self) -> int:
        """Workers that run."""
        return len(self._workers)

    @property
    def waiting(self) -> int:
        """Tasks in the queue."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Tasks admitted and not answered yet."""
        return self._active

    def pids(self) -> list[int]:
        """Process IDs of the workers."""
        return [worker.pid for worker in self._workers]

    def keep_warm(self, refs: Iterable[ModelRef]) -> None:
        """Say which models an idle worker shall load before it is needed."""
        self._warm = {ref.sha256: ref for ref in refs}
        for worker in list(self._idle):
            if self._lacks(worker):
                self._idle.remove(worker)
                self._release(worker)

    async def run(self, task: ExplainTask, timeout_s: float, on_progress: Progress | None = None) -> Any:
        """Run one task within `timeout_s` seconds, the time in the queue included.

        A worker lost for a reason of its own (killed from outside, as by a lack of memory) is replaced and the task is
        tried once more. When the task itself makes the runtime crash, it is not tried again.

        Raises:
            Busy: the queue is full, or too long for the deadline.
            DeadlineExceeded: no answer in time; the work is stopped.
            InputCrashedRuntime, WorkerLost: the worker died.
            ModelUnavailable: the model is in quarantine.
            ExplainError: what the worker raised.
        """
        deadline = time.monotonic() + timeout_s
        self._active += 1
        try:
            try:
                return await self._run_once(task, deadline, timeout_s, on_progress)
            except WorkerLost:
                return await self._run_once(task, deadline, timeout_s, on_progress)
        finally:
            self._active -= 1
            if self._stopping and not self._active:
                self._drained.set()

    async def _run_once(
        self, task: ExplainTask, deadline: float, timeout_s: float, on_progress: Progress | None
    ) -> Any:
        self._refuse_quarantined(task.model)
        worker = await self._acquire(task.model.sha256, deadline, timeout_s)
        started = time.monotonic()
        answer = asyncio.ensure_future(worker.ask("run", task, on_progress))
        try:
            async with asyncio.timeout(deadline - started):
                result = await asyncio.shield(answer)
        except TimeoutError:
            self.counts["deadline"] += 1
            self._in_background(self._stop_work(worker, answer))
            raise DeadlineExceeded(
                f"The work was not done within {timeout_s:g} s and was stopped. Ask for less (fewer rows, repeats or "
                "samples), or allow more time with X-Request-Timeout."
            ) from None
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            self._in_background(self._stop_work(worker, answer))
            raise
        except WorkerDied as death:
            raise self._bury(task.model, death) from None
        except ExplainError:
            self._release(worker)
            raise
        worker.loaded.add(task.model.sha256)
        self._mean_s += 0.1 * (time.monotonic() - started - self._mean_s)
        self._release(worker)
        return result

    # ---- admission ------------------------------------------------------------------------------------------------

    async def _acquire(self, sha256: str, deadline: float, timeout_s: float) -> WorkerProcess:
        if self._stopping:
            raise Busy("The service is stopping. Try again in a moment; another instance may answer.", retry_after=2)
        if self._idle and not self._waiting:
            return self._take_idle(sha256)
        expected_s = (len(self._waiting) + 1) * self._mean_s / max(1, self.limits.workers)
        retry_after = max(1, round(expected_s))
        if len(self._waiting) >= self.limits.queue:
            self.counts["refused"] += 1
            raise Busy(
                f"All {self.limits.workers} workers are at work and {len(self._waiting)} requests wait. "
                f"Try again in {retry_after} s.",
                retry_after,
            )
        if time.monotonic() + expected_s > deadline:
            self.counts["refused"] += 1
            raise Busy(
                f"The queue takes about {expected_s:.1f} s, longer than the {timeout_s:g} s this request may take. "
                f"Try again in {retry_after} s, or allow more time with X-Request-Timeout.",
                retry_after,
            )
        future: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        entry = (future, sha256)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled():
                self._release(future.result())  # it was handed over in the very moment of giving up
            with contextlib.suppress(ValueError):
                self._waiting.remove(entry)
            if isinstance(error, TimeoutError):
                self.counts["deadline"] += 1
                raise DeadlineExceeded(
                    f"No worker was free within {timeout_s:g} s, so the work was not started. Try again later, or "
                    "allow more time with X-Request-Timeout."
                ) from None
            raise

    def _take_idle(self, sha256: str) -> WorkerProcess:
        """Prefer a worker that has the model loaded, and among those the one used last, whose caches are warm."""
        index = next((i for i in reversed(range(len(self._idle))) if sha256 in self._idle[i].loaded), -1)
        return self._idle.pop(index)

    def _release(self, worker: WorkerProcess) -> None:
        """Hand a free worker to who waits longest, else let it warm up, else let it rest."""
        if worker.dead or worker not in self._workers:
            return
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_result(worker)
                return
        missing = self._lacks(worker)
        if missing and not self._stopping:
            self._in_background(self._warm_up(worker, missing[0]))
        else:
            self._idle.append(worker)

    def _refuse_quarantined(self, model: ModelRef) -> None:
        crashes = self._crashes.get(model.sha256)
        if not crashes:
            return
        while crashes and crashes[0] < time.monotonic() - self.limits.crash_window_s:
            crashes.popleft()
        if len(crashes) >= self.limits.crashes:
            raise ModelUnavailable(
                f"Model '{model.name}' made its runtime crash {len(crashes)} times within "
                f"{self.limits.crash_window_s:g} s and rests for a while. Other models are served; look at the inputs "
                "that were sent, then try again in a minute."
            )

    # ---- workers come and go --------------------------------------------------------------------------------------

    async def _add_worker(self) -> None:
        worker = await WorkerProcess.start(self.limits.worker, self.limits.start_s)
        self._workers.add(worker)
        self._in_background(self._watch(worker))
        for ref in list(self._warm.values()):
            await self._load(worker, ref)
        self._release(worker)

    async def _watch(self, worker: WorkerProcess) -> None:
        """Replace a worker when its process ends, whatever the reason."""
        await worker.died()
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        pause_s = 0.05
        while not self._stopping:
            try:
                await self._add_worker()
            except WorkerDied as death:
                log.warning("a worker did not start: %s", death)
                await asyncio.sleep(pause_s)
                pause_s = min(5.0, pause_s * 2)
            else:
                break
        worker.close()

    def _lacks(self, worker: WorkerProcess) -> list[ModelRef]:
        return [ref for sha256, ref in self._warm.items() if sha256 not in worker.loaded]

    async def _load(self, worker: WorkerProcess, ref: ModelRef) -> None:
        """Let a worker load one model; a model that fails here is found out when it is asked for."""
        worker.loaded.add(ref.sha256)
        with contextlib.suppress(ExplainError, WorkerDied):
            await worker.ask("run", ExplainTask(ref, "warm"))

    async def _warm_up(self, worker: WorkerProcess, ref: ModelRef) -> None:
        await self._load(worker, ref)
        self._release(worker)

    async def _stop_work(self, worker: WorkerProcess, answer: asyncio.Future[Any]) -> None:
        """Ask a worker to stop; kill it when it does not within the grace. Then it is free, or replaced."""
        await worker.cancel()
        with contextlib.suppress(ExplainError, WorkerDied):
            try:
                async with asyncio.timeout(self.limits.grace_s):
                    await asyncio.shield(answer)
            except TimeoutError:
                self.counts["killed"] += 1
                worker.kill()
                await answer
        self._release(worker)

    def _bury(self, model: ModelRef, death: WorkerDied) -> ExplainError:
        """What the death of a worker means for the task it was at."""
        self.counts["crashes"] += 1
        if self._stopping:
            return Cancelled("The service is stopping. Try again in a moment; another instance may answer.")
        if death.signal in (0, signal.SIGKILL, signal.SIGTERM):
            return WorkerLost(
                "The worker ended before it answered, perhaps for lack of memory, and was replaced. Try again, with a "
                "smaller input if it happens twice."
            )
        self._crashes[model.sha256].append(time.monotonic())
        return InputCrashedRuntime(
            f"Running model '{model.name}' on this input crashed the native runtime. Only this answer is lost. Check the "
            "input for values that the model cannot take, such as a division of the smallest integer by -1."
        )

    def _in_background(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
