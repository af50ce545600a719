"""What every route needs, made once when the service starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from app.engine.pool import Pool
from app.registry import Registry
from app.settings import Settings


@dataclass
class State:
    """Settings, workers and models of a running service."""

    settings: Settings
    pool: Pool
    registry: Registry
    loaded: bool = False
    draining: bool = False

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
