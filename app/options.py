"""What a caller may set, method by method: one pydantic model a method family, for query strings and JSON bodies alike.

The web process uses them for the query string and for OpenAPI, a worker for the keys of a JSON body. Only the wire
knows pydantic; explainers get plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import BadParameter

Colormap = Literal["turbo", "viridis", "inferno", "jet", "gray"]


class Options(BaseModel):
    """Base of all options: unknown keys are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Chosen = TypeVar("Chosen", bound=Options)


def checked(model: type[Chosen], given: Mapping[str, Any]) -> Chosen:
    """The options that a caller gave, for use in a worker.

    Raises:
        BadParameter: a key is unknown, or a value out of range.
    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        finding = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in finding["loc"])[:100] or "the body"
        raise BadParameter(
            f"{place}: {finding['msg'][:200]}. GET /docs shows the parameters and their ranges."
        ) from None


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


class LayerOptions(PictureOptions):
    """What the class activation maps take."""

    layer: Annotated[str | None, Field(description="Layer to explain; default: the model's default layer.")] = None
    aug_smooth: Annotated[
        bool,
        Field(description="Average over six runs: the picture and its mirror image, each at 0.9, 1.0 and 1.1 times."),
    ] = False
    eigen_smooth: Annotated[
        bool, Field(description="Keep only the first principal component of the weighted activations.")
    ] = False
