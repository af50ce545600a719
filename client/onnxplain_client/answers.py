"""What the service answers, as frozen dataclasses with NumPy arrays, and its errors as one exception."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

Array = NDArray[Any]


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


def picture_explanation(document: Mapping[str, Any]) -> PictureExplanation:
    """The answer to a picture, from its JSON."""
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


def table_explanation(document: Mapping[str, Any]) -> TableExplanation:
    """The answer to a table, from its JSON."""
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


def error_of(response: httpx.Response) -> ServiceError:
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
