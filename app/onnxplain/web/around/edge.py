"""What wraps every request, as pure ASGI: request ID, body cap while streaming, cancellation when the client leaves."""

from __future__ import annotations

import asyncio
import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onnxplain.facts.errors import Busy, InputTooLarge

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
        "base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
}


class RequestIdentity:
    """Gives every request an ID, kept from `X-Request-ID` where that is sane, and every answer the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        scope["request_id"] = sent if _REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = scope["request_id"]
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BodyLimit:
    """Refuses a body above `limit` bytes (`model_limit` for an uploaded model): by its declared length, else as it streams.

    All bodies together may take `total` bytes, so that many clients cannot do what one may not.

    Raises:
        InputTooLarge: from the `receive` of whoever reads the body.
        Busy: likewise, when other bodies take the room.
    """

    def __init__(self, app: ASGIApp, limit: int, model_limit: int, total: int) -> None:
        self._app = app
        self._limit = limit
        self._model_limit = model_limit
        self._total = total
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        declared = int(length) if length.isdigit() else 0
        limit = self._model_limit if scope["method"] == "PUT" else self._limit
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            self._refuse(declared, limit, self._held - seen + declared)
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            self._held += size
            self._refuse(seen, limit, self._held)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= seen

    def _refuse(self, size: int, limit: int, together: int) -> None:
        if size > limit:
            raise InputTooLarge(
                f"The body is larger than the {limit / 2**20:g} MiB that one request may have. Send fewer rows or a "
                "smaller picture; GET /v1/limits shows the limits in force."
            )
        if together > max(self._total, limit):
            raise Busy("Other requests hold all the memory that bodies may take. Try again in a moment.", retry_after=2)


class CancelOnDisconnect:
    """Cancels the handler when the client leaves before it was answered.

    Once the body is read, this goes on reading `receive`, whose next message can only be the disconnect.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_read = asyncio.Event()
        left = False

        def leave() -> None:
            nonlocal left
            left = True
            handler.cancel()

        async def noting() -> Message:
            if body_read.is_set():  # a second reader would steal the disconnect from the watcher
                await asyncio.Event().wait()
            message = await receive()
            if message["type"] == "http.disconnect":
                leave()  # half a body came; nobody waits for an answer to it
                await asyncio.Event().wait()
            if not message.get("more_body", False):
                body_read.set()
            return message

        async def watch() -> None:
            await body_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            leave()

        handler = asyncio.ensure_future(self._app(scope, noting, send))
        watcher = asyncio.ensure_future(watch())
        try:
            await handler
        except asyncio.CancelledError:
            handler.cancel()
            if not left:
                raise
        finally:
            watcher.cancel()
