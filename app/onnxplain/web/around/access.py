"""Who may ask: API keys, the admin key, and the names in `Host` that are answered."""

from __future__ import annotations

import hashlib
import hmac

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from onnxplain.facts.errors import AccessError, HostRefused, KeyMissing, KeyRefused
from onnxplain.settings import Settings
from onnxplain.web.problems import answer

_OPEN = ("/health/", "/static/")
_OPEN_EXACTLY = frozenset({"/", "/docs", "/openapi.json"})
_CHANGING = frozenset({"PUT", "DELETE", "PATCH"})


class Access:
    """Lets a request through if its `Host` is this service's and its key allows what it asks.

    The page, the documentation and the health routes need no key, so that a browser and a load balancer can look.
    What changes models needs the admin key, which may do everything else too.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = settings.hosts
        self._keys = settings.key_digests
        self._admin = settings.admin_digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except AccessError as error:
                await answer(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = dict(reversed(scope["headers"]))  # the first of several counts
        hosts = [_hostname(value) for name, value in scope["headers"] if name == b"host"]
        if self._hosts and (len(hosts) != 1 or hosts[0] not in self._hosts):
            raise HostRefused(
                "This service does not answer for the host in this request. Use the address it listens on, or name the host "
                "in ONNXPLAIN_ALLOWED_HOSTS."
            )
        path: str = scope["path"]
        if open_to_all(path):
            return
        changing = scope["method"] in _CHANGING
        if not self._keys and not (changing and self._admin):
            return
        key = _key(headers)
        if not key:
            raise KeyMissing("Send an API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        digest = hashlib.sha256(key).digest()
        # Every key is compared, in constant time, so that the time taken says nothing about any of them.
        admin = self._admin is not None and hmac.compare_digest(digest, self._admin)
        known = sum([hmac.compare_digest(digest, other) for other in self._keys]) > 0
        if changing and self._admin and not admin:
            raise KeyRefused("Changing models needs the admin key. Send that one.")
        if not (admin or known):
            raise KeyRefused("The API key is not known here. Send a valid one.")


def _key(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"").strip()


def open_to_all(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in _OPEN_EXACTLY or path.startswith(_OPEN)


def _hostname(host: bytes) -> str:
    """The name in a `Host` header, without port and without the brackets of an IPv6 address."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
