"""What is told of every request: a log line, metrics, and a trace where OpenTelemetry is set up."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onnxplain.web.around.tracing import Tracer
from onnxplain.web.metrics import Metrics

log = logging.getLogger("onnxplain.request")

_QUIET = ("/health/", "/metrics", "/static/")  # asked every few seconds: logged at debug level


def note(scope: Scope, **facts: Any) -> None:
    """Say what a request is about: `model`, `method`, `timings_ms`, `code`, `cache`."""
    scope.setdefault("onnxplain", {}).update(facts)


class Observe:
    """Measures every request from outside."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer) -> None:
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        facts: dict[str, Any] = scope.setdefault("onnxplain", {})
        facts["status"] = 499  # nginx's number for a client that left before the answer

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts["status"] = message["status"]
            await send(message)

        try:
            with self._tracer.span(scope, facts):
                await self._app(scope, receive, noting)
        finally:
            self._tell(scope, facts, time.perf_counter() - started)

    def _tell(self, scope: Scope, facts: dict[str, Any], seconds: float) -> None:
        path: str = scope["path"]
        quiet = path.startswith(_QUIET)
        model, method = facts.get("model", ""), facts.get("method", "")
        if not quiet:
            self._metrics.observe(model, method, facts["status"], seconds)
            self._metrics.stages(model, method, facts.get("timings_ms", {}))
            if "code" in facts:
                self._metrics.problem(facts["code"])
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d",
            scope["method"],
            path[:200],
            facts["status"],
            extra={"request_id": scope.get("request_id", ""), "ms": round(seconds * 1e3, 2), **facts},
        )
