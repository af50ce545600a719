"""Is the service alive, can it take work, what are its limits and its figures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from onnxplain.facts import errors
from onnxplain.facts.tasks import ARENA_SHARE
from onnxplain.settings import Settings
from onnxplain.web.problems import documented
from onnxplain.web.schemas import Health, Limits, Progress
from onnxplain.web.state import state

router = APIRouter(tags=["Operations"])


@router.get("/health/live", summary="Is the process alive?", operation_id="health_live")
async def live() -> Health:
    """200 as long as the web process answers."""
    return Health(status="ok")


@router.get(
    "/health/ready",
    summary="Can it take work?",
    operation_id="health_ready",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not now; the reason is told."}},
)
async def ready(request: Request) -> Response:
    """200 when models are loaded and a worker runs, else 503 with the reason."""
    reason = state(request).not_ready()
    if reason:
        return JSONResponse({"status": "unavailable", "reason": reason}, 503, {"Retry-After": "1"})
    return JSONResponse({"status": "ok", "reason": ""})


@router.get(
    "/v1/requests/{request_id}",
    summary="How far has an explanation come?",
    operation_id="get_progress",
    responses=documented(errors.BadParameter),
)
async def progress(
    request: Request,
    request_id: Annotated[
        str,
        Path(
            pattern=r"^[A-Za-z0-9._-]{1,64}$",
            description="What was sent as `X-Request-ID` with the explanation.",
        ),
    ],
) -> Progress:
    """The share of the work that is done, while it is under way. To cancel an explanation, close its connection.

    Progress is what this instance does now: for an ID that it does not work on, `under_way` is false.
    """
    share = state(request).progress.get(request_id)
    return Progress(request_id=request_id, under_way=share is not None, progress=share)


@router.get("/v1/limits", summary="Every limit in force", operation_id="limits")
async def limits(request: Request) -> Limits:
    """What a request may cost, and how much is taken at once."""
    return limits_of(state(request).settings)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Latencies by model and method, queue, workers, crashes, refusals and cache, as Prometheus text."""
    return Response(state(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


def limits_of(settings: Settings) -> Limits:
    """Every limit in force."""
    return Limits(
        workers=settings.workers,
        threads_per_worker=settings.threads,
        worker_memory_mib=settings.worker_memory,
        worker_arena_mib=int(ARENA_SHARE * settings.worker_memory),
        queue=settings.waiting,
        timeout_s=settings.timeout,
        max_timeout_s=settings.max_timeout,
        grace_s=settings.grace,
        drain_s=settings.drain,
        max_body_mib=settings.max_body,
        max_bodies_mib=settings.max_bodies,
        max_pixels=settings.max_pixels,
        max_cells=settings.max_cells,
        max_cost_s=settings.max_cost,
        max_model_mib=settings.max_model,
        cache_mib=settings.cache,
        header_timeout_s=settings.header_timeout,
        body_timeout_s=settings.body_timeout,
        connections=settings.connections,
        uploads=settings.uploads,
    )
