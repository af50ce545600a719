"""The body that came is the body that is explained, whatever protocol the client offers beside."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
from contextlib import closing

import pytest
from tests.conftest import DEMO_MODELS, Service

ROWS = b"".join((DEMO_MODELS / "diabetes" / "samples" / "test.csv").read_bytes().splitlines(keepends=True)[:12])
PATH = "/v1/models/diabetes/explanations/permutation-importance?label=progression&n_repeats=1"
OFFERS = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "none": "",
}


def rows_explained(service: Service, *packets: bytes, answers: int = 1) -> list[tuple[int, int | None]]:
    """Status and `n_rows` of the answers to packets on one connection."""
    found = []
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=20)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for packet in packets:
            connection.sendall(packet)
        with connection.makefile("rb") as stream:
            for _ in range(answers):
                status = int(stream.readline().split()[1])
                headers = http.client.parse_headers(stream)
                found.append((status, json.loads(stream.read(int(headers["content-length"]))).get("n_rows")))
    return found


def head(offer: str, framing: str) -> bytes:
    lines = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n{OFFERS[offer]}{framing}\r\n\r\n"
    return lines.encode()


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("packets", [1, 2, 3])
def test_an_offered_upgrade_never_costs_the_body(service: Service, offer: str, chunked: bool, packets: int) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(ROWS)}"
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(ROWS), ROWS) if chunked else ROWS
    request = head(offer, framing), body
    sent = {1: [b"".join(request)], 2: [*request], 3: [request[0][:60], request[0][60:] + body[:9], body[9:]]}[packets]
    assert rows_explained(service, *sent) == [(200, 11)]


def test_requests_that_follow_an_offer_on_one_connection_are_answered_in_order(service: Service) -> None:
    first = head("h2c", f"Content-Length: {len(ROWS)}") + ROWS
    fewer = b"".join(ROWS.splitlines(keepends=True)[:8])
    second = head("h2c", f"Content-Length: {len(fewer)}") + fewer
    assert rows_explained(service, first + second, answers=2) == [(200, 11), (200, 7)]


def test_a_body_that_is_announced_and_empty_is_not_the_evaluation_data(service: Service) -> None:
    """A part in front of the service that loses a body must not get an answer on other rows."""
    request = head("none", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
    assert rows_explained(service, request) == [(400, None)]


def test_curl_that_offers_http_2_gets_its_own_rows_explained(service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    command = ["curl", "-s", "--http2", "-H", "Content-Type: text/csv", "--data-binary", "@-", f"{service.url}{PATH}"]
    answer = subprocess.run(command, input=ROWS, capture_output=True, check=True, timeout=30).stdout
    assert json.loads(answer)["n_rows"] == 11
