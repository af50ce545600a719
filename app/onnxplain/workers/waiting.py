"""The queue before the workers: bounded, counted in seconds as well as in tasks, first come, first served."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from onnxplain.facts.errors import Busy, DeadlineExceeded
from onnxplain.workers.process import WorkerProcess

_GUESS_S = 0.05  # assumed cost of a task whose model and method have not run yet
_HARMLESS_S = 0.05  # a full line refuses nobody while the expected wait is shorter than this
_CROWD = 8  # a line this many times as long as it may be refuses, however short the wait


class Costs:
    """What tasks have cost lately: running means of seconds in a worker, by model and method."""

    def __init__(self) -> None:
        self._means_s: dict[tuple[str, str], float] = {}

    def expected_s(self, model: str, method: str) -> float:
        """How long a task of this kind will probably take."""
        return self._means_s.get((model, method), _GUESS_S)

    def note(self, model: str, method: str, seconds: float) -> None:
        """A task of this kind took so long."""
        mean = self._means_s.get((model, method), seconds)
        self._means_s[model, method] = mean + 0.2 * (seconds - mean)


@dataclass(eq=False)
class _Waiter:
    future: asyncio.Future[WorkerProcess]
    cost_s: float


class WaitingLine:
    """Tasks that wait for a worker.

    Args:
        most: so many may wait; more only while the wait is too short to matter.
        workers: how many workers there are to be.
        counts: `refused` and `deadline` are counted here.
        give_back: takes a worker that was handed over in the very moment of giving up.
    """

    def __init__(
        self, most: int, workers: int, counts: Counter[str], give_back: Callable[[WorkerProcess], None]
    ) -> None:
        self._most = most
        self._workers = workers
        self._counts = counts
        self._give_back = give_back
        self._waiters: deque[_Waiter] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def cost_s(self) -> float:
        """What all tasks that wait will probably take together."""
        return sum(waiter.cost_s for waiter in self._waiters)

    def hand_over(self, worker: WorkerProcess) -> bool:
        """Give a worker to the task that has waited longest; False when none waits."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.future.done():
                waiter.future.set_result(worker)
                return True
        return False

    async def wait(self, cost_s: float, expected_s: float, deadline: float, timeout_s: float) -> WorkerProcess:
        """A worker, when it is this task's turn.

        Args:
            cost_s: what the task will probably take, for those who come after it.
            expected_s: how long it will probably wait.
            deadline: until when it may wait, on the monotonic clock.
            timeout_s: what the caller allowed, for the sentence.

        Raises:
            Busy: the line is full, or longer than the deadline.
            DeadlineExceeded: the deadline passed.
        """
        self.refuse_crowd(expected_s)
        self._refuse_hopeless(expected_s, deadline, timeout_s)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), cost_s)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await waiter.future
        except BaseException as error:
            if waiter.future.done() and not waiter.future.cancelled():
                self._give_back(waiter.future.result())
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                self._counts["deadline"] += 1
                raise DeadlineExceeded(
                    f"No worker was free within {timeout_s:g} s, so the work was not started. Try again later, or "
                    "allow more time with X-Request-Timeout."
                ) from None
            raise

    def refuse_crowd(self, expected_s: float) -> None:
        """Let a task pass that may join the line, whatever it is about.

        Raises:
            Busy: so many wait, and so long, that none may.
        """
        crowded = len(self._waiters) >= self._most and expected_s > _HARMLESS_S
        if crowded or len(self._waiters) >= _CROWD * self._most:
            self._counts["refused"] += 1
            retry_after = _retry_after(expected_s)
            raise Busy(
                f"All {self._workers} workers are at work and {len(self._waiters)} requests wait. "
                f"Try again in {retry_after} s.",
                retry_after,
            )

    def _refuse_hopeless(self, expected_s: float, deadline: float, timeout_s: float) -> None:
        if time.monotonic() + expected_s > deadline:
            self._counts["refused"] += 1
            retry_after = _retry_after(expected_s)
            raise Busy(
                f"The queue takes about {expected_s:.1f} s, longer than the {timeout_s:g} s this request may take. "
                f"Try again in {retry_after} s, or allow more time with X-Request-Timeout.",
                retry_after,
            )


def _retry_after(expected_s: float) -> int:
    return max(1, round(expected_s))
