"""create_app(settings): wiring only. Importing this module does nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

from onnxplain import __version__
from onnxplain.facts.tasks import WorkerLimits
from onnxplain.registry.registry import Registry
from onnxplain.registry.store import Store
from onnxplain.settings import MEBIBYTE, Settings
from onnxplain.web import openapi, problems
from onnxplain.web.around.access import Access
from onnxplain.web.around.edge import BodyLimit, CancelOnDisconnect, RequestIdentity
from onnxplain.web.around.observe import Observe
from onnxplain.web.around.shedding import Shed
from onnxplain.web.around.tracing import Tracer
from onnxplain.web.cache import ResultCache
from onnxplain.web.metrics import Metrics
from onnxplain.web.routes import explanations, health, methods, models
from onnxplain.web.state import State
from onnxplain.workers.pool import Pool, PoolLimits

log = logging.getLogger("onnxplain")

_STATIC = files("onnxplain") / "static"


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service as an ASGI application. Workers start with its lifespan and end with it."""
    settings = settings or Settings()
    instruments = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = Pool(
            PoolLimits(
                workers=settings.workers,
                queue=settings.waiting,
                grace_s=settings.grace,
                worker=WorkerLimits(settings.threads, settings.worker_memory * MEBIBYTE, json_logs=settings.json_logs),
            )
        )
        registry = Registry(settings.models, pool, Store(settings.store_folder), settings.probe_timeout)
        service = State(settings, pool, registry, ResultCache(settings.cache * MEBIBYTE), instruments)
        instruments.watch(pool, service.cache, registry)
        app.state.service = service
        await pool.start()
        await service.registry.load()
        await pool.warm()
        service.loaded = True
        watching = asyncio.ensure_future(registry.watch(settings.watch)) if settings.watch else None
        yield
        if watching is not None:
            watching.cancel()
        service.drain()
        await pool.stop(settings.drain)

    app = FastAPI(
        title="onnxplain",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # A task's answer is made in a worker and sent as it is: FastAPI neither validates nor copies it.
        strict_content_type=False,
        # `Observe` and `Tracer` tell what there is to tell; FastAPI would look for exporters of its own at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    problems.install(app)
    for router in (models.router, methods.router, explanations.router, health.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=str(_STATIC)), name="static")
    _add_pages(app)
    app.openapi = cache(lambda: openapi.document(app, settings))  # type: ignore[method-assign] # the way FastAPI documents
    # The last one added is the outermost.
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body * MEBIBYTE,
        model_limit=settings.max_model * MEBIBYTE,
        total=settings.max_bodies * MEBIBYTE,
    )
    app.add_middleware(Shed)
    app.add_middleware(Access, settings=settings)
    app.add_middleware(Observe, metrics=instruments, tracer=Tracer.from_environment(__version__))
    app.add_middleware(RequestIdentity)
    return app


def _add_pages(app: FastAPI) -> None:
    """`/` and `/docs`, from our own files: the service works without internet."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(str(_STATIC / "index.html"))

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
