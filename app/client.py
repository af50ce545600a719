"""A typed client, sync and async: `Client("http://127.0.0.1:8000").explain_picture("shapes", "star.jpg")`.

Answers are frozen dataclasses with NumPy arrays. When the service is busy (429, 503) or not up yet, the client waits as
long as `Retry-After` says and asks again; what cannot be answered raises `ServiceError` with the service's own sentence.
"""

from __future__ import annotations

import asyncio
import base64
import io
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

T = TypeVar("T")
Picture = str | Path | bytes
Array = NDArray[Any]

_BUSY = frozenset({429, 503})
_LONGEST_PAUSE_S = 30.0
_MARGIN_S = 10.0  # the service is told when to stop, and answers before the connection gives up
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))


class ServiceError(Exception):
    """The service refused or failed; `str(error)` is its own sentence.

    Attributes:
        status: HTTP status.
        code: stable name, such as `model_not_found`; openapi.md lists them.
        title: the kind of error, for people.
        request_id: names the request in the service's logs.
    """

    def __init__(self, status: int, code: str, title: str, detail: str, request_id: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Picklable, so that it can leave a process pool."""
        return type(self), (self.status, self.code, self.title, str(self), self.request_id)


@dataclass(frozen=True)
class ClassScore:
    """A class; `score` before softmax, `probability` after it (None for a regression)."""

    index: int
    label: str
    score: float
    probability: float | None


@dataclass(frozen=True)
class Heatmap:
    """One explained class.

    Attributes:
        target: the class.
        layer, layer_shape: the explained layer (channels, height, width), None for input attributions.
        maximum: greatest value of the raw map; 0 where there is no evidence at all.
        heatmap_png: 8-bit grey, as large as the upright picture.
        overlay_png: the heatmap over the picture.
        values: the raw map, float32[h, w], if `values=True` was asked for.
    """

    target: ClassScore
    layer: str | None
    layer_shape: tuple[int, ...] | None
    maximum: float
    heatmap_png: bytes = field(repr=False)
    overlay_png: bytes = field(repr=False)
    values: NDArray[np.float32] | None = field(default=None, repr=False)

    @cached_property
    def heatmap(self) -> NDArray[np.uint8]:
        """uint8[H, W], decoded when first looked at. Needs Pillow."""
        return _pixels(self.heatmap_png)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """uint8[H, W, 3], decoded when first looked at. Needs Pillow."""
        return _pixels(self.overlay_png)

    def save(self, path: str | Path) -> None:
        """Write the overlay as a PNG file."""
        Path(path).write_bytes(self.overlay_png)


@dataclass(frozen=True)
class PictureExplanation:
    """Where in a picture the evidence lies. `document` is the whole answer as the service sent it."""

    method: str
    predictions: tuple[ClassScore, ...]
    explanations: tuple[Heatmap, ...]
    gradient: str
    warnings: tuple[str, ...]
    document: Mapping[str, Any] = field(repr=False)

    @property
    def first(self) -> Heatmap:
        """The first explained class: the top class unless another was asked for."""
        return self.explanations[0]


@dataclass(frozen=True)
class Importance:
    """How much worse the model gets without one feature or group; `values` float64[repeats], None where there is no number."""

    feature: str
    mean: float | None
    std: float | None
    standard_error: float | None
    ci95: tuple[float | None, float | None]
    values: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class TableExplanation:
    """How much each column matters, metric by metric. `document` is the whole answer as the service sent it."""

    method: str
    baseline: Mapping[str, float | None]
    importances: Mapping[str, tuple[Importance, ...]]
    ranking: Mapping[str, tuple[str, ...]]
    n_rows: int
    warnings: tuple[Any, ...]
    document: Mapping[str, Any] = field(repr=False)

    def as_dataframe(self) -> Any:
        """A pandas DataFrame: a row for each metric and feature, most important first. Needs pandas."""
        import pandas as pd

        rows = [
            {"metric": metric, "feature": row.feature, "mean": row.mean, "std": row.std}
            | {"standard_error": row.standard_error}
            | dict(zip(("ci95_low", "ci95_high"), row.ci95, strict=True))
            for metric, importances in self.importances.items()
            for row in sorted(importances, key=lambda row: -math.inf if row.mean is None else row.mean, reverse=True)
        ]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request, and what to make of its answer."""

    method: str
    path: str
    parse: Callable[[Any], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    content: bytes = b""
    media_type: str = ""

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        headers = {"Content-Type": self.media_type} if self.media_type else {}
        return http.build_request(self.method, self.path, params=self.params, content=self.content, headers=headers)

    def answer(self, response: httpx.Response) -> T:
        if response.is_success:
            return self.parse(orjson.loads(response.content) if response.content else None)
        raise _error(response)


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
        return self._do(_models())

    def model(self, name: str) -> dict[str, Any]:
        """Everything known of one model."""
        return self._do(_model(name))

    def predict(
        self, model: str, picture: Picture | None = None, *, rows: Any = None, columns: Any = None
    ) -> list[Any]:
        """What the model itself says, of a picture or of rows."""
        return self._do(_predictions(model, picture, rows, columns))

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
        return self._do(_picture(model, picture, method, options))

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
        return self._do(_table(model, method, rows, labels, columns, options))

    def _do(self, call: _Call[T]) -> T:
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
        return await self._do(_models())

    async def model(self, name: str) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._do(_model(name))

    async def predict(
        self, model: str, picture: Picture | None = None, *, rows: Any = None, columns: Any = None
    ) -> list[Any]:
        """As `Client.predict`."""
        return await self._do(_predictions(model, picture, rows, columns))

    async def explain_picture(
        self, model: str, picture: Picture, method: str = "gradcam", **options: Any
    ) -> PictureExplanation:
        """As `Client.explain_picture`."""
        return await self._do(_picture(model, picture, method, options))

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
        return await self._do(_table(model, method, rows, labels, columns, options))

    async def _do(self, call: _Call[T]) -> T:
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


# ---- requests -----------------------------------------------------------------------------------------------------


def _models() -> _Call[list[dict[str, Any]]]:
    return _Call("GET", "/v1/models", lambda document: list(document["models"]))


def _model(name: str) -> _Call[dict[str, Any]]:
    return _Call("GET", _path(name), dict)


def _predictions(model: str, picture: Picture | None, rows: Any, columns: Any) -> _Call[list[Any]]:
    path = _path(model, "predictions")
    if picture is not None:
        content, media_type = _file(picture)
    else:
        content, media_type = _json(_rows(rows, columns)), "application/json"
    return _Call("POST", path, lambda document: list(document["predictions"]), {}, content, media_type)


def _picture(model: str, picture: Picture, method: str, options: Mapping[str, Any]) -> _Call[PictureExplanation]:
    content, media_type = _file(picture)
    params = {name: value for name, value in options.items() if value is not None}
    return _Call("POST", _path(model, "explanations", method), _picture_explanation, params, content, media_type)


def _table(
    model: str, method: str, rows: Any, labels: Any, columns: Sequence[str] | None, options: Mapping[str, Any]
) -> _Call[TableExplanation]:
    document = _rows(rows, columns) | {name: value for name, value in options.items() if value is not None}
    if labels is not None:
        document["labels"] = np.asarray(labels).tolist()
    content = _json(document) if document else b""
    media_type = "application/json" if content else ""
    return _Call("POST", _path(model, "explanations", method), _table_explanation, {}, content, media_type)


def _path(model: str, *parts: str) -> str:
    return "/".join(("/v1/models", *(quote(part, safe="") for part in (model, *parts))))


def _file(picture: Picture) -> tuple[bytes, str]:
    content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    return content, next((kind for magic, kind in _MAGIC if content.startswith(magic)), "application/octet-stream")


def _rows(rows: Any, columns: Sequence[str] | None) -> dict[str, Any]:
    """The keys of the JSON document that hold the table."""
    if rows is None:
        return {}
    if hasattr(rows, "columns"):  # a DataFrame
        columns = list(map(str, rows.columns)) if columns is None else columns
        rows = rows.to_numpy()
    if isinstance(rows, np.ndarray):
        rows = rows.tolist() if rows.dtype.hasobject else np.ascontiguousarray(rows)
    table = {"rows": rows}
    return table if columns is None else table | {"columns": list(columns)}


def _json(document: Mapping[str, Any]) -> bytes:
    """JSON with NaN, and pandas' own missing value, as null."""
    return orjson.dumps(document, default=_missing, option=orjson.OPT_SERIALIZE_NUMPY)


def _missing(value: object) -> None:
    if type(value).__name__ not in {"NAType", "NaTType"}:
        raise TypeError(f"a cell of type {type(value).__name__} is neither number, text nor a missing value")


# ---- answers ------------------------------------------------------------------------------------------------------


def _picture_explanation(document: Mapping[str, Any]) -> PictureExplanation:
    return PictureExplanation(
        document["method"],
        tuple(ClassScore(**prediction) for prediction in document["predictions"]),
        tuple(_heatmap(explanation) for explanation in document["explanations"]),
        document["gradient"]["source"],
        tuple(document["warnings"]),
        document,
    )


def _heatmap(explanation: Mapping[str, Any]) -> Heatmap:
    layer, values = explanation["layer"], explanation.get("values")
    return Heatmap(
        ClassScore(**explanation["target"]),
        layer and layer["name"],
        layer and tuple(layer["shape"]),
        explanation["maximum"],
        base64.b64decode(explanation["heatmap"]),
        base64.b64decode(explanation["overlay"]),
        None if values is None else np.asarray(values, np.float32),
    )


def _table_explanation(document: Mapping[str, Any]) -> TableExplanation:
    importances = {
        metric: tuple(
            Importance(
                row["feature"],
                row["mean"],
                row["std"],
                row["standard_error"],
                tuple(row["ci95"] or (None, None)),
                np.asarray(row["values"], np.float64),
            )
            for row in rows
        )
        for metric, rows in document["importances"].items()
    }
    ranking = {metric: tuple(features) for metric, features in document["ranking"].items()}
    warnings = tuple(document["warnings"])
    return TableExplanation(
        document["method"], document["baseline"], importances, ranking, document["n_rows"], warnings, document
    )


def _error(response: httpx.Response) -> ServiceError:
    """The problem that the service tells; where something else answered, its status."""
    try:
        problem = orjson.loads(response.content)
        return ServiceError(
            response.status_code, problem["code"], problem["title"], problem["detail"], problem["request_id"]
        )
    except (orjson.JSONDecodeError, KeyError, TypeError):
        reason = f"The answer was {response.status_code} {response.reason_phrase}, and not one of this service."
        return ServiceError(response.status_code, "unknown", response.reason_phrase, reason, "")


def _pixels(png: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)))
