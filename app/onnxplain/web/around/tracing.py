"""OpenTelemetry traces, when its SDK is installed (`onnxplain[otel]`) and an exporter is named in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from starlette.types import Scope

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """Makes one span a request, child of the caller's own where `traceparent` names one."""

    def __init__(self, tracer: Any = None) -> None:
        self._tracer = tracer

    @classmethod
    def from_environment(cls, version: str) -> Tracer:
        """A tracer that exports over OTLP, or one that does nothing where no endpoint is configured.

        Raises:
            ValueError: an endpoint is configured, but the extra is not installed.
        """
        if not any(os.environ.get(name) for name in _VARIABLES):
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ModuleNotFoundError:
            raise ValueError(
                f"{' or '.join(_VARIABLES)} is set, but OpenTelemetry is not installed. Install onnxplain[otel], or unset it."
            ) from None

        name = os.environ.get("OTEL_SERVICE_NAME", "onnxplain")
        provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": version}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider.get_tracer("onnxplain", version))

    def span(self, scope: Scope, facts: dict[str, Any]) -> AbstractContextManager[None]:
        """A span around one request; `facts` are read when it ends."""
        return nullcontext() if self._tracer is None else self._span(scope, facts)

    @contextmanager
    def _span(self, scope: Scope, facts: dict[str, Any]) -> Iterator[None]:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracer.start_as_current_span(
            scope["method"], context=extract(headers), kind=SpanKind.SERVER
        ) as span:
            try:
                yield
            finally:
                span.set_attribute("http.request.method", scope["method"])
                span.set_attribute("http.response.status_code", facts["status"])
                span.set_attribute("url.path", scope["path"])
                span.set_attribute("onnxplain.request_id", scope.get("request_id", ""))
                for name in ("model", "method", "code", "cache"):
                    if facts.get(name):
                        span.set_attribute(f"onnxplain.{name}", facts[name])
                for stage, ms in facts.get("timings_ms", {}).items():
                    span.set_attribute(f"onnxplain.{stage}_ms", ms)
                if facts["status"] >= 500:
                    span.set_status(StatusCode.ERROR)
                if facts.get("model"):
                    span.update_name(f"{facts['method']} {facts['model']}")
