"""Answers as documents: the JSON of an explanation, and the CSV of a table's importances. HTTP and command line share them.

Facts stand in them as the dataclasses that they are, which orjson writes as objects.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping
from typing import Any

from onnxplain.facts.tasks import (
    Heatmap,
    ModelRef,
    PermutationExplanation,
    PictureExplanation,
    Predictions,
    TableExplanation,
)

Timings = Mapping[str, float]


def picture_document(ref: ModelRef, method: str, answer: PictureExplanation, timings_ms: Timings) -> dict[str, Any]:
    """What a picture method found, PNGs in base64."""
    return {
        "model": used(ref),
        "method": method,
        "predictions": answer.predictions,
        "explanations": [_target(heatmap) for heatmap in answer.explanations],
        "gradient": answer.gradient,
        "warnings": answer.warnings,
        "timings_ms": timings_ms,
    }


def table_document(ref: ModelRef, method: str, answer: TableExplanation, timings_ms: Timings) -> dict[str, Any]:
    """What a table method found: the fields of its answer under their own names."""
    return {"model": used(ref), "method": method, **vars(answer), "timings_ms": timings_ms}


def predictions_document(ref: ModelRef, answer: Predictions, timings_ms: Timings) -> dict[str, Any]:
    """What the model itself says."""
    return {"model": used(ref), "predictions": answer.rows, "timings_ms": timings_ms}


def importances_csv(answer: PermutationExplanation) -> str:
    """The importances as RFC 4180 CSV: a line for each metric and feature, a column a repeat."""
    rows = [(metric, each) for metric, found in answer.importances.items() for each in found]
    repeats = max((len(each.values) for _, each in rows), default=0)
    text = io.StringIO()
    writer = csv.writer(text)
    head = ("metric", "baseline", "feature", "mean", "std", "standard_error", "ci95_low", "ci95_high")
    writer.writerow([*head, *(f"repeat_{k + 1}" for k in range(repeats))])
    for metric, each in rows:
        numbers = (each.mean, each.std, each.standard_error, *each.ci95, *each.values)
        writer.writerow([metric, answer.baseline[metric], each.feature, *numbers])
    return text.getvalue()


def used(ref: ModelRef) -> dict[str, str]:
    """The `model` of an answer: which exact file made it."""
    return {"name": ref.name, "version": ref.version, "sha256": ref.sha256}


def _target(heatmap: Heatmap) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "target": heatmap.target,
        "layer": None if heatmap.layer_name is None else {"name": heatmap.layer_name, "shape": heatmap.layer_shape},
        "heatmap": base64.b64encode(heatmap.heatmap or b"").decode(),
        "overlay": base64.b64encode(heatmap.overlay or b"").decode(),
        "maximum": heatmap.maximum,
    }
    if heatmap.values is not None:
        fields["values"] = heatmap.values
    return fields
