"""The socket itself: slow clients, floods of connections, things that are not HTTP, and the way down."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import onnx
import pytest
from tests import graphs
from tests.conftest import DEMO_MODELS, Service, eventually, running
from tests.soak.load import resident

from onnxplain.settings import Settings
from onnxplain.web.server import refuse_open_door

HEADERS_S = 1.0
BODY_S = 1.5
POST = b"POST /v1/models/counter/predictions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with short deadlines and room for few connections."""
    folder = tmp_path_factory.mktemp("strict")
    for name, model in {"counter": graphs.counter()}.items():
        (folder / "models" / name).mkdir(parents=True)
        onnx.save(model, folder / "models" / name / "model.onnx")
    settings = {"header_timeout": HEADERS_S, "body_timeout": BODY_S, "keep_alive": 1, "connections": 100}
    with running(folder / "log", models=folder / "models", **settings) as service:
        yield service


def connect(service: Service, **options: int) -> socket.socket:
    connection = socket.socket()
    for option, value in options.items():
        connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
    connection.connect(("127.0.0.1", service.port))
    connection.settimeout(10)
    return connection


def exchange(service: Service, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to raw bytes, read until the server closes."""
    with closing(connect(service)) as connection:
        connection.sendall(request)
        head, _, body = _drain(connection).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
        return int(status.split()[1]), headers, body


def _drain(connection: socket.socket) -> bytes:
    data = b""
    try:
        while more := connection.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def _slow(service: Service, kind: str) -> float:
    """Be slow in one way until the server closes; the seconds it bore with it."""
    started = time.monotonic()
    with closing(connect(service, SO_RCVBUF=4096)) as connection:
        try:
            match kind:
                case "silent":
                    pass
                case "headers":
                    connection.sendall(b"GET /health/live HTTP/1.1\r\n")
                case "newlines":
                    pass
                case "body":
                    connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
                case "chunks":
                    connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
                case "reading":
                    connection.sendall(
                        b"GET /static/swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5
                    )
            trickle = {"headers": b"A: b\r\n", "newlines": b"\r\n", "body": b"x", "chunks": b"1\r\nx\r\n"}.get(
                kind, b""
            )
            while time.monotonic() - started < 10:
                time.sleep(0.05)
                if trickle:
                    connection.sendall(trickle)
                if kind == "reading":
                    connection.sendall(b"")
                    if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) != 1:  # TCP_ESTABLISHED
                        break
                elif _closed(connection):
                    break
        except OSError:
            pass
    return time.monotonic() - started


def _closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(10)


@pytest.mark.parametrize("kind", ["silent", "headers", "newlines", "body", "chunks", "reading"])
def test_a_slow_client_is_closed_within_two_seconds_of_its_deadline(strict: Service, kind: str) -> None:
    deadline = BODY_S if kind in {"body", "chunks", "reading"} else HEADERS_S
    assert _slow(strict, kind) < deadline + 2


def test_who_is_too_slow_is_told_so(strict: Service) -> None:
    for request, part in ((b"GET / HTTP/1.1\r\n", "headers"), (POST + b"Content-Length: 9\r\n\r\nab", "body")):
        status, headers, body = exchange(strict, request)
        assert (status, headers["content-type"]) == (408, "application/problem+json")
        assert f"The {part} of the request did not arrive" in json.loads(body)["detail"]


def test_others_are_served_at_once_while_slow_clients_hold_their_sockets(strict: Service) -> None:
    kinds = ["silent", "headers", "body", "chunks"] * 15
    slow = [threading.Thread(target=_slow, args=(strict, kind)) for kind in kinds]
    for thread in slow:
        thread.start()
    times = []
    while any(thread.is_alive() for thread in slow):
        started = time.monotonic()
        assert strict.client.get("/health/live").status_code == 200
        times.append(time.monotonic() - started)
        time.sleep(0.01)
    assert statistics.median(times) < 0.05
    assert max(times) < 1


def test_connections_beyond_the_cap_are_answered_busy_and_the_others_live_on(strict: Service) -> None:
    held = [connect(strict) for _ in range(105)]
    try:
        eventually(lambda: sum(_closed_with_busy(connection) for connection in held[-20:]))
    finally:
        for connection in held:
            connection.close()
    eventually(lambda: httpx.get(f"{strict.url}/health/live").status_code == 200)


def _closed_with_busy(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536).startswith(b"HTTP/1.1 503")
    except (BlockingIOError, OSError):
        return False


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50, 400),
        (b"GET  / HTTP/9.9\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 400_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 431),
        (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\nConnection: close\r\n\r\n", 421),
        (b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n", 421),
    ],
    ids=[
        "tls",
        "version",
        "two lengths",
        "length and chunks",
        "negative",
        "long header",
        "long line",
        "many headers",
        "two hosts",
        "no host",
    ],
)
def test_what_is_no_proper_request_gets_a_problem(strict: Service, request_bytes: bytes, status: int) -> None:
    answered, headers, body = exchange(strict, request_bytes)
    assert (answered, headers["content-type"]) == (status, "application/problem+json")
    assert json.loads(body)["status"] == status
    assert strict.client.get("/health/live").status_code == 200


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "unit"),
    [
        (CHUNKED + b"0\r\n", b"A: " + b"x" * 1000 + b"\r\n"),
        (CHUNKED + b"0\r\nA: ", b"x" * 1000),
        (CHUNKED + b"2;", b"x" * 1000),
        (b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20),
    ],
    ids=["trailers", "a trailer", "chunk extension", "requests"],
)
def test_what_never_ends_is_cut_off_and_costs_no_memory(strict: Service, start: bytes, unit: bytes) -> None:
    before = resident(strict.process.pid)
    with closing(connect(strict)) as connection:
        connection.sendall(start)
        sent, cut_off = 0, False
        while sent < 2**24 and not cut_off:
            try:
                connection.sendall(unit * 20)
                sent += len(unit) * 20
            except OSError:
                cut_off = True
        assert cut_off
    assert resident(strict.process.pid) - before < 8


def test_trailers_change_nothing(strict: Service) -> None:
    """A trailer is no header: neither key nor media type may come after the body."""
    chunk = b'10\r\n{"rows": [[3]]} \r\n0\r\nContent-Type: text/csv\r\nHost: evil.example\r\n\r\n'
    request = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunk
    status, _, body = exchange(strict, request)
    assert (status, json.loads(body)["predictions"]) == (200, [3])


def test_no_answer_comes_before_the_one_that_is_due(strict: Service) -> None:
    """Behind a request at work comes nonsense: its refusal would be taken for the first one's answer."""
    body = json.dumps({"rows": [[10**12]]}).encode()
    first = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with closing(connect(strict)) as connection:
        connection.sendall(first + b"NONSENSE\r\n\r\n")
        assert _drain(connection) == b""
    eventually(lambda: _gauge(strict, "onnxplain_workers_busy") == 0)


def test_an_answer_comes_in_one_piece(strict: Service) -> None:
    """Head and body in one packet wake the client once; with `Expect` the go-ahead comes before them, on its own."""
    request = b"GET /v1/methods HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connect(strict) as connection:
        for _ in range(2):
            connection.sendall(request)
            head, _, body = connection.recv(2**20).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert f"content-length: {len(body)}".encode() in head
        connection.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 7\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"no JSON")
        assert connection.recv(2**20).startswith(b"HTTP/1.1 400")


def test_a_large_body_on_a_kept_connection_is_not_taken_for_headers(strict: Service) -> None:
    rows = {"rows": [[1]] * 200_000}
    for _ in range(3):
        assert strict.client.post("/v1/models/counter/predictions", json=rows).status_code == 200


def test_a_declared_body_above_the_cap_is_refused_before_it_is_sent(service: Service) -> None:
    declared = b"Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
    status, _, body = exchange(service, POST.replace(b"counter", b"diabetes") + declared)
    assert status == 413
    assert json.loads(body)["code"] == "input_too_large"


def test_bodies_together_take_no_more_memory_than_they_may(tmp_path: Path) -> None:
    """Ten clients hold all but a byte of a megabyte each; what does not fit beside them is told to come back, and fits when they have left."""
    models = tmp_path / "models"
    (models / "counter").mkdir(parents=True)
    onnx.save(graphs.counter(), models / "counter" / "model.onnx")
    rows = json.dumps({"rows": [[1]] * 200_000}).encode()
    with running(tmp_path / "log", models=models, max_body=1, max_bodies=7, workers=1) as service:
        held = [connect(service) for _ in range(10)]
        for connection in held:
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 999_999)
            time.sleep(0.1)  # one after the other: those that come together might all be refused

        def ask() -> httpx.Response:
            headers = {"Content-Type": "application/json"}
            return service.client.post("/v1/models/counter/predictions", content=rows, headers=headers)

        eventually(lambda: ask().status_code == 503)
        assert ask().headers["retry-after"] == "2"
        for connection in held:
            connection.close()
        eventually(lambda: ask().status_code == 200)


def test_a_client_that_leaves_frees_its_worker_within_300_milliseconds(strict: Service) -> None:
    body = json.dumps({"rows": [[10**12]]}).encode()
    with closing(connect(strict)) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: _gauge(strict, "onnxplain_active") == 1)
    assert eventually(lambda: _gauge(strict, "onnxplain_workers_busy") == 0) < 0.3


def _gauge(service: Service, name: str) -> float:
    lines = service.client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name + " "))


def test_a_stop_finishes_accepted_requests_says_not_ready_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "counter").mkdir()
    onnx.save(graphs.counter(), tmp_path / "counter" / "model.onnx")
    answers: list[httpx.Response] = []

    def ask(url: str) -> None:
        rows = {"rows": [[400_000 + len(answers)]]}
        answers.append(httpx.post(f"{url}/v1/models/counter/predictions", json=rows, timeout=60))

    with running(tmp_path / "log", models=tmp_path, workers=2) as service:
        workers = service.workers()
        assert len(workers) == 2
        clients = [threading.Thread(target=ask, args=(service.url,)) for _ in range(4)]
        for client in clients:
            client.start()
        eventually(lambda: _gauge(service, "onnxplain_active") == 4)
        service.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=service.url) as other:
            eventually(lambda: other.get("/health/ready").status_code == 503, within_s=0.2)
            refused = other.post("/v1/models/counter/predictions", json={"rows": [[1]]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert refused.headers["connection"] == "close"
        for client in clients:
            client.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    (tmp_path / "counter").mkdir()
    onnx.save(graphs.counter(), tmp_path / "counter" / "model.onnx")
    with running(tmp_path / "log", models=tmp_path, workers=1) as service:
        body = json.dumps({"rows": [[10**12]]}).encode()
        with closing(connect(service)) as connection:
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            eventually(lambda: _gauge(service, "onnxplain_active") == 1)
            service.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
            os.kill(service.process.pid, signal.SIGINT)
            assert service.process.wait(5) == 0


def test_the_first_line_of_the_log_states_where_and_within_which_limits(service: Service) -> None:
    (line,) = service.lines("ready on")
    assert line["models"] == sorted(folder.parent.name for folder in DEMO_MODELS.glob("*/model.onnx"))
    assert line["limits"] == service.client.get("/v1/limits").json()


def test_a_service_off_loopback_needs_keys_or_says_that_it_wants_none() -> None:
    with pytest.raises(ValueError, match="ONNXPLAIN_API_KEYS"):
        refuse_open_door(Settings(host="0.0.0.0"))
    refuse_open_door(Settings(host="0.0.0.0", anonymous=True))
    refuse_open_door(Settings(host="0.0.0.0", api_keys="k" * 24))
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "::1"):
        refuse_open_door(Settings(host=host))
