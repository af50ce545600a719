"""The frozen values that cross the process boundary: what to explain, and what came out.

A task is self-contained and picklable, so that a durable queue or a cluster could run it elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxplain.facts.cards import GradientFact

ARENA_SHARE = 0.75  # share of a worker's memory that runs may take; a larger run is refused and the rest still has room


@dataclass(frozen=True)
class WorkerLimits:
    """What one worker may use.

    Attributes:
        threads: intra-op threads of a session.
        memory_bytes: address space (RLIMIT_AS), `ARENA_SHARE` of it for what runs of models need; 0 for no limit.
        models: how many loaded models a worker keeps.
        probe: load and measure one model, optimisation off first, then exit; for files not trusted yet.
        json_logs: whether its log lines are JSON.
    """

    threads: int = 1
    memory_bytes: int = 0
    models: int = 32
    probe: bool = False
    json_logs: bool = False


@dataclass(frozen=True)
class ModelRef:
    """Which exact model a task is about; equal references mean the same bytes, manifest included.

    Attributes:
        name: as in the URL.
        path: the model's folder, or its `.onnx` file.
        sha256: of the .onnx bytes; a worker refuses to load others.
        version: for people.
        fingerprint: changes with any file of the folder, so that a new manifest is a new model.
    """

    name: str
    path: str
    sha256: str = ""
    version: str = "1"
    fingerprint: str = ""


@dataclass(frozen=True)
class TaskLimits:
    """What one request may ask of a worker.

    Attributes:
        max_pixels: of a picture.
        max_cells: rows times columns of a table.
        max_cost_ms: estimated time of the work; infinite for no limit.
    """

    max_pixels: int = 25_000_000
    max_cells: int = 20_000_000
    max_cost_ms: float = math.inf


Draw = Literal["both", "one", "none"]


@dataclass(frozen=True)
class ExplainTask:
    """Explain what a caller sent by one method.

    Attributes:
        model: the model to use.
        method: a method of `onnxplain.facts.methods.METHODS`.
        media_type: of `body`, lower case and without parameters; empty when there is no body.
        body: what the caller sent, not decoded.
        options: query parameters or form fields, as the method's options model dumped them (only those that were set).
        limits: in force for this request.
        draw: of a picture, `both` heatmap and overlay of every target, `one` PNG that the options name of the first target, or
            `none`.
    """

    model: ModelRef
    method: str
    media_type: str = ""
    body: bytes = b""
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: TaskLimits = TaskLimits()
    draw: Draw = "both"


@dataclass(frozen=True)
class PredictTask:
    """Ask the model itself about what a caller sent; fields as those of `ExplainTask`."""

    model: ModelRef
    media_type: str = ""
    body: bytes = b""
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: TaskLimits = TaskLimits()


@dataclass(frozen=True)
class ExplainerFileTask:
    """Put the model and the maps of a method into one ONNX file."""

    model: ModelRef
    method: str = "gradcam"


@dataclass(frozen=True)
class InspectTask:
    """Load the model and tell its card."""

    model: ModelRef


@dataclass(frozen=True)
class WarmTask:
    """Load the model before it is asked for."""

    model: ModelRef


@dataclass(frozen=True)
class ForgetTask:
    """Give back the memory of a model that is not served any more."""

    model: ModelRef


Sent = ExplainTask | PredictTask
Task = Sent | ExplainerFileTask | InspectTask | WarmTask | ForgetTask


def work_of(task: Task) -> str:
    """What kind of work a task is, as logs and measured costs name it."""
    match task:
        case ExplainTask():
            return task.method
        case PredictTask():
            return "predictions"
        case ExplainerFileTask():
            return "explainer-model"
        case InspectTask():
            return "inspect"
        case WarmTask():
            return "warm"
        case ForgetTask():
            return "forget"


@dataclass(frozen=True)
class Prediction:
    """A class and its score before softmax; `probability` after it, None for a regression."""

    index: int
    label: str
    score: float
    probability: float | None


@dataclass(frozen=True)
class Heatmap:
    """One explained target. `heatmap` and `overlay` are PNG bytes as large as the upright picture.

    `values` is the raw map, `[h][w]` float32; `maximum` its greatest value; `layer` is None for input attributions.
    """

    target: Prediction
    layer_name: str | None
    layer_shape: tuple[int, ...] | None
    maximum: float
    heatmap: bytes | None = None
    overlay: bytes | None = None
    values: list[list[float]] | None = None


@dataclass(frozen=True)
class PictureExplanation:
    """What a picture method found. `timings_ms` has `decode`, `run`, `render`."""

    predictions: tuple[Prediction, ...]
    explanations: tuple[Heatmap, ...]
    gradient: GradientFact
    timings_ms: Mapping[str, float]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Importance:
    """How much a metric falls when a feature is permuted; numbers that are not known are None.

    Attributes:
        feature: a column, or a group of columns.
        mean: over the repeats.
        std: of the repeats.
        standard_error: of the mean, both sources of chance together.
        ci95: the interval that holds the true importance in 95 of 100 tables.
        monte_carlo_error: the part of the standard error that comes from the choice of permutations.
        sampling_error: the part that comes from the choice of rows.
        off_support: share of permuted rows unlike any row of the table.
        values: the importance in each repeat that ran.
    """

    feature: str
    mean: float | None
    std: float | None
    standard_error: float | None
    ci95: tuple[float | None, float | None]
    monte_carlo_error: float | None
    sampling_error: float | None
    off_support: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class PermutationExplanation:
    """What permutation importance found, under the names that stand in the JSON answer; mappings are by metric.

    Attributes:
        baseline: the metric of the unpermuted table, losses positive.
        importances: in column order, groups behind.
        ranking: the features, the most important first.
        n_rows: rows that were used.
        n_repeats: as asked for.
        seed: as asked for.
        evaluations: tables that were scored.
        warnings: what a reader should know before trusting the numbers.
        suggested_groups: columns that stand for one another.
        engine: how permuted rows were predicted.
        timings_ms: `decode` and `run`.
    """

    baseline: Mapping[str, float]
    importances: Mapping[str, tuple[Importance, ...]]
    ranking: Mapping[str, tuple[str, ...]]
    n_rows: int
    n_repeats: int | str
    seed: int
    evaluations: int
    warnings: tuple[str, ...]
    suggested_groups: tuple[tuple[str, ...], ...]
    engine: Mapping[str, Any] | None
    timings_ms: Mapping[str, float]


@dataclass(frozen=True)
class Predictions:
    """Model answers: one list of `Prediction` a picture or row (classification, best first), or floats (regression)."""

    rows: list[Any]
    timings_ms: Mapping[str, float]


@dataclass(frozen=True)
class ModelFile:
    """A generated ONNX file."""

    content: bytes


TableExplanation = PermutationExplanation  # of any table method
Explanation = PictureExplanation | TableExplanation | Predictions | ModelFile
