"""Which models there are, what is known of them, their samples, and their predictions."""

from __future__ import annotations

import mimetypes
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from app import errors
from app.answers import predictions_document
from app.api import examples
from app.api.caching import answered
from app.api.problems import documented
from app.api.requests import JSON, preferred, read_body
from app.api.schemas import ModelDetail, ModelList, ModelSummary, PredictionAnswer
from app.api.state import State, state
from app.engine.task import ExplainTask, Predictions
from app.options import Options
from app.registry import Registered

ModelName = Annotated[
    str,
    PathParameter(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="A registered model; `GET /v1/models` lists them."
    ),
]

router = APIRouter(tags=["Models"])


@router.get("/v1/models", summary="List the models", operation_id="list_models")
async def list_models(request: Request) -> ModelList:
    """Every registered model, ready or not."""
    return ModelList(models=[_summary(model) for model in state(request).registry.all()])


@router.get(
    "/v1/models/{name}",
    summary="Everything known of one model",
    operation_id="get_model",
    responses=documented(errors.ModelNotFound, errors.BadParameter),
)
async def get_model(request: Request, name: ModelName) -> ModelDetail:
    """Inputs, classes, layers that can be explained, where its gradient comes from, and a curl line to try."""
    model = state(request).registry.get(name)
    return detail(model, str(request.base_url).rstrip("/"))


@router.get(
    "/v1/models/{name}/samples/{file}",
    summary="A sample input",
    operation_id="get_sample",
    response_class=FileResponse,
    responses=documented(errors.ModelNotFound, errors.BadParameter),
)
async def get_sample(
    request: Request,
    name: ModelName,
    file: Annotated[str, PathParameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")],
) -> Response:
    """One of the files that `samples` of the model names."""
    registered = state(request).registry.get(name)
    if registered.card is None or file not in registered.card.samples:
        raise errors.ModelNotFound("The model has no sample of this name. Its card lists them under 'samples'.")
    path = Path(registered.ref.path) / "samples" / file
    return FileResponse(path, media_type=mimetypes.guess_type(file)[0] or "application/octet-stream")


@router.post(
    "/v1/models/{name}/predictions",
    summary="Ask the model itself",
    operation_id="predict",
    response_model=PredictionAnswer,
    responses=documented(*examples.TASK_ERRORS),
    openapi_extra=examples.prediction_body(),
)
async def predict(request: Request, name: ModelName, options: Annotated[Options, Query()]) -> Response:
    """The model's answer for the same inputs as an explanation takes."""
    preferred(request, (JSON,))
    service = state(request)
    ref, card = service.registry.ready(name)
    body, sent, given = await read_body(request, card.kind, Options, options)

    def render(answer: Predictions, started: float) -> Response:
        return json_answer(predictions_document(ref, answer, with_total(answer.timings_ms, started)))

    task = ExplainTask(ref, "predictions", sent, body, given, (), service.settings.limits())
    return await answered(request, task, JSON, render)


def json_answer(document: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """A JSON response; orjson writes dataclasses, tuples and NumPy scalars as they are, and NaN as null."""
    import orjson

    return Response(orjson.dumps(document), media_type=JSON, headers=headers)


def with_total(timings_ms: Any, started: float) -> dict[str, float]:
    """The worker's timings, and the total as seen here."""
    total = (time.perf_counter() - started) * 1e3
    return {name: round(ms, 3) for name, ms in timings_ms.items()} | {"total": round(total, 3)}


def _summary(model: Registered) -> ModelSummary:
    card = model.card
    return ModelSummary(
        name=model.ref.name,
        ready=card is not None,
        kind=card.kind if card else None,
        task=card.task if card else None,
        version=model.ref.version,
        sha256=model.ref.sha256,
    )


def detail(model: Registered, base_url: str) -> ModelDetail:
    """A model's card for the wire."""
    summary = _summary(model).model_dump()
    card = model.card
    if card is None:
        return ModelDetail(**summary, refusal=model.refusal)
    facts = asdict(card)
    return ModelDetail.model_validate(
        summary
        | {
            "description": card.description,
            "inputs": facts["inputs"],
            "outputs": facts["outputs"],
            "score_output": card.score_output,
            "classes": card.classes,
            "features": facts["tabular"]["features"] if card.tabular else [],
            "preprocessing": facts["image"],
            "layers": facts["layers"],
            "gradient": facts["gradient"],
            "explainers": card.explainers,
            "samples": card.samples,
            "warnings": card.warnings,
            "forward_ms": card.forward_ms,
            "sample_request": examples.curl(model.ref.name, card, base_url),
        }
    )


__all__ = ["ModelName", "State", "detail", "json_answer", "router", "with_total"]
