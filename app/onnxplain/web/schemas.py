"""The wire types of the answers. Names are fixed: callers rely on them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Wire(BaseModel):
    """Base of the wire types."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Problem(Wire):
    """An error, as RFC 9457 problem details."""

    type: str = Field(description="URI of the problem type.")
    title: str
    status: int
    detail: str = Field(description="What was expected, what came, and what to do.")
    code: str = Field(description="Stable name of the error.")
    request_id: str = Field(description="Names this request in the logs.")


class ModelSummary(Wire):
    """A registered model in the list."""

    name: str
    ready: bool
    kind: Literal["image", "tabular"] | None
    task: Literal["classification", "regression"] | None
    version: str
    sha256: str


class ModelList(Wire):
    """The registered models."""

    models: list[ModelSummary]


class Tensor(Wire):
    """An input or output of the graph."""

    name: str
    dtype: str
    shape: list[int | str | None]


class Layer(Wire):
    """A tensor that a class activation map can explain."""

    name: str
    shape: list[int]
    operator: str
    default: bool
    reason: str


class Gradient(Wire):
    """Where the gradient came from."""

    source: Literal["exact", "finite-difference", "none"]
    missing_rules: list[str]
    straight_through: bool = Field(description="Quantisation steps were passed with slope one.")


class FeatureColumn(Wire):
    """A raw column of a table."""

    name: str
    dtype: str


class Preprocessing(Wire):
    """How a picture becomes the model's input."""

    size: list[int] = Field(description="Height and width.")
    mode: Literal["RGB", "BGR", "L"]
    layout: Literal["NCHW", "NHWC"]
    scale: float
    mean: list[float]
    std: list[float]
    fit: Literal["crop", "stretch", "letterbox"]
    resize_to: int | None


class ModelDetail(ModelSummary):
    """Everything known of one model."""

    description: str = ""
    refusal: str = Field(default="", description="Why the model cannot be served; empty when it is ready.")
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    score_output: str = Field(default="", description="The tensor that is explained: scores before softmax or sigmoid.")
    classes: list[str] = []
    features: list[FeatureColumn] = []
    preprocessing: Preprocessing | None = None
    layers: list[Layer] = []
    gradient: Gradient | None = None
    explainers: list[str] = []
    samples: list[str] = Field(default=[], description="Inputs to try, at /v1/models/{name}/samples/{file}.")
    warnings: list[str] = []
    forward_ms: float = Field(default=0.0, description="Measured cost of one picture, or of one row in a large batch.")
    sample_request: str = Field(default="", description="A curl line that works as it stands.")


class MethodFacts(Wire):
    """One way to explain."""

    name: str
    kind: Literal["image", "tabular"] = Field(description="Which models it fits.")
    title: str
    summary: str = Field(description="What the answer shows.")
    formula: str = Field(description="A activations, G gradient of the score, c channels, u x v places.")
    paper: str
    zero: bool = Field(
        description="Whether zero means no evidence; where not, the heatmap begins at the least value of the map."
    )
    options: dict[str, Any] = Field(description="JSON Schema of each option.")


class MethodList(Wire):
    """The methods that this service knows; a model's `explainers` are those that fit it."""

    methods: list[MethodFacts]


class ModelUsed(Wire):
    """The exact model behind an answer."""

    name: str
    version: str
    sha256: str


class ClassScore(Wire):
    """A class and its score before softmax; `probability` after it (null for a regression)."""

    index: int
    label: str
    score: float
    probability: float | None


class LayerUsed(Wire):
    """The explained layer."""

    name: str
    shape: list[int] = Field(description="Channels, height, width.")


class PictureTarget(Wire):
    """One explained class."""

    target: ClassScore
    layer: LayerUsed | None = Field(description="null for input attributions.")
    heatmap: str = Field(description="Base64 of an 8-bit grey PNG, as large as the upright picture.")
    overlay: str = Field(description="Base64 of a PNG: the heatmap over the picture.")
    maximum: float = Field(description="Greatest value of the raw map; 0 where there is no evidence at all.")
    values: list[list[float]] | None = Field(default=None, description="The raw map, not normalised.")


class PictureAnswer(Wire):
    """Where in a picture the evidence lies."""

    model: ModelUsed
    method: str
    predictions: list[ClassScore]
    explanations: list[PictureTarget]
    gradient: Gradient
    warnings: list[str]
    timings_ms: dict[str, float]


class Importance(Wire):
    """How much worse the model gets without one feature or group."""

    model_config = ConfigDict(frozen=True, extra="allow")

    feature: str = Field(description="Column, or group of columns.")
    mean: float | None = Field(
        description="Baseline minus permuted score, mean over the repeats: greater matters more."
    )
    std: float | None = Field(description="Spread over the repeats, as scikit-learn gives it.")
    standard_error: float | None = Field(
        description="Of the mean, from the repeats and from the choice of rows together."
    )
    monte_carlo_error: float | None = Field(description="The repeats' part of it: more repeats make it smaller.")
    sampling_error: float | None = Field(description="The rows' part of it: only more rows make it smaller.")
    ci95: list[float | None] | None = Field(description="95 % interval of the mean.")
    off_support: float | None = Field(
        default=None,
        description="Share of permuted rows that are unlike any real one; there the model answers outside of its experience.",
    )
    values: list[float] = Field(description="Importance in each repeat.")


class Engine(Wire):
    """Which way the predictions were made."""

    name: Literal["trees", "linear", "black-box"] = Field(
        description="`trees`: only what a permuted column can move was computed again. `linear`: in closed form, within 1e-6."
    )
    audited: int = Field(description="Predictions that were compared with ONNX Runtime's own.")


class TableAnswer(Wire):
    """How much each column matters to the model."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    model: ModelUsed
    method: str
    baseline: dict[str, float | None] = Field(description="Score of the table as it is, metric by metric.")
    importances: dict[str, list[Importance]] = Field(description="Metric by metric, in column order, groups after.")
    ranking: dict[str, list[str]] = Field(description="The same, most important first.")
    n_rows: int
    n_repeats: int | str
    seed: int
    evaluations: int = Field(description="How many tables were predicted, the baseline included.")
    suggested_groups: list[list[str]] = Field(
        default=[], description="Columns so correlated that they should be permuted together."
    )
    engine: Engine | None = None
    warnings: list[str] = Field(description="What a reader should know: correlated columns, few rows, and the like.")
    timings_ms: dict[str, float]


class PredictionAnswer(Wire):
    """What the model says: for pictures a list of classes each, for rows classes or numbers."""

    model: ModelUsed
    predictions: list[Any]
    timings_ms: dict[str, float]


class Progress(Wire):
    """How far an explanation has come."""

    request_id: str
    under_way: bool = Field(description="false before it has come and after it has been answered.")
    progress: float | None = Field(description="Share of the work that is done, 0 to 1; 0 while it waits for a worker.")


class Health(Wire):
    """Whether the service lives, or can take work."""

    status: Literal["ok", "unavailable"]
    reason: str = ""


class Limits(Wire):
    """Every limit in force."""

    workers: int = Field(description="Worker processes, one request at a time each.")
    threads_per_worker: int
    worker_memory_mib: int = Field(description="Address space of one worker; 0 for no limit.")
    worker_arena_mib: int = Field(description="Of it, what runs of models may take together; 0 for no limit.")
    queue: int = Field(description="Requests that may wait for a worker.")
    timeout_s: float = Field(description="What one request may take, the queue included.")
    max_timeout_s: float = Field(description="The most that X-Request-Timeout may ask for.")
    grace_s: float = Field(description="How long cancelled work may take to stop before its worker is killed.")
    drain_s: float = Field(description="How long running requests may take to finish when the service stops.")
    max_body_mib: int
    max_bodies_mib: int = Field(description="All bodies that are being read or worked on, together.")
    max_pixels: int
    max_cells: int
    max_cost_s: float = Field(description="The model's own measured time that one request may cost.")
    max_model_mib: int
    cache_mib: int
    header_timeout_s: float
    body_timeout_s: float
    connections: int
    uploads: bool = Field(description="Whether the admin key may change models.")
