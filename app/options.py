"""What a caller may set, method by method: one pydantic model a method family, for query strings and JSON bodies alike.

The web process uses them for the query string and for OpenAPI, a worker for the keys of a JSON body. Only the wire
knows pydantic; explainers get plain values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.errors import BadParameter

Colormap = Literal["turbo", "viridis", "inferno", "jet", "gray"]


class Options(BaseModel):
    """Base of all options: unknown keys are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Chosen = TypeVar("Chosen", bound=Options)


def checked(model: type[Chosen], given: Mapping[str, Any]) -> Chosen:
    """The options that a caller gave, for use in a worker: JSON has types, so 0 is not false and "3" is no number.

    Raises:
        BadParameter: a key is unknown, or a value of the wrong type or out of range.
    """
    try:
        document = orjson.dumps(dict(given), option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        raise BadParameter("A parameter holds an integer beyond 64 bits. GET /docs shows the ranges.") from None
    return _validated(lambda: model.model_validate_json(document, strict=True))


def _validated(validate: Callable[[], Chosen]) -> Chosen:
    try:
        return validate()
    except ValidationError as error:
        raise BadParameter(sentence(error.errors(include_url=False, include_input=False))) from None


def from_texts(model: type[Options], texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The options that stand in texts, as forms and shells hold them: a list where the option is one, else the last.

    Raises:
        BadParameter: a name is unknown, or a value out of range.
    """
    given: dict[str, Any] = {}
    for name, values in texts.items():
        field = model.model_fields.get(name)
        plural = field is not None and "tuple" in str(field.annotation)
        given[name] = list(values) if plural else values[-1]
    return _validated(lambda: model.model_validate(given)).model_dump(exclude_unset=True, mode="json")


def sentence(details: Sequence[Any]) -> str:
    """The first three findings of pydantic as sentences, without the input itself, which may be large or hostile."""
    parts = []
    for detail in details[:3]:
        steps = (str(step) for step in detail["loc"] if step not in ("query", "body", "path"))
        place = ".".join(steps)[:100] or "the body"
        match detail["type"]:
            case "extra_forbidden":
                parts.append(f"{place} is not a parameter of this method.")
            case "missing":
                parts.append(f"{place} is missing.")
            case _:
                parts.append(f"{place}: {detail['msg'][0].lower()}{detail['msg'][1:200]}.")
    return " ".join(parts) + " GET /docs shows the parameters and their ranges."


class PictureOptions(Options):
    """What every picture method takes."""

    target: Annotated[
        tuple[str, ...] | None,
        Field(
            description="Class index or label to explain; repeat it for several. Default: the top class.",
            max_length=100,
        ),
    ] = None
    top_k: Annotated[int | None, Field(ge=1, le=100, description="Explain the k best classes in one run.")] = None
    colormap: Annotated[Colormap, Field(description="Colours of the overlay.")] = "turbo"
    alpha: Annotated[float, Field(ge=0, le=1, description="Opacity of the heatmap over the picture.")] = 0.5
    values: Annotated[bool, Field(description="Return the raw map as numbers too.")] = False
    output: Annotated[Literal["overlay", "heatmap"], Field(description="Which picture `Accept: image/png` gets.")] = (
        "overlay"
    )


class ActivationOptions(PictureOptions):
    """What the maps of a layer take that have no weights to smooth."""

    layer: Annotated[str | None, Field(description="Layer to explain; default: the model's default layer.")] = None
    aug_smooth: Annotated[
        bool,
        Field(description="Average over six runs: the picture and its mirror image, each at 0.9, 1.0 and 1.1 times."),
    ] = False


class LayerOptions(ActivationOptions):
    """What the class activation maps take."""

    eigen_smooth: Annotated[
        bool, Field(description="Keep only the first principal component of the weighted activations.")
    ] = False


Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="Seed of the random numbers; the same seed, the same map.")]


class IntegratedGradientsOptions(PictureOptions):
    """What integrated gradients take."""

    steps: Annotated[int, Field(ge=1, le=512, description="Points of the integral; more are more exact.")] = 32
    baseline: Annotated[
        Literal["mean", "black", "white"],
        Field(
            description="The picture without information: the training mean (zero after normalising), black or white."
        ),
    ] = "mean"


class SmoothGradOptions(PictureOptions):
    """What SmoothGrad takes."""

    samples: Annotated[int, Field(ge=1, le=512, description="Noisy copies of the picture.")] = 25
    noise: Annotated[
        float, Field(ge=0, le=1, description="Standard deviation of the noise, as a fraction of the picture's range.")
    ] = 0.15
    seed: Seed = 0


class OcclusionOptions(PictureOptions):
    """What occlusion takes."""

    window: Annotated[
        int | None,
        Field(ge=1, description="Side of the covering square in the model's pixels; default: an eighth of the side."),
    ] = None
    stride: Annotated[int | None, Field(ge=1, description="From one square to the next; default: half a window.")] = (
        None
    )


class RiseOptions(PictureOptions):
    """What RISE takes."""

    samples: Annotated[int, Field(ge=1, le=20_000, description="Random masks; more are less noisy.")] = 500
    grid: Annotated[int, Field(ge=2, le=64, description="Cells of a mask along a side.")] = 7
    kept: Annotated[float, Field(gt=0, lt=1, description="Probability that a cell is shown.")] = 0.5
    seed: Seed = 0


class PermutationOptions(Options):
    """What permutation importance takes, in the query string or as JSON keys."""

    label: Annotated[str | None, Field(description="The column that holds the labels.", max_length=200)] = None
    metrics: Annotated[
        tuple[str, ...] | None,
        Field(
            description="accuracy, balanced_accuracy, f1, f1_macro, roc_auc, average_precision, log_loss, brier; "
            "r2, rmse, mse, mae, mape; prediction_change needs no labels. Default: accuracy or r2.",
            min_length=1,
            max_length=20,
        ),
    ] = None
    n_repeats: Annotated[
        Annotated[int, Field(ge=1, le=10_000)] | Literal["exact"],
        Field(description="Permutations of each column; `exact` averages over all pairs of rows instead of drawing."),
    ] = 5
    seed: Annotated[int, Field(ge=0, le=2**32 - 1, description="As scikit-learn's random_state.")] = 0
    max_samples: Annotated[
        Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, le=1)],
        Field(
            description="How many rows, or which share of them, to draw without replacement.",
            union_mode="left_to_right",
        ),
    ] = 1.0
    baseline_rows: Annotated[
        Literal["drawn", "all"],
        Field(
            description="Rows to measure the baseline on where max_samples draws some; `all` is what scikit-learn does."
        ),
    ] = "drawn"
    features: Annotated[
        tuple[str, ...] | None, Field(description="Columns to permute. Default: all.", max_length=100_000)
    ] = None
    max_seconds: Annotated[
        float | None, Field(gt=0, description="Stop after about this time and answer with what is known then.")
    ] = None
    stop_when_ranked: Annotated[
        bool, Field(description="Stop repeating a column once its place in the ranking is sure.")
    ] = False

    @field_validator("max_samples", mode="before")
    @classmethod
    def _count_or_share(cls, value: Any) -> Any:
        """In a query string, too, `1` is one row and `1.0` is all of them."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value


class PermutationBody(PermutationOptions):
    """What a JSON body may hold beside rows, columns and labels."""

    sample_weight: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...] | None, Field(description="Weight of each row in the metrics.")
    ] = None
    groups: Annotated[
        dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] | None,
        Field(description="Columns to permute together, by the name of the group."),
    ] = None
