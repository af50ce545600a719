"""Which methods there are, and what each takes: the table of `onnxplain.facts.methods` for clients that build their own forms."""

from __future__ import annotations

from fastapi import APIRouter

from onnxplain.facts.methods import METHODS
from onnxplain.facts.options import schemas
from onnxplain.web.problems import documented
from onnxplain.web.schemas import MethodFacts, MethodList

router = APIRouter(tags=["Models"])


@router.get("/v1/methods", summary="List the methods", operation_id="list_methods", responses=documented())
async def list_methods() -> MethodList:
    """Every way to explain: what it shows, its formula and paper, and its options as JSON Schema."""
    return MethodList(
        methods=[
            MethodFacts(
                name=method.name,
                kind=method.kind,
                title=method.title,
                summary=method.summary,
                formula=method.formula,
                paper=method.paper,
                zero=method.zero,
                options=schemas(method.options),
            )
            for method in METHODS.values()
        ]
    )
