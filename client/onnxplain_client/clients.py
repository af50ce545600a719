"""The two clients: how a call is sent, and when it is sent again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import httpx

from onnxplain_client import calls
from onnxplain_client.answers import PictureExplanation, TableExplanation
from onnxplain_client.calls import Call, Picture

T = TypeVar("T")

_BUSY = frozenset({429, 503})
_LONGEST_PAUSE_S = 30.0
_MARGIN_S = 10.0  # the service is told when to stop, and answers before the connection gives up


class _Connection:
    """What the sync and the async client have in common: address, key, timeouts, and when to ask again."""

    def __init__(
        self, base_url: str = "http://127.0.0.1:8000", *, api_key: str = "", timeout: float = 60.0, retries: int = 3
    ) -> None:
        headers = {"X-Request-Timeout": f"{timeout:g}", "Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._options: dict[str, Any] = {
            "base_url": base_url,
            "headers": headers,
            "timeout": httpx.Timeout(timeout + _MARGIN_S, connect=10.0),
        }
        self._retries = retries

    def _pause_s(self, attempt: int, retry_after: str = "") -> float | None:
        """Seconds to wait before the next attempt; None when there is none."""
        if attempt >= self._retries:
            return None
        told = float(retry_after) if retry_after.isdecimal() else 0.0
        spread = random.uniform(1.0, 1.25)  # noqa: S311 - so that those who were refused together do not come back together
        return min(_LONGEST_PAUSE_S, max(told, 0.25 * 2.0**attempt) * spread)

    def _pause_after(self, response: httpx.Response, attempt: int) -> float | None:
        if response.status_code not in _BUSY:
            return None
        return self._pause_s(attempt, response.headers.get("Retry-After", ""))


class Client(_Connection):
    """The service from synchronous code. A context manager; one connection pool for all its threads.

    Args:
        base_url: where the service is.
        api_key: sent as a bearer token where the service wants one.
        timeout: seconds one request may take; the service is told, and stops the work.
        retries: how often to ask again when the service is busy or cannot be reached.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        super().__init__(base_url, **options)
        self._http = httpx.Client(**self._options)

    def models(self) -> list[dict[str, Any]]:
        """Every registered model: name, ready, kind, task, version, sha256."""
        return self._do(calls.models())

    def model(self, name: str) -> dict[str, Any]:
        """Everything known of one model."""
        return self._do(calls.model(name))

    def predict(
        self, model: str, picture: Picture | None = None, *, rows: Any = None, columns: Any = None
    ) -> list[Any]:
        """What the model itself says, of a picture or of rows."""
        return self._do(calls.predictions(model, picture, rows, columns))

    def explain_picture(
        self, model: str, picture: Picture, method: str = "gradcam", **options: Any
    ) -> PictureExplanation:
        """Explain a picture: a path, or the bytes of a PNG, JPEG or WebP file.

        Args:
            model: its name.
            picture: path or bytes.
            method: one of the model's explainers.
            options: the method's, such as `target=["cat", "dog"]`, `top_k=3`, `layer=...`, `values=True`.

        Raises:
            ServiceError: the service refused or failed.
        """
        return self._do(calls.picture(model, picture, method, options))

    def explain_table(
        self,
        model: str,
        rows: Any = None,
        labels: Any = None,
        *,
        columns: Sequence[str] | None = None,
        method: str = "permutation-importance",
        **options: Any,
    ) -> TableExplanation:
        """Explain a table; without rows, the model's registered evaluation data.

        Args:
            model: its name.
            rows: array [n, d], list of lists or of dicts, or a pandas DataFrame (its columns by name).
            labels: the true class or value of every row.
            columns: names in the order of the rows' columns; default: the DataFrame's, else the model's.
            method: one of the model's explainers.
            options: the method's, such as `metrics=["roc_auc"]`, `n_repeats=30`, `seed=0`, `groups={...}`.

        Raises:
            ServiceError: the service refused or failed.
        """
        return self._do(calls.table(model, method, rows, labels, columns, options))

    def _do(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = self._http.send(call.request(self._http))
            except httpx.ConnectError:
                pause = self._pause_s(attempt)
                if pause is None:
                    raise
            else:
                pause = self._pause_after(response, attempt)
                if pause is None:
                    return call.answer(response)
            time.sleep(pause)
            attempt += 1

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Connection):
    """The service from asynchronous code; the same methods as `Client`, awaited."""

    def __init__(self, base_url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        super().__init__(base_url, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def models(self) -> list[dict[str, Any]]:
        """As `Client.models`."""
        return await self._do(calls.models())

    async def model(self, name: str) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._do(calls.model(name))

    async def predict(
        self, model: str, picture: Picture | None = None, *, rows: Any = None, columns: Any = None
    ) -> list[Any]:
        """As `Client.predict`."""
        return await self._do(calls.predictions(model, picture, rows, columns))

    async def explain_picture(
        self, model: str, picture: Picture, method: str = "gradcam", **options: Any
    ) -> PictureExplanation:
        """As `Client.explain_picture`."""
        return await self._do(calls.picture(model, picture, method, options))

    async def explain_table(
        self,
        model: str,
        rows: Any = None,
        labels: Any = None,
        *,
        columns: Sequence[str] | None = None,
        method: str = "permutation-importance",
        **options: Any,
    ) -> TableExplanation:
        """As `Client.explain_table`."""
        return await self._do(calls.table(model, method, rows, labels, columns, options))

    async def _do(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = await self._http.send(call.request(self._http))
            except httpx.ConnectError:
                pause = self._pause_s(attempt)
                if pause is None:
                    raise
            else:
                pause = self._pause_after(response, attempt)
                if pause is None:
                    return call.answer(response)
            await asyncio.sleep(pause)
            attempt += 1

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
