"""What is known of a model: frozen facts, without the model. They cross process and HTTP boundaries unchanged.

`onnxplain.model` writes a card when it loads a file; the registry keeps it; the API shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["image", "tabular"]
Task = Literal["classification", "regression"]
DimensionSize = int | str | None


@dataclass(frozen=True)
class TensorFact:
    """An input or output of the graph. `shape` holds sizes, symbolic names, or None where nothing is said."""

    name: str
    dtype: str
    shape: tuple[DimensionSize, ...]


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes the model's input tensor; every key as in the manifest's `[image]`."""

    size: tuple[int, int]
    mode: Literal["RGB", "BGR", "L"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    fit: Literal["crop", "stretch", "letterbox"] = "stretch"
    resize_to: int | None = None


@dataclass(frozen=True)
class Feature:
    """A raw column of a table. `dtype` is `float32`, `float64`, `int64`, `string` or `bool`: what the graph's input takes."""

    name: str
    dtype: str


@dataclass(frozen=True)
class TabularSpec:
    """The columns of a table in order, and where the registered evaluation data lie (relative to the model's folder)."""

    features: tuple[Feature, ...]
    evaluation_data: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Layer:
    """A tensor that a class activation map can explain. `shape` is (channels, height, width)."""

    name: str
    shape: tuple[int, int, int]
    operator: str = ""
    default: bool = False
    reason: str = ""


@dataclass(frozen=True)
class GradientFact:
    """Where gradients come from: `exact` (derived from the graph) or `finite-difference` (rules are missing).

    `straight_through` says that quantisation steps were passed with slope one; `missing_rules` names operator and node.
    """

    source: Literal["exact", "finite-difference", "none"] = "none"
    missing_rules: tuple[str, ...] = ()
    straight_through: bool = False


@dataclass(frozen=True)
class ModelCard:
    """Everything the service tells about a model."""

    name: str
    version: str
    sha256: str
    kind: Kind
    task: Task
    description: str
    inputs: tuple[TensorFact, ...]
    outputs: tuple[TensorFact, ...]
    score_output: str
    classes: tuple[str, ...] = ()
    image: ImageSpec | None = None
    tabular: TabularSpec | None = None
    layers: tuple[Layer, ...] = ()
    gradient: GradientFact = field(default_factory=GradientFact)
    explainers: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    forward_ms: float = 0.0  # measured cost: one picture, or one row in a large batch

    @property
    def default_layer(self) -> Layer | None:
        """The layer explained when a caller names none."""
        return next((layer for layer in self.layers if layer.default), None)
