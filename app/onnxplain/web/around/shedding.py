"""Work that no worker could take soon is refused before it is read.

Under overload most requests get nothing; what the web process spends on them, the workers lack.
"""

from __future__ import annotations

import re

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from onnxplain.facts.errors import Busy
from onnxplain.facts.methods import METHODS
from onnxplain.web.around.observe import note
from onnxplain.web.caching import kept_may_do
from onnxplain.web.problems import answer
from onnxplain.web.state import State

_TASK = re.compile(r"/v1/models/([^/]+)/(?:explanations/([^/]+)|predictions)")


class Shed:
    """Refuses a task while the queue is full, before its body is read. Lets it pass where the result cache may have the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        task = _TASK.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if task is not None:
            service: State = scope["app"].state.service
            request = Request(scope)
            try:
                if not kept_may_do(request, service.cache):
                    service.pool.refuse_crowd()
            except Busy as error:
                name, method = task[1], task[2] or "predictions"
                if service.registry.knows(name) and (method in METHODS or not task[2]):
                    note(scope, model=name, method=method)
                await answer(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
