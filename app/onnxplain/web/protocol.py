"""HTTP/1.1 with deadlines for slow clients, and caps that hold before there is a request.

Uvicorn closes idle keep-alive connections, but never one that is silent from the start or that trickles its headers or
body; no ASGI middleware can see those. So the protocol itself holds the clock here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_PIPELINED = 64  # most requests that may wait on one connection; each holds kilobytes until its turn comes
_FRAMING_PER_BYTE = 16  # a body sent byte by byte has at least 5 bytes of framing for each
_JOINED_BYTES = 64 * 1024  # a longer body takes several packets anyway, and would be copied
_OFFER = frozenset({b"upgrade", b"http2-settings"})  # headers that offer another protocol
_LINGER_S = 2.0  # between the end of a connection for us and its abortion, so that the client can read our last word


@dataclass(frozen=True)
class EdgeLimits:
    """What a client may do before it has sent a request.

    Attributes:
        headers_s: seconds from the first byte (or the connection) to the end of the headers.
        body_s: seconds from there to the end of the body; as long may a client take between two reads of an answer.
        header_bytes: of the request line and all headers; of what comes in a body beside the body, too.
        connections: open at once.
    """

    headers_s: float = 10.0
    body_s: float = 60.0
    header_bytes: int = 64 * 1024
    connections: int = 1000


class Config(uvicorn.Config):
    """Uvicorn's settings, and ours for the protocol."""

    def __init__(self, app: FastAPI, limits: EdgeLimits, **options: Any) -> None:
        super().__init__(
            app, http=Protocol, ws="none", log_config=None, server_header=False, access_log=False, **options
        )
        self.limits = limits


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 with an absolute deadline for headers, for the body, and for a client that does not read."""

    config: Config

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = self.config.limits
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._in_headers = True
        self._receiving = False
        self._header_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._requests = 0
        self._upgrade_offered = False
        self._running: RequestResponseCycle | None = None

    # ---- the clock ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Start the clock at once: a socket may stay silent."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._answer(503, "busy", "Too many connections are open. Try again in a moment.", b"retry-after: 1\r\n")
            return
        self._arm(self._limits.headers_s)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; a new request on a kept connection gets a new deadline."""
        if self.transport.is_closing():
            return
        if self._deadline is None and not self._receiving:
            self._arm(self._limits.headers_s)
        began_in_headers, requests, body_bytes = self._in_headers, self._requests, self._body_bytes
        self._feed(data)
        if self._requests != requests or self.transport.is_closing():
            return  # on_headers_complete has measured these headers
        if began_in_headers:  # nothing but headers came: all of it counts
            self._header_bytes += len(data)
            if self._header_bytes > self._limits.header_bytes:
                self._refuse(431, "headers_too_large", self._headers_sentence())
        elif self._receiving:
            self._framing_bytes += len(data) - (self._body_bytes - body_bytes)
            if self._framing_bytes > self._limits.header_bytes + _FRAMING_PER_BYTE * self._body_bytes:
                self._refuse(
                    431, "headers_too_large", "The body has more chunk extensions or trailers than it may have."
                )

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self._upgrade_offered:
                self._ignore_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request again as if it offered no other protocol, as RFC 9110 (7.8) allows.

        The parser takes an offered upgrade (`h2c`, `websocket`) as accepted and ends the request with its headers, so that its body
        would be lost. A JDK's HttpClient and `curl --http2` offer one with every request.
        """
        headers = [(name, value) for name, value in self.headers if name not in _OFFER]
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [name + b": " + value for name, value in headers]
        self._upgrade_offered = False
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join([*lines, b"", b""]) + rest)

    def on_message_begin(self) -> None:
        """A request line begins."""
        super().on_message_begin()
        self._in_headers, self._receiving = True, True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header. Trailers, which come after the body, mean nothing here and are dropped."""
        if self._in_headers:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """The headers are in: the body has its own deadline.

        Raises:
            OverflowError: too many requests wait on this connection; the parser stops, and says so in its own way.
        """
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._upgrade_offered = True
            return
        if len(self.pipeline) >= _PIPELINED:
            raise OverflowError
        self._requests += 1
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self.app = self._refuse_headers if size > self._limits.header_bytes else self.config.loaded_app
        self._arm(self._limits.body_s)
        super().on_headers_complete()
        self._in_headers, self._header_bytes, self._body_bytes, self._framing_bytes = False, 0, 0, 0

    def on_message_complete(self) -> None:
        """The request is in: from here on the service takes its own time, which the pool bounds."""
        if self._upgrade_offered:
            return  # its body is still to come
        self._disarm()
        self._in_headers, self._receiving = True, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer before the end of the body (as 413 is) ends the connection, after a pause to let it be read."""
        super().on_response_complete()
        if self._receiving and not self.transport.is_closing():
            self._arm(_LINGER_S)

    def pause_writing(self) -> None:
        """The client does not read: it may pause, but only for a limited time."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self._limits.body_s, self._abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def timeout_keep_alive_handler(self) -> None:
        """Nothing more came on a kept connection."""
        self._close()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self._receiving:
            self._close()  # nothing was asked
            return
        part, seconds = ("headers", self._limits.headers_s) if self._in_headers else ("body", self._limits.body_s)
        self._refuse(408, "too_slow", f"The {part} of the request did not arrive within {seconds:g} s. Send it faster.")

    # ---- one connection, one request at a time --------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.transport = _Joining(cycle.transport, self.loop)
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that runs, too: uvicorn tells only the last one that was pipelined."""
        self._disarm()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _close(self) -> None:
        """Close, and wait only a limited time until the client has read what is left."""
        if not self.transport.is_closing():
            self.transport.close()
        self.loop.call_later(_LINGER_S, self._abort)

    def _abort(self) -> None:
        """End the connection with a reset, so that the kernel, too, forgets what the client would not read."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None and connection.fileno() != -1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # ---- answers that no application gives ------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        """Not HTTP at all."""
        del msg
        self._refuse(400, "malformed_request", "This is not a valid HTTP/1.1 request. Send one as RFC 9112 defines it.")

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Answer the request that is being received; where another answer is due or under way, close without a word."""
        answered = self._receiving and not self._in_headers and self.cycle is not None and self.cycle.response_started
        pending = self._running is not None and not self._running.response_complete
        if answered or (pending and (self._in_headers or self._running is not self.cycle)):
            self._close()  # this answer would be mistaken for the other
        else:
            self._answer(status, code, detail)

    def _headers_sentence(self) -> str:
        return f"The headers are larger than {self._limits.header_bytes // 1024} KiB. Send fewer or shorter ones."

    async def _refuse_headers(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        body = _problem(431, "headers_too_large", self._headers_sentence())
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 431, "headers": [*headers, (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, status: int, code: str, detail: str, headers: bytes = b"") -> None:
        """Write a whole answer and close."""
        body = _problem(status, code, detail)
        self._disarm()
        self.transport.write(
            b"HTTP/1.1 %d \r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n%s"
            % (status, len(body), headers, body)
        )
        self._close()


class _Joining(asyncio.Transport):
    """Keeps the head of an answer back until its body comes, as a rule in the same turn of the loop.

    One packet instead of two: the client, which may share a core with a worker, wakes up once.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The first is the head, the second the first part of the body."""
        if self._head is None:
            self._head = bytes(data)
            self._loop.call_soon(self._flush)
            return
        if len(data) <= _JOINED_BYTES:
            self._head, data = b"", self._head + data
        self._flush()
        self._transport.write(data)

    def close(self) -> None:
        """Close, once what was written is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is about to end."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""


_TITLES = {
    400: "The request cannot be read",
    408: "The request came too slowly",
    431: "The headers are too large",
    503: "The service is busy",
}


def _problem(status: int, code: str, detail: str) -> bytes:
    return orjson.dumps(
        {
            "type": f"urn:onnxplain:problem:{code}",
            "title": _TITLES[status],
            "status": status,
            "detail": detail,
            "code": code,
            "request_id": "",
        }
    )
