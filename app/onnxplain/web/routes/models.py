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
from starlette.datastructures import UploadFile

from onnxplain.facts import errors
from onnxplain.facts.documents import predictions_document
from onnxplain.facts.options import Options
from onnxplain.facts.tasks import ExplainerFileTask, ModelFile, Predictions, PredictTask
from onnxplain.registry.registry import Registered
from onnxplain.web import examples
from onnxplain.web.caching import answered
from onnxplain.web.problems import documented
from onnxplain.web.requests import JSON, MULTIPART, OCTETS, form_of, media_type, preferred, read_body, read_query
from onnxplain.web.schemas import ModelDetail, ModelList, ModelSummary, PredictionAnswer
from onnxplain.web.state import State, state

ModelName = Annotated[
    str,
    PathParameter(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="A registered model; `GET /v1/models` lists them."
    ),
]

router = APIRouter(tags=["Models"])

_CHANGE_ERRORS = (
    errors.KeyMissing,
    errors.KeyRefused,
    errors.UploadsOff,
    errors.ModelConflict,
    errors.BadParameter,
    errors.UnsupportedMediaType,
)
_MANIFEST_BYTES = 2**20


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
    file: Annotated[
        str, PathParameter(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="As `samples` names it.")
    ],
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
async def predict(request: Request, name: ModelName) -> Response:
    """The model's answer for the same inputs as an explanation takes."""
    query = read_query(request, Options)
    preferred(request, (JSON,))
    service = state(request)
    ref, card = service.registry.ready(name)
    body, sent, given = await read_body(request, card.kind, Options, query)

    def render(answer: Predictions, started: float) -> Response:
        return json_answer(predictions_document(ref, answer, with_total(answer.timings_ms, started)))

    task = PredictTask(ref, sent, body, given, service.settings.limits())
    return await answered(request, task, JSON, render)


@router.get(
    "/v1/models/{name}/explainer.onnx",
    summary="The model and its explanation as one ONNX file",
    operation_id="get_explainer_file",
    response_class=Response,
    responses={
        200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}},
        **documented(
            errors.ModelNotFound,
            errors.MethodNotApplicable,
            errors.BadParameter,
            errors.ModelUnavailable,
            errors.Busy,
            errors.WorkerLost,
            errors.DeadlineExceeded,
        ),
    },
)
async def get_explainer_file(
    request: Request,
    name: ModelName,
    method: Annotated[str, Query(description="The heatmap in the file.", max_length=64)] = "gradcam",
) -> Response:
    """Picture tensor and class index in, scores and raw heatmap out, in any ONNX Runtime: no service is needed to run it."""
    service = state(request)
    ref, card = service.registry.ready(name)
    if card.kind != "image":
        raise errors.MethodNotApplicable(f"Explainer files hold heatmaps, but model '{name}' takes tables.")

    def render(answer: ModelFile, _: float) -> Response:
        return Response(answer.content, media_type=OCTETS)

    task = ExplainerFileTask(ref, method)
    return await answered(request, task, OCTETS, render)


@router.put(
    "/v1/models/{name}",
    summary="Register or replace a model",
    operation_id="put_model",
    response_model=ModelDetail,
    responses={
        201: {"model": ModelDetail, "description": "Registered; it was not known before."},
        **documented(*_CHANGE_ERRORS, errors.MalformedInput, errors.ModelRefused, errors.InputTooLarge),
    },
    openapi_extra=examples.model_body(),
)
async def put_model(request: Request, name: ModelName) -> Response:
    """Tries the model in a process of its own, then swaps it in at once. If it is refused, the old one stays.

    Off unless `ONNXPLAIN_UPLOADS` is set; needs the admin key. Requests under way keep the version they began with.
    """
    service = state(request)
    _require_uploads(service)
    if media_type(request.headers.get("content-type", "")) != MULTIPART:
        raise errors.UnsupportedMediaType(f"Send {MULTIPART} with a file 'model' and, if you like, a file 'manifest'.")
    async with form_of(request, max_files=2, max_fields=0) as form:
        model, manifest = form.get("model"), form.get("manifest")
        if not isinstance(model, UploadFile) or not model.size:
            raise errors.MalformedInput("The form has no file 'model'. With curl: -F model=@model.onnx.")
        if manifest is not None and (not isinstance(manifest, UploadFile) or (manifest.size or 0) > _MANIFEST_BYTES):
            raise errors.MalformedInput(
                "'manifest' must be a TOML file of at most 1 MiB. With curl: -F manifest=@model.toml."
            )
        content = await manifest.read() if isinstance(manifest, UploadFile) else b""
        registered, new = await service.registry.put(name, model.file, content)
    return json_answer(detail(registered, str(request.base_url).rstrip("/")).model_dump(), status=201 if new else 200)


@router.delete(
    "/v1/models/{name}",
    summary="Take a model out of service",
    operation_id="delete_model",
    status_code=204,
    responses=documented(*_CHANGE_ERRORS, errors.ModelNotFound),
)
async def delete_model(request: Request, name: ModelName) -> Response:
    """Requests under way are still answered. Off unless `ONNXPLAIN_UPLOADS` is set; needs the admin key."""
    service = state(request)
    _require_uploads(service)
    await service.registry.remove(name)
    return Response(status_code=204)


def _require_uploads(service: State) -> None:
    if not service.settings.uploads:
        raise errors.UploadsOff(
            "Models cannot be changed over HTTP here. Set ONNXPLAIN_UPLOADS=true and an admin key to allow it."
        )


def json_answer(document: dict[str, Any], headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """A JSON response; orjson writes dataclasses, tuples and NumPy scalars as they are, and NaN as null."""
    import orjson

    return Response(orjson.dumps(document), status, media_type=JSON, headers=headers)


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
