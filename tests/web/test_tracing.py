"""Traces as they arrive at a collector: a real OTLP endpoint on loopback gets what a real service exports."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.conftest import DEMO_MODELS, Service, eventually, running

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

HEATMAP = "/v1/models/digits/explanations/gradcam"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Span = Any


class Collector(ThreadingHTTPServer):
    """Keeps the requests that exporters send to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not a word."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        environment.setenv("OTEL_SERVICE_NAME", "explainer")
        with running(tmp_path_factory.mktemp("traced") / "log", workers=1) as service:
            yield service


def attributes(holder: Span) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in holder.attributes}


def arrived(collector: Collector, request_id: str) -> Span:
    def found() -> list[Span]:
        return [span for span in collector.spans() if attributes(span)["onnxplain.request_id"] == request_id]

    eventually(found)
    return found()[0]


def test_a_request_is_a_span_of_its_callers_trace_with_what_it_was_about(traced: Service, collector: Collector) -> None:
    headers = {
        "X-Request-ID": "traced-1",
        "traceparent": f"00-{TRACE}-{CALLER}-01",
        "Content-Type": "image/png",
        "Cache-Control": "no-store",
    }
    picture = (DEMO_MODELS / "digits" / "samples" / "5.png").read_bytes()
    timings = traced.client.post(HEATMAP, content=picture, headers=headers).json()["timings_ms"]
    span = arrived(collector, "traced-1")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    assert (span.name, span.kind) == ("gradcam digits", 2)  # SPAN_KIND_SERVER
    about = attributes(span)
    assert about["onnxplain.run_ms"] == pytest.approx(timings["run"], abs=1e-3)
    assert (about["onnxplain.model"], about["onnxplain.method"]) == ("digits", "gradcam")
    assert (about["http.request.method"], about["http.response.status_code"]) == ("POST", 200)
    assert (about["url.path"], about["onnxplain.cache"]) == (HEATMAP, "bypass")
    assert span.end_time_unix_nano - span.start_time_unix_nano >= timings["run"] * 1e6


def test_a_refusal_is_a_span_with_its_code_in_a_trace_of_its_own(traced: Service, collector: Collector) -> None:
    traced.client.post(
        HEATMAP, content=b"no picture", headers={"X-Request-ID": "traced-2", "Content-Type": "image/png"}
    )
    span = arrived(collector, "traced-2")
    assert span.parent_span_id == b""
    about = attributes(span)
    assert about["http.response.status_code"] in (400, 415, 422)
    assert about["onnxplain.code"]


def test_spans_name_the_service_and_its_version(traced: Service, collector: Collector) -> None:
    traced.client.get("/v1/models", headers={"X-Request-ID": "traced-3"})
    arrived(collector, "traced-3")
    resource = attributes(collector.requests[0].resource_spans[0].resource)
    assert resource["service.name"] == "explainer"
    assert resource["service.version"] == traced.client.get("/openapi.json").json()["info"]["version"]


def test_a_hostile_traceparent_is_no_reason_to_fail(traced: Service, collector: Collector) -> None:
    for number, text in enumerate(("", "00", "ff-" + "f" * 500, "00-" + "0" * 32 + "-" + "0" * 16 + "-01")):
        headers = {
            "X-Request-ID": f"hostile-{number}",
            "traceparent": text,
            "tracestate": "," * 600,
            "baggage": "=;" * 99,
        }
        assert traced.client.get("/v1/models", headers=headers).status_code == 200
        arrived(collector, f"hostile-{number}")
