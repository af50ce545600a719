"""create_app(settings): wiring only. Importing this module does nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from app import __version__
from app.api import explanations, health, metrics, models, problems
from app.api.access import Access
from app.api.edge import BodyLimit, CancelOnDisconnect, RequestIdentity
from app.api.observe import Observe
from app.api.schemas import Problem
from app.api.state import State
from app.api.tracing import Tracer
from app.cache import ResultCache
from app.engine.pool import Pool, PoolLimits
from app.engine.task import WorkerLimits
from app.registry import Registry
from app.settings import MEBIBYTE, Settings
from app.store import Store

log = logging.getLogger("onnxplain")

_STATIC = files("app") / "static"
_DESCRIPTION = (
    "Explains any registered ONNX model: permutation importance for a table, Grad-CAM and its family for a picture, "
    "computed in ONNX Runtime from nothing but the model file."
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service as an ASGI application. Workers start with its lifespan and end with it."""
    settings = settings or Settings()
    instruments = metrics.Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        started = time.monotonic()
        pool = Pool(
            PoolLimits(
                workers=settings.workers,
                queue=settings.queue,
                grace_s=settings.grace,
                worker=WorkerLimits(settings.threads, settings.worker_memory * MEBIBYTE),
            )
        )
        registry = Registry(settings.models, pool, Store(settings.store_folder), settings.probe_timeout)
        service = State(settings, pool, registry, ResultCache(settings.cache * MEBIBYTE), instruments)
        instruments.watch(service)
        app.state.service = service
        await pool.start()
        await service.registry.load()
        service.loaded = True
        log.info(
            "ready on http://%s:%d with %d models",
            settings.host,
            settings.port,
            sum(model.card is not None for model in service.registry.all()),
            extra={"seconds": round(time.monotonic() - started, 2), "limits": health.limits_of(settings).model_dump()},
        )
        watching = asyncio.ensure_future(registry.watch(settings.watch)) if settings.watch else None
        yield
        if watching is not None:
            watching.cancel()
        service.drain()
        await pool.stop(settings.drain)

    app = FastAPI(
        title="onnxplain",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_tags=[
            {"name": "Models", "description": "Which models there are, and what they predict."},
            {"name": "Explain a picture", "description": "Where in a picture the evidence for a class lies."},
            {"name": "Explain a table", "description": "How much each column matters."},
            {"name": "Operations", "description": "Health and limits."},
        ],
        # A task's answer is made in a worker and sent as it is: FastAPI neither validates nor copies it.
        strict_content_type=False,
    )
    problems.install(app)
    for router in (models.router, explanations.router, health.router, metrics.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=str(_STATIC)), name="static")
    _add_pages(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign] # the way FastAPI documents
    # The last one added is the outermost.
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(BodyLimit, limit=settings.max_body * MEBIBYTE, model_limit=settings.max_model * MEBIBYTE)
    app.add_middleware(Access, settings=settings)
    app.add_middleware(Observe, metrics=instruments, tracer=Tracer.from_environment(__version__))
    app.add_middleware(RequestIdentity)
    return app


def _add_pages(app: FastAPI) -> None:
    """`/` and `/docs`, from our own files: the service works without internet."""

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="onnxplain",
            swagger_js_url="/static/swagger/swagger-ui-bundle.js",
            swagger_css_url="/static/swagger/swagger-ui.css",
            swagger_favicon_url="/static/swagger/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        )
        # Swagger UI starts from an inline script; this page alone may run one.
        page.headers["Content-Security-Policy"] = (
            "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:"
        )
        return page


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the demo model of each operation as the example of its `name`."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
    for schema in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(schema, None)
    for path in document["paths"].values():
        for operation in path.values():
            example = operation.pop("x-example-model", "digits")
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "name" and parameter["in"] == "path":
                    parameter["example"] = example
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    app.openapi_schema = document
    return document
