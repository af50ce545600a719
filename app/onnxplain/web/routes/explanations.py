"""One route a method: `POST /v1/models/{name}/explanations/{method}`, each an operation of its own in OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from onnxplain.facts import errors
from onnxplain.facts.cards import Kind, ModelCard
from onnxplain.facts.documents import importances_csv, picture_document, table_document
from onnxplain.facts.methods import METHODS, Method
from onnxplain.facts.tasks import Draw, ExplainTask, ModelRef, PictureExplanation, TableExplanation
from onnxplain.web import examples
from onnxplain.web.caching import answered
from onnxplain.web.problems import documented
from onnxplain.web.requests import CSV, JSON, PNG, preferred, read_body, read_query
from onnxplain.web.routes.models import ModelName, json_answer, with_total
from onnxplain.web.schemas import PictureAnswer, TableAnswer
from onnxplain.web.state import state

router = APIRouter()

_ANSWERS: dict[Kind, tuple[str, ...]] = {"image": (JSON, PNG), "tabular": (JSON, CSV)}


def _handler(method: Method) -> Callable[..., Awaitable[Response]]:
    async def explain(request: Request, name: ModelName) -> Response:
        query = read_query(request, method.options)
        service = state(request)
        ref, card = service.registry.ready(name)
        wanted = preferred(request, _ANSWERS[method.kind])
        _refuse_other_kind(method, card)
        body, sent, given = await read_body(request, method.kind, method.options, query)

        def render(answer: PictureExplanation | TableExplanation, started: float) -> Response:
            timings_ms = with_total(answer.timings_ms, started)
            if isinstance(answer, PictureExplanation):
                if wanted == PNG:
                    return _picture(ref, method, answer)
                return json_answer(picture_document(ref, method.name, answer, timings_ms))
            if wanted == CSV:
                return _csv(ref, method, answer)
            return json_answer(table_document(ref, method.name, answer, timings_ms))

        draw: Draw = "one" if wanted == PNG else "both"
        task = ExplainTask(ref, method.name, sent, body, given, service.settings.limits(), draw)
        return await answered(request, task, wanted, render)

    explain.__name__ = "explain_" + method.name.replace("-", "_")
    return explain


def _refuse_other_kind(method: Method, card: ModelCard) -> None:
    if method.kind != card.kind:
        takes = {"image": "pictures", "tabular": "tables"}
        raise errors.MethodNotApplicable(
            f"{method.name} explains {takes[method.kind]}, but model '{card.name}' takes {takes[card.kind]}. "
            f"Use one of: {', '.join(card.explainers)}."
        )


def _picture(ref: ModelRef, method: Method, answer: PictureExplanation) -> Response:
    """The first explanation as a PNG; what JSON would say stands in headers, percent-encoded."""
    first = answer.explanations[0]
    headers = {
        "X-Onnxplain-Model": ref.name,
        "X-Onnxplain-Sha256": ref.sha256,
        "X-Onnxplain-Method": method.name,
        "X-Onnxplain-Target": str(first.target.index),
        "X-Onnxplain-Label": quote(first.target.label, safe=" "),
        "X-Onnxplain-Score": f"{first.target.score:.6g}",
        "X-Onnxplain-Gradient": answer.gradient.source,
    }
    if first.target.probability is not None:
        headers["X-Onnxplain-Probability"] = f"{first.target.probability:.6g}"
    if first.layer_name is not None:
        headers["X-Onnxplain-Layer"] = quote(first.layer_name, safe="/:.")
    return Response(first.overlay or first.heatmap, media_type=PNG, headers=headers)


def _csv(ref: ModelRef, method: Method, answer: TableExplanation) -> Response:
    """The importances alone, as a table; what else JSON would say stands in headers."""
    headers = {
        "X-Onnxplain-Model": ref.name,
        "X-Onnxplain-Sha256": ref.sha256,
        "X-Onnxplain-Method": method.name,
    }
    return Response(importances_csv(answer), media_type=CSV, headers=headers)


_TAGS = {"image": "Explain a picture", "tabular": "Explain a table"}

for _method in METHODS.values():
    _responses = documented(*examples.TASK_ERRORS, errors.MethodNotApplicable, errors.NotAcceptable)
    if _method.kind == "image":
        _responses = documented(
            *examples.TASK_ERRORS,
            errors.MethodNotApplicable,
            errors.NotAcceptable,
            errors.LayerNotFound,
            errors.UnsupportedOperator,
        )
        _responses[200] = {"content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}
    else:
        _responses[200] = {"content": {CSV: {"schema": {"type": "string"}}}}
    router.add_api_route(
        f"/v1/models/{{name}}/explanations/{_method.name}",
        _handler(_method),
        methods=["POST"],
        tags=[_TAGS[_method.kind]],
        summary=_method.title,
        description=f"{_method.summary}\n\n`{_method.formula}` ({_method.paper})",
        operation_id="explain_" + _method.name.replace("-", "_"),
        response_model=PictureAnswer if _method.kind == "image" else TableAnswer,
        responses=_responses,
        openapi_extra=examples.explanation_request(_method),
    )
