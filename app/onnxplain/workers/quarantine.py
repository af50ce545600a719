"""Models that crashed their runtime too often within a short time are paused, so that the others keep their workers."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque

from onnxplain.facts.errors import ModelUnavailable
from onnxplain.facts.tasks import ModelRef


class Quarantine:
    """Counts crashes by model: `crashes` of them within `window_s` seconds are too many, for as long again.

    `counts` counts the tasks that were refused, as `quarantined`.
    """

    def __init__(self, crashes: int, window_s: float, counts: Counter[str]) -> None:
        self._most = crashes
        self._window_s = window_s
        self._counts = counts
        self._crashes: defaultdict[ModelRef, deque[float]] = defaultdict(deque)

    def note_crash(self, model: ModelRef) -> None:
        """This model has just crashed a worker."""
        self._crashes[model].append(time.monotonic())

    def holds(self, model: ModelRef) -> bool:
        """Whether this model must rest now."""
        crashes = self._crashes.get(model)
        if not crashes:
            return False
        while crashes and crashes[0] < time.monotonic() - self._window_s:
            crashes.popleft()
        if not crashes:
            del self._crashes[model]
        return len(crashes) >= self._most

    def refuse(self, model: ModelRef) -> None:
        """Let a model pass that need not rest.

        Raises:
            ModelUnavailable: it must.
        """
        if self.holds(model):
            self._counts["quarantined"] += 1
            raise ModelUnavailable(
                f"Model '{model.name}' crashed its runtime {self._most} times within {self._window_s:g} s and is paused. "
                "Other models are served; look at the inputs that were sent, then try again in a minute."
            )
