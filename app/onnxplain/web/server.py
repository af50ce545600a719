"""The service on a socket: uvicorn, started with a word on what is served, and drained before it ends."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import time
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from onnxplain import logs
from onnxplain.settings import Settings
from onnxplain.web.application import create_app
from onnxplain.web.protocol import Config, EdgeLimits
from onnxplain.web.routes.health import limits_of
from onnxplain.web.state import State

log = logging.getLogger("onnxplain.server")


class Server(uvicorn.Server):
    """Uvicorn that says at once that it is stopping, finishes what it has accepted, and only then stops to listen."""

    def __init__(self, config: Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_s = drain_s

    async def startup(self, sockets: Any = None) -> None:
        """Start, then say where, with what, and within which limits."""
        started = time.monotonic()
        await super().startup(sockets)
        if self._service is None:
            return
        models = self._service.registry.all()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        log.info(
            "ready on http://%s:%d",
            f"[{host}]" if ":" in host else host,
            port,
            extra={
                "seconds": round(time.monotonic() - started, 2),
                "models": [model.ref.name for model in models if model.card is not None],
                "refused": [model.ref.name for model in models if model.card is None],
                "limits": limits_of(self._service.settings).model_dump(),
            },
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM, Ctrl-C: stop in order; a second Ctrl-C: stop now."""
        del frame
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        self._say_close()
        if self._service is not None:
            self._service.drain()

    async def shutdown(self, sockets: Any = None) -> None:
        """Wait for accepted work while still answering (readiness says 503, new work too); then close."""
        self._say_close()
        deadline = time.monotonic() + self._drain_s
        # Who asks in the first moments, not knowing yet, gets an answer rather than a refused connection.
        await asyncio.sleep(0.2)
        while self._service is not None and self._service.pool.active and not self.force_exit:
            if time.monotonic() > deadline:
                log.warning("%d requests were still running when the drain ended", self._service.pool.active)
                break
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _say_close(self) -> None:
        """Every answer from now on asks its client to open a new connection, which another instance may get."""
        close = (b"connection", b"close")
        if close not in self.server_state.default_headers:
            self.server_state.default_headers.append(close)

    @property
    def _service(self) -> State | None:
        return cast("State | None", getattr(self._app.state, "service", None))


def serve(settings: Settings) -> None:
    """Run the service until it is told to stop.

    Raises:
        ValueError: the settings would leave the service open to everybody.
    """
    logs.configure(settings.log_level, json=settings.json_logs)
    refuse_open_door(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    app = create_app(settings)
    limits = EdgeLimits(settings.header_timeout, settings.body_timeout, connections=settings.connections)
    config = Config(
        app,
        limits,
        host=settings.host,
        port=settings.port,
        timeout_keep_alive=int(settings.keep_alive),
        timeout_graceful_shutdown=max(1, round(settings.drain)),
    )
    Server(config, app, settings.drain).run()


def refuse_open_door(settings: Settings) -> None:
    """Off loopback, a service without keys is open to whoever reaches it: that must be said, not slipped into.

    Raises:
        ValueError: the sentence says which setting to give.
    """
    if not settings.on_loopback and not settings.key_digests and not settings.anonymous:
        raise ValueError(
            f"The service would listen on {settings.host} for everybody. Set ONNXPLAIN_API_KEYS to the keys that callers "
            "send, or ONNXPLAIN_ANONYMOUS=true if the network around it keeps strangers out."
        )
