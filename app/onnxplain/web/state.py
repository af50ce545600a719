"""What every route needs, made once when the service starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from fastapi import Request

from onnxplain.registry.registry import Registry
from onnxplain.settings import Settings
from onnxplain.web.cache import ResultCache
from onnxplain.web.metrics import Metrics
from onnxplain.workers.pool import Pool


@dataclass
class State:
    """Settings, workers, models, kept answers and instruments of a running service."""

    settings: Settings
    pool: Pool
    registry: Registry
    cache: ResultCache
    metrics: Metrics
    progress: dict[str, float] = field(default_factory=dict)  # of the explanations under way, by request ID
    loaded: bool = False
    draining: bool = False

    def drain(self) -> None:
        """Say from now on that no work is taken; what was taken goes on."""
        self.draining = True
        self.pool.refuse_work()

    def not_ready(self) -> str:
        """Why no work can be taken now; empty when it can."""
        if self.draining:
            return "The service is stopping."
        if not self.loaded:
            return "The models are being loaded."
        if not self.pool.alive:
            return "No worker process runs."
        return ""


def state(request: Request) -> State:
    """The state of the service that got this request."""
    return cast("State", request.app.state.service)
