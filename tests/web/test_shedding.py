"""While the queue is full: what only a worker could answer is refused unread, what is kept is still given."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import onnx
import pytest
from tests import graphs
from tests.conftest import DEMO_MODELS, Service, eventually, running
from tests.soak.load import metric

HEATMAP = "/v1/models/digits/explanations/gradcam"
SAMPLE = (DEMO_MODELS / "digits" / "samples" / "5.png").read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One worker, and nobody may wait for it."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "models" / "counter").mkdir(parents=True)
    onnx.save(graphs.counter(), folder / "models" / "counter" / "model.onnx")
    (folder / "models" / "digits").symlink_to(DEMO_MODELS / "digits")
    with running(folder / "log", models=folder / "models", workers=1, queue=0) as service:
        yield service


@contextmanager
def held(service: Service) -> Iterator[None]:
    """The only worker is at work."""
    body = json.dumps({"rows": [[10**12]]}).encode()
    head = f"POST /v1/models/counter/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", service.port))) as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: metric(service, "onnxplain_workers_busy") == 1)
        yield
    eventually(lambda: metric(service, "onnxplain_workers_busy") == 0)


def ask(service: Service, path: str = HEATMAP, **headers: str) -> httpx.Response:
    return service.client.post(path, content=SAMPLE, headers={"Content-Type": "image/png"} | headers)


def test_a_task_is_refused_before_its_body_is_sent(small: Service) -> None:
    request = f"POST {HEATMAP} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 99999\r\n\r\n"
    with held(small), closing(socket.create_connection(("127.0.0.1", small.port))) as connection:
        connection.settimeout(5)
        connection.sendall(request.encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in answer.lower()


def test_refusals_are_quick_and_the_connection_serves_on(small: Service) -> None:
    with held(small):
        seconds = []
        for _ in range(50):
            started = time.perf_counter()
            assert ask(small).json()["code"] == "busy"
            seconds.append(time.perf_counter() - started)
    assert statistics.median(seconds) < 0.02
    assert ask(small).status_code == 200


def test_a_refusal_is_counted_for_its_model_and_method_but_for_no_name_a_caller_made_up(small: Service) -> None:
    with held(small):
        assert ask(small, HEATMAP.replace("digits", "nobody")).status_code == 503
        assert ask(small, HEATMAP.replace("gradcam", "nothing")).status_code == 503
        assert ask(small).status_code == 503
        text = small.client.get("/metrics").text
    assert 'method="gradcam",model="digits",status="503"' in text
    assert "nobody" not in text
    assert "nothing" not in text


def test_what_is_kept_is_given_while_all_workers_are_at_work(small: Service) -> None:
    first = ask(small)
    assert ask(small).headers["x-onnxplain-cache"] == "hit"
    with held(small):
        assert ask(small).content == first.content
        assert ask(small, **{"If-None-Match": first.headers["etag"]}).status_code == 304
        assert ask(small, **{"Cache-Control": "no-store"}).status_code == 503


def test_other_requests_are_answered_while_all_workers_are_at_work(small: Service) -> None:
    with held(small):
        assert small.client.get("/v1/models/digits").status_code == 200
        assert small.client.get("/health/ready").status_code == 200
        assert small.client.post("/v1/nowhere").status_code == 404
