"""What a caller may set, method by method: one frozen dataclass a method family, for query strings and JSON bodies alike.

The web process uses them for the query string and for OpenAPI, a worker for the keys of a JSON body. `onnxplain.facts.option_kinds`
reads their annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from onnxplain.facts.errors import BadParameter
from onnxplain.facts.metrics import LABEL_FREE, METRIC_NAMES
from onnxplain.facts.option_kinds import Range, UnfitError, interpreted, reader, schema, takes_list, wanted

Default = TypeVar("Default")
Chosen = TypeVar("Chosen", bound="Options")


def option(default: Default, description: str) -> Default:
    """A field of an options class: what holds when a caller says nothing, and what it means."""
    made: Default = field(default=default, metadata={"description": description})
    return made


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options, and the options of what has none."""


def checked(model: type[Chosen], given: Mapping[str, Any]) -> Chosen:
    """The options that a caller gave as JSON values.

    Raises:
        BadParameter: a key is unknown, or a value of the wrong type or out of range.
    """
    kinds, values, faults = _kinds(model), {}, []
    for name, value in given.items():
        if name not in kinds:
            faults.append(f"{name[:100]} is not a parameter of this method.")
            continue
        try:
            values[name] = reader(kinds[name])(value)
        except UnfitError:
            faults.append(f"{name} must be {wanted(kinds[name])}.")
    if faults:
        raise BadParameter(" ".join(faults[:3]) + " GET /docs shows the parameters and their ranges.")
    return model(**values)


def from_texts(model: type[Options], texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The options that stand in texts, as query strings, forms and shells hold them, as JSON values.

    A name may be repeated where the option is a list; elsewhere the last one counts.

    Raises:
        BadParameter: a name is unknown, or a value out of range.
    """
    kinds = _kinds(model)
    given: dict[str, Any] = {}
    for name, values in texts.items():
        kind = kinds.get(name, str)
        given[name] = list(values) if takes_list(kind) else interpreted(kind, values[-1])
    checked(model, given)
    return given


def schemas(model: type[Options], *, null: bool = False) -> dict[str, dict[str, Any]]:
    """Each option as JSON Schema, with its description and its default; `null` as for `schema`."""
    described = {}
    for each in fields(model):
        found = schema(_kinds(model)[each.name], null=null) | {"description": each.metadata["description"]}
        described[each.name] = found if each.default is None else found | {"default": each.default}
    return described


def _kinds(model: type[Options]) -> dict[str, Any]:
    """The kind of every option, by its name."""
    return _hints(model)  # type: ignore[arg-type] # mypy takes the hash of instances for that of their class


@cache
def _hints(model: type[Options]) -> dict[str, Any]:
    return get_type_hints(model, include_extras=True)


Colormap = Literal["turbo", "viridis", "inferno", "jet", "gray"]
Count = Annotated[int, Range(least=1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Names = tuple[str, ...]

STRENGTHS = (0.9, 1.0, 1.1)  # factors of the normalised picture in test-time augmentation

_SEED = "Seed of the random numbers; the same seed, the same map."


@dataclass(frozen=True, kw_only=True)
class PictureOptions(Options):
    """What every picture method takes."""

    target: Annotated[Names, Range(most=100)] | None = option(
        None, "Class index or label to explain; repeat it for several. Default: the top class."
    )
    top_k: Annotated[int, Range(1, 100)] | None = option(None, "Explain the k best classes in one run.")
    colormap: Colormap = option("turbo", "Colours of the overlay.")
    alpha: Annotated[float, Range(0, 1)] = option(0.5, "Opacity of the heatmap over the picture.")
    values: bool = option(False, "Return the raw map as numbers too.")
    output: Literal["overlay", "heatmap"] = option("overlay", "Which picture `Accept: image/png` gets.")


@dataclass(frozen=True, kw_only=True)
class ActivationOptions(PictureOptions):
    """What the maps of a layer take that have no weights to smooth."""

    layer: str | None = option(None, "Layer to explain; default: the model's default layer.")
    aug_smooth: bool = option(
        False, "Average over six runs: the picture and its mirror image, each at 0.9, 1.0 and 1.1 times."
    )


@dataclass(frozen=True, kw_only=True)
class LayerOptions(ActivationOptions):
    """What the class activation maps take."""

    eigen_smooth: bool = option(False, "Keep only the first principal component of the weighted activations.")


@dataclass(frozen=True, kw_only=True)
class IntegratedGradientsOptions(PictureOptions):
    """What integrated gradients take."""

    steps: Annotated[int, Range(1, 512)] = option(32, "Points of the integral; more are more exact.")
    baseline: Literal["mean", "black", "white"] = option(
        "mean", "The picture without information: the training mean (zero after normalising), black or white."
    )


@dataclass(frozen=True, kw_only=True)
class SmoothGradOptions(PictureOptions):
    """What SmoothGrad takes."""

    samples: Annotated[int, Range(1, 512)] = option(25, "Noisy copies of the picture.")
    noise: Annotated[float, Range(0, 1)] = option(
        0.15, "Standard deviation of the noise, as a fraction of the picture's range."
    )
    seed: Seed = option(0, _SEED)


@dataclass(frozen=True, kw_only=True)
class OcclusionOptions(PictureOptions):
    """What occlusion takes."""

    window: Count | None = option(
        None, "Side of the covering square in the model's pixels; default: an eighth of the side."
    )
    stride: Count | None = option(None, "From one square to the next; default: half a window.")


@dataclass(frozen=True, kw_only=True)
class RiseOptions(PictureOptions):
    """What RISE takes."""

    samples: Annotated[int, Range(1, 20_000)] = option(500, "Random masks; more are less noisy.")
    grid: Annotated[int, Range(2, 64)] = option(7, "Cells of a mask along a side.")
    kept: Annotated[float, Range(above=0, below=1)] = option(0.5, "Probability that a cell is shown.")
    seed: Seed = option(0, _SEED)


@dataclass(frozen=True, kw_only=True)
class PermutationOptions(Options):
    """What permutation importance takes, in the query string or as JSON keys."""

    label: Annotated[str, Range(most=200)] | None = option(None, "The column that holds the labels.")
    metrics: Annotated[Names, Range(1, 20)] | None = option(
        None,
        f"For classes {', '.join(METRIC_NAMES['classification'])}; for numbers {', '.join(METRIC_NAMES['regression'])}. "
        f"{LABEL_FREE} needs no labels. Default: accuracy or r2.",
    )
    n_repeats: Annotated[int, Range(1, 10_000)] | Literal["exact"] = option(
        5, "Permutations of each column; `exact` averages over all pairs of rows instead of drawing."
    )
    seed: Seed = option(0, "As scikit-learn's random_state.")
    max_samples: Count | Annotated[float, Range(above=0, most=1)] = option(
        1.0, "How many rows, or which share of them, to draw without replacement: 1 is one row, 1.0 is all of them."
    )
    baseline_rows: Literal["drawn", "all"] = option(
        "drawn", "Rows to measure the baseline on where max_samples draws some; `all` is what scikit-learn does."
    )
    features: Annotated[Names, Range(most=100_000)] | None = option(None, "Columns to permute. Default: all.")
    max_seconds: Annotated[float, Range(above=0)] | None = option(
        None, "Stop after about this time and answer with what is known then."
    )
    stop_when_ranked: bool = option(False, "Stop repeating a column once its place in the ranking is sure.")


@dataclass(frozen=True, kw_only=True)
class PermutationBody(PermutationOptions):
    """What a JSON body may hold beside rows, columns and labels."""

    sample_weight: tuple[Annotated[float, Range(least=0)], ...] | None = option(
        None, "Weight of each row in the metrics."
    )
    groups: dict[str, Annotated[Names, Range(least=1)]] | None = option(
        None, "Columns to permute together, by the name of the group."
    )
