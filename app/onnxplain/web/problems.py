"""One table: domain error -> HTTP status; bodies as RFC 9457 problem details of at most 4 KiB."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from onnxplain.facts import errors
from onnxplain.web.around.observe import note
from onnxplain.web.examples import DETAILS
from onnxplain.web.schemas import Problem

log = logging.getLogger("onnxplain.web")

MEDIA_TYPE = "application/problem+json"
_MAX_DETAIL = (
    1500  # characters; at four bytes each, and as JSON escapes, still far below 4 KiB in all but contrived texts
)
_MAX_BODY = 4096

STATUS: dict[type[errors.ExplainError], int] = {
    errors.ExplainError: 500,
    errors.ModelError: 422,
    errors.ModelNotFound: 404,
    errors.LayerNotFound: 404,
    errors.MethodNotApplicable: 422,
    errors.ModelRefused: 422,
    errors.ModelConflict: 409,
    errors.ModelUnavailable: 503,
    errors.UnsupportedOperator: 422,
    errors.InputError: 422,
    errors.MalformedInput: 400,
    errors.UnsupportedMediaType: 415,
    errors.NotAcceptable: 406,
    errors.InputTooLarge: 413,
    errors.BadParameter: 422,
    errors.BadPicture: 422,
    errors.BadTable: 422,
    errors.InputRefusedByModel: 422,
    errors.TooExpensive: 422,
    errors.AccessError: 403,
    errors.KeyMissing: 401,
    errors.KeyRefused: 403,
    errors.UploadsOff: 403,
    errors.HostRefused: 421,
    errors.EngineError: 503,
    errors.Busy: 503,
    errors.DeadlineExceeded: 504,
    errors.Cancelled: 503,
    errors.InputCrashedRuntime: 422,
    errors.WorkerLost: 503,
}


def problem(
    request: Request, status: int, code: str, title: str, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """A problem+json response. `detail` is cut so that the body stays within 4 KiB."""
    note(request.scope, code=code)
    fields = {
        "type": f"urn:onnxplain:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail if len(detail) <= _MAX_DETAIL else detail[: _MAX_DETAIL - 1] + "…",
        "code": code,
        "request_id": request.scope.get("request_id", ""),
    }
    body = orjson.dumps(fields)
    if len(body) > _MAX_BODY:
        body = orjson.dumps(fields | {"detail": detail.encode("ascii", "replace").decode()[:_MAX_DETAIL]})
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of `app` as problem+json."""
    app.add_exception_handler(errors.ExplainError, _domain_error)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unforeseen)


def documented(*kinds: type[errors.ExplainError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for the errors an operation can give, with an example each."""
    responses: dict[int | str, dict[str, Any]] = {}
    everywhere: tuple[type[errors.ExplainError], ...] = (*kinds, errors.ExplainError)
    for kind in everywhere:
        entry = responses.setdefault(
            STATUS[kind],
            {
                "description": HTTPStatus(STATUS[kind]).phrase,
                "content": {MEDIA_TYPE: {"schema": _SCHEMA, "examples": {}}},
            },
        )
        entry["content"][MEDIA_TYPE]["examples"][kind.code] = {
            "summary": kind.title,
            "value": {
                "type": f"urn:onnxplain:problem:{kind.code}",
                "title": kind.title,
                "status": STATUS[kind],
                "detail": DETAILS[kind],
                "code": kind.code,
                "request_id": "4f1c2a9be0d34c6f",
            },
        }
    return responses


_SCHEMA = {"$ref": "#/components/schemas/Problem"}


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.ExplainError)
    return answer(request, error)


def answer(request: Request, error: errors.ExplainError) -> Response:
    """A domain error as an HTTP response."""
    headers = {}
    if isinstance(error, errors.Busy):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, errors.KeyMissing):
        headers["WWW-Authenticate"] = "Bearer"
    elif STATUS[type(error)] == 503:
        headers["Retry-After"] = "5"
    return problem(request, STATUS[type(error)], error.code, error.title, str(error), headers)


async def _bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem(request, 422, errors.BadParameter.code, errors.BadParameter.title, _sentence(error.errors()))


def _sentence(findings: Sequence[Any]) -> str:
    """What is wrong with a path or query, without the input itself, which may be large or hostile."""
    parts = [f"{finding['loc'][-1]}: {finding['msg'][0].lower()}{finding['msg'][1:200]}." for finding in findings[:3]]
    return " ".join(parts) + " GET /docs shows the parameters and their ranges."


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such route, method not allowed, a multipart body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    details = {
        404: "There is no such route. GET /docs shows those that exist.",
        405: f"This route does not know {request.method}. It takes {(error.headers or {}).get('Allow', 'another method')}.",
        400: "The body cannot be read. Send a multipart form with one file, as the examples in /docs show.",
    }
    return problem(
        request,
        error.status_code,
        phrase.lower().replace(" ", "_"),
        phrase,
        details.get(error.status_code, phrase + "."),
        dict(error.headers) if error.headers else None,
    )


async def _unforeseen(request: Request, error: Exception) -> Response:
    log.error("unforeseen error on %s", request.url.path, exc_info=error)
    base = errors.ExplainError
    return problem(request, 500, base.code, base.title, "Something failed inside the service. It has been logged.")


__all__ = ["MEDIA_TYPE", "STATUS", "Problem", "documented", "install", "problem"]
