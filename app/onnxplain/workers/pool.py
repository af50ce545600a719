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
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from onnxplain.facts.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    ExplainError,
    InputCrashedRuntime,
    WorkerLost,
)
from onnxplain.facts.tasks import ForgetTask, InspectTask, ModelRef, Task, WarmTask, WorkerLimits, work_of
from onnxplain.workers.process import Progress, WorkerDied, WorkerProcess
from onnxplain.workers.quarantine import Quarantine
from onnxplain.workers.waiting import Costs, WaitingLine

log = logging.getLogger("onnxplain.pool")

_SHORT_LIFE_S = 5.0  # a worker that dies sooner makes the next one wait, so that a broken set-up does not spin


@dataclass(frozen=True)
class PoolLimits:
    """How much work is taken at once, and how long anything may take.

    Attributes:
        workers: processes that explain, one task at a time each.
        queue: tasks that may wait for a worker.
        grace_s: how long a cancelled task may take to stop before its worker is killed.
        start_s: how long a worker may take to start.
        load_s: how long a worker may take to load one model.
        crashes: so many crashes within `crash_window_s` put a model in quarantine, for as long again.
    """

    workers: int = 2
    queue: int = 16
    grace_s: float = 1.0
    start_s: float = 30.0
    load_s: float = 60.0
    crashes: int = 3
    crash_window_s: float = 60.0
    worker: WorkerLimits = field(default_factory=WorkerLimits)


@dataclass(eq=False)
class _Running:
    """A task at a worker: since when, and how long it will probably take."""

    started: float
    cost_s: float


class Pool:
    """Runs tasks in worker processes. Make it inside a running event loop; `start()` before use, `stop()` after."""

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.counts: Counter[str] = Counter()
        self._workers: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._waiting = WaitingLine(limits.queue, limits.workers, self.counts, self._release)
        self._quarantine = Quarantine(limits.crashes, limits.crash_window_s, self.counts)
        self._costs = Costs()
        self._running: dict[WorkerProcess, _Running] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._chores: set[asyncio.Task[Any]] = set()
        self._warm: tuple[ModelRef, ...] = ()
        self._in_use: Counter[ModelRef] = Counter()
        self._pause_s = 0.0
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
        for _ in failures:
            self._in_background(self._replace_worker())

    def refuse_work(self) -> None:
        """Take no more work; what was taken goes on."""
        self._stopping = True

    async def stop(self, drain_s: float = 0.0) -> None:
        """Take no more work, let what runs finish for at most `drain_s` seconds, then end all workers."""
        self.refuse_work()
        if self.active:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._drained.wait()
        for task in list(self._background):
            task.cancel()  # the task that watches a worker ends it when cancelled
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
        return self._in_use.total()

    def pids(self) -> list[int]:
        """Process IDs of the workers."""
        return [worker.pid for worker in self._workers]

    def uses(self, model: ModelRef) -> bool:
        """Whether a task that waits or runs is about this model."""
        return self._in_use[model] > 0

    def expected_wait_s(self) -> float:
        """How long a task that came now would wait: what waits and what is left of what runs, over all workers."""
        if self._idle and not self._waiting:
            return 0.0
        now = time.monotonic()
        # What has taken longer than expected will probably take as much longer again.
        left = sum(abs(run.cost_s - (now - run.started)) for run in self._running.values())
        return (self._waiting.cost_s + left) / max(1, len(self._workers))

    def keep_warm(self, refs: Iterable[ModelRef]) -> None:
        """Say which models an idle worker shall load before it is needed; it forgets those that are not among them."""
        self._warm = tuple(refs)
        for worker in list(self._idle):
            if self._chore(worker):
                self._idle.remove(worker)
                self._release(worker)

    async def warm(self) -> None:
        """Wait until every worker has loaded what it shall keep warm."""
        while self._chores:
            await asyncio.wait(self._chores)

    def refuse_crowd(self) -> None:
        """Let pass what may be admitted, before it is known what it is.

        Raises:
            Busy: the queue is full.
        """
        if not self._idle:
            self._waiting.refuse_crowd(self.expected_wait_s())

    async def run(self, task: Task, timeout_s: float, on_progress: Progress | None = None) -> Any:
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
        if self._stopping:
            raise Busy("The service is stopping. Try again in a moment; another instance may answer.", retry_after=2)
        deadline = time.monotonic() + timeout_s
        self._in_use[task.model] += 1
        try:
            try:
                return await self._run_once(task, deadline, timeout_s, on_progress)
            except WorkerLost:
                self.counts["retried"] += 1
                return await self._run_once(task, deadline, timeout_s, on_progress)
        finally:
            self._in_use[task.model] -= 1
            if not self._in_use[task.model]:
                del self._in_use[task.model]
            if self._stopping and not self.active:
                self._drained.set()

    async def probe(self, ref: ModelRef, timeout_s: float, limits: WorkerLimits) -> Any:
        """The card of a model that is not trusted yet, from a process of its own that ends with it.

        Raises:
            DeadlineExceeded: it took longer than `timeout_s`.
            InputCrashedRuntime, WorkerLost: the process died of the model.
            ExplainError: why the model is refused.
        """
        worker = None
        try:
            async with asyncio.timeout(timeout_s):
                worker = await WorkerProcess.start(replace(limits, probe=True), self.limits.start_s)
                return await worker.ask(InspectTask(ref))
        except TimeoutError:
            raise DeadlineExceeded(f"Loading the model took longer than {timeout_s:g} s and was stopped.") from None
        except WorkerDied as death:
            raise self._meaning(ref, death) from None
        finally:
            if worker is not None:
                await worker.end()

    async def _run_once(self, task: Task, deadline: float, timeout_s: float, on_progress: Progress | None) -> Any:
        self._quarantine.refuse(task.model)
        cost_s = self._costs.expected_s(task.model.name, work_of(task))
        worker = await self._acquire(task.model, cost_s, deadline, timeout_s)
        started = time.monotonic()
        self._running[worker] = _Running(started, cost_s)
        answer = worker.ask(task, on_progress)
        answer.add_done_callback(lambda answer: self._answered(worker, task, answer))
        try:
            async with asyncio.timeout(deadline - started):
                return await asyncio.shield(answer)
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

    def _answered(self, worker: WorkerProcess, task: Task, answer: asyncio.Future[Any]) -> None:
        """Give the worker its next task before this answer is made ready for the client, so that it need not wait."""
        running = self._running.pop(worker)
        failure = answer.exception()
        if failure is None:
            worker.loaded.add(task.model)
            self._costs.note(task.model.name, work_of(task), time.monotonic() - running.started)
        if not isinstance(failure, WorkerDied):
            self._release(worker)

    # ---- admission ------------------------------------------------------------------------------------------------

    async def _acquire(self, model: ModelRef, cost_s: float, deadline: float, timeout_s: float) -> WorkerProcess:
        if self._idle and not self._waiting:
            return self._take_idle(model)
        return await self._waiting.wait(cost_s, self.expected_wait_s(), deadline, timeout_s)

    def _take_idle(self, model: ModelRef) -> WorkerProcess:
        """Prefer a worker that has the model loaded, and among those the one used last, whose caches are warm."""
        index = next((i for i in reversed(range(len(self._idle))) if model in self._idle[i].loaded), -1)
        return self._idle.pop(index)

    def _release(self, worker: WorkerProcess) -> None:
        """Hand a free worker to who waits longest, else let it do its chores, else let it rest."""
        if worker.dead or worker not in self._workers:
            return
        if self._waiting.hand_over(worker):
            return
        chore = None if self._stopping else self._chore(worker)
        if chore is None:
            self._idle.append(worker)
        else:
            task = self._in_background(self._do_chores(worker, chore))
            self._chores.add(task)
            task.add_done_callback(self._chores.discard)

    # ---- workers come and go --------------------------------------------------------------------------------------

    async def _add_worker(self) -> None:
        """Start a worker and give it to the pool once it has loaded every model that is to be warm.

        Raises:
            WorkerDied: it did not come up.
        """
        worker = await WorkerProcess.start(self.limits.worker, self.limits.start_s)
        self._workers.add(worker)
        self._in_background(self._watch(worker, time.monotonic()))
        # A waiting task gets its answer sooner from the other workers, which are warm. Only when there are no others does this one
        # serve before it has loaded its models.
        while len(self._workers) > 1 and not worker.dead and (chore := self._chore(worker)):
            await self._do_chore(worker, chore)
        self._release(worker)

    async def _watch(self, worker: WorkerProcess, born: float) -> None:
        """Replace a worker when its process ends, whatever the reason."""
        try:
            await worker.died()
        finally:
            self._workers.discard(worker)
            if worker in self._idle:
                self._idle.remove(worker)
            await worker.end()
        short = time.monotonic() - born < _SHORT_LIFE_S
        self._pause_s = min(5.0, max(0.1, 2 * self._pause_s)) if short else 0.0
        await self._replace_worker()

    async def _replace_worker(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._pause_s)
            try:
                await self._add_worker()
            except WorkerDied as death:
                log.warning("a worker did not start: %s", death)
                self._pause_s = min(5.0, max(0.1, 2 * self._pause_s))
            else:
                break

    def _chore(self, worker: WorkerProcess) -> WarmTask | ForgetTask | None:
        """What a free worker should do: forget a model that was replaced, or load one before it is needed."""
        warm = self._warm[: self.limits.worker.models]
        for ref in warm:
            if ref not in worker.loaded and not self._quarantine.holds(ref):
                return WarmTask(ref)
        for ref in worker.loaded:
            if ref not in warm and not self.uses(ref):
                return ForgetTask(ref)
        return None

    async def _do_chores(self, worker: WorkerProcess, chore: WarmTask | ForgetTask) -> None:
        await self._do_chore(worker, chore)
        self._release(worker)

    async def _do_chore(self, worker: WorkerProcess, chore: WarmTask | ForgetTask) -> None:
        """A model that fails here is found out when it is asked for; one that crashes or hangs costs this worker."""
        if isinstance(chore, WarmTask):
            worker.loaded.add(chore.model)
        else:
            worker.loaded.discard(chore.model)
        try:
            async with asyncio.timeout(self.limits.load_s):
                await worker.ask(chore)
        except TimeoutError:
            self._quarantine.note_crash(chore.model)
            worker.kill()
        except WorkerDied as death:
            self._bury(chore.model, death)
        except ExplainError:
            pass

    async def _stop_work(self, worker: WorkerProcess, answer: asyncio.Future[Any]) -> None:
        """Ask a worker to stop; kill it when it does not within the grace. Then it is free, or replaced."""
        worker.cancel()
        done, _ = await asyncio.wait([answer], timeout=self.limits.grace_s)
        if not done:
            self.counts["killed"] += 1
            worker.kill()

    def _bury(self, model: ModelRef, death: WorkerDied) -> ExplainError:
        """What the death of a worker means for the task it was at; a crash counts against the model."""
        self.counts["crashes"] += 1
        meaning = self._meaning(model, death)
        if isinstance(meaning, InputCrashedRuntime):
            self._quarantine.note_crash(model)
            log.warning("model %s crashed its worker", model.name, extra={"signal": death.signal})
        return meaning

    def _meaning(self, model: ModelRef, death: WorkerDied) -> ExplainError:
        if self._stopping:
            return Cancelled("The service is stopping. Try again in a moment; another instance may answer.")
        if death.signal in (0, signal.SIGKILL, signal.SIGTERM):
            return WorkerLost(
                "The worker ended before it answered, perhaps for lack of memory, and was replaced. Try again, with a "
                "smaller input if it happens twice."
            )
        return InputCrashedRuntime(
            f"Running model '{model.name}' on this input crashed the native runtime. Only this answer is lost. Check the "
            "input for values that the model cannot take, such as a division of the smallest integer by -1."
        )

    def _in_background(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task
