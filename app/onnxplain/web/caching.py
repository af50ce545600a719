"""HTTP's side of the result cache: ETag, If-None-Match, Cache-Control, and a header that says hit or miss.

An explanation is a pure function of model, method, options and input, so its ETag is the digest of those: known before
any work is done. POST is used here because the input is a body; the request itself is safe, like a GET with a body, and
is therefore answered 304 when the caller holds the answer already.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from onnxplain.facts.tasks import Task, work_of
from onnxplain.web.around.observe import note
from onnxplain.web.cache import Answer, ResultCache, key_of
from onnxplain.web.requests import timeout_s
from onnxplain.web.state import State, state

HEADER = "X-Onnxplain-Cache"


async def answered(request: Request, task: Task, media_type: str, render: Callable[[Any, float], Response]) -> Response:
    """The kept answer to this very task, or what `render` makes of its result (and the time it began).

    `Cache-Control: no-store` neither reads nor keeps, `no-cache` makes anew and keeps.

    Raises:
        ExplainError: whatever became of the task.
    """
    service = state(request)
    note(request.scope, model=task.model.name, method=work_of(task))
    seconds = timeout_s(request, service.settings)

    async def make() -> Response:
        started = time.perf_counter()
        request_id = request.scope["request_id"]
        service.progress[request_id] = 0.0
        try:
            result = await service.pool.run(task, seconds, lambda done: service.progress.update({request_id: done}))
        finally:
            service.progress.pop(request_id, None)
        note(request.scope, timings_ms=dict(getattr(result, "timings_ms", {})))
        return render(result, started)

    response = await _cached(request, service, task, media_type, make)
    note(request.scope, cache=response.headers[HEADER])
    return response


def kept_may_do(request: Request, cache: ResultCache) -> bool:
    """Whether an answer kept here, or held by the caller, may serve this request: what only its body can tell."""
    wanted = _directives(request)
    return "no-store" not in wanted and (
        "if-none-match" in request.headers or ("no-cache" not in wanted and cache.helps)
    )


def _directives(request: Request) -> set[str]:
    return {part.strip() for part in request.headers.get("cache-control", "").lower().split(",")}


async def _cached(
    request: Request, service: State, task: Task, media_type: str, make: Callable[[], Awaitable[Response]]
) -> Response:
    directives = _directives(request)
    if not service.settings.cache or "no-store" in directives:
        response = await make()
        response.headers.update({"Cache-Control": "no-store", HEADER: "bypass"})
        return response
    key = await key_of(task, media_type)
    headers = {"ETag": f'W/"{key[:32]}"', "Cache-Control": "private, no-cache", "Vary": "Accept"}
    if _holds(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers | {HEADER: "hit"})
    kept = None if "no-cache" in directives else service.cache.get(key)
    if kept is not None:
        age = {"Age": str(int(time.monotonic() - kept.made)), HEADER: "hit"}
        return Response(kept.body, media_type=kept.media_type, headers=dict(kept.headers) | headers | age)
    response = await make()
    own = tuple((name, value) for name, value in response.headers.items() if name.startswith("x-"))
    service.cache.put(key, Answer(bytes(response.body), response.media_type or media_type, own))
    response.headers.update(headers | {HEADER: "miss"})
    return response


def _holds(if_none_match: str, etag: str) -> bool:
    """Whether one of the caller's tags is `etag`, compared weakly. `*` is not honoured: we cannot know what it holds."""
    return etag.removeprefix("W/") in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
