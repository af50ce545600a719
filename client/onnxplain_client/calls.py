"""What the service is asked: each call as a request, and as what becomes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
import orjson

from onnxplain_client.answers import (
    PictureExplanation,
    TableExplanation,
    error_of,
    picture_explanation,
    table_explanation,
)

T = TypeVar("T")
Picture = str | Path | bytes

_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what to make of its answer."""

    method: str
    path: str
    parse: Callable[[Any], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    content: bytes = b""
    media_type: str = ""

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request, for either client."""
        headers = {"Content-Type": self.media_type} if self.media_type else {}
        return http.build_request(self.method, self.path, params=self.params, content=self.content, headers=headers)

    def answer(self, response: httpx.Response) -> T:
        """What the answer says.

        Raises:
            ServiceError: the service refused or failed.
        """
        if response.is_success:
            return self.parse(orjson.loads(response.content) if response.content else None)
        raise error_of(response)


def models() -> Call[list[dict[str, Any]]]:
    """Every registered model."""
    return Call("GET", "/v1/models", lambda document: list(document["models"]))


def model(name: str) -> Call[dict[str, Any]]:
    """One model."""
    return Call("GET", _path(name), dict)


def predictions(model: str, picture: Picture | None, rows: Any, columns: Any) -> Call[list[Any]]:
    """What a model says of a picture, else of rows."""
    path = _path(model, "predictions")
    if picture is not None:
        content, media_type = _file(picture)
    else:
        content, media_type = _json(_rows(rows, columns)), "application/json"
    return Call("POST", path, lambda document: list(document["predictions"]), {}, content, media_type)


def picture(model: str, picture: Picture, method: str, options: Mapping[str, Any]) -> Call[PictureExplanation]:
    """An explanation of a picture; options that are None are left to the service."""
    content, media_type = _file(picture)
    params = {name: value for name, value in options.items() if value is not None}
    return Call("POST", _path(model, "explanations", method), picture_explanation, params, content, media_type)


def table(
    model: str, method: str, rows: Any, labels: Any, columns: Sequence[str] | None, options: Mapping[str, Any]
) -> Call[TableExplanation]:
    """An explanation of a table; options that are None are left to the service."""
    document = _rows(rows, columns) | {name: value for name, value in options.items() if value is not None}
    if labels is not None:
        document["labels"] = np.asarray(labels).tolist()
    content = _json(document) if document else b""
    media_type = "application/json" if content else ""
    return Call("POST", _path(model, "explanations", method), table_explanation, {}, content, media_type)


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
