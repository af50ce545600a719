"""The OpenAPI document: what FastAPI derives from the routes, made exact where it guesses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from onnxplain.facts import errors
from onnxplain.settings import Settings
from onnxplain.web.around.access import open_to_all
from onnxplain.web.problems import documented
from onnxplain.web.schemas import Problem

DESCRIPTION = """\
Explains any registered ONNX model: permutation importance for a table, Grad-CAM and its family for a picture, computed in
ONNX Runtime from nothing but the model file.

Every operation here runs as it stands on a demo model: open it and press *Execute*. To get a picture rather than JSON,
choose `image/png` as the response's media type; to get a table, `text/csv`. Errors are problem details (RFC 9457) whose
`detail` says what was expected, what came, and what to do.
"""

TAGS = [
    {"name": "Models", "description": "Which models there are, and what they predict."},
    {"name": "Explain a picture", "description": "Where in a picture the evidence for a class lies."},
    {"name": "Explain a table", "description": "How much each column matters."},
    {"name": "Operations", "description": "Health, limits and metrics."},
]

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service wants one."},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key in a header of its own.",
    },
}
_CHANGING = ("put", "delete")


def document(app: FastAPI, settings: Settings, *, everything: bool = False) -> dict[str, Any]:
    """The OpenAPI document of a service.

    Unless `everything` is asked for, what its settings turn off is left out: in Swagger UI every operation works as it
    stands.
    """
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary="Explanations for deployed ONNX models",
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        contact={"name": "The onnxplain developers"},
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/"}],
    )
    schemas = made["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for guessed in ("HTTPValidationError", "ValidationError"):
        schemas.pop(guessed, None)
    made["components"]["securitySchemes"] = _KEYS
    made["security"] = [{"bearer": []}, {"header": []}] + ([] if settings.key_digests else [{}])
    if not everything and not settings.uploads:
        for operations in made["paths"].values():
            for verb in _CHANGING:
                operations.pop(verb, None)
    for path, operation in _operations(made):
        _refine(path, operation)
    used = _referenced(made["paths"], schemas)
    made["components"]["schemas"] = {name: schema for name, schema in schemas.items() if name in used}
    return made


def _referenced(part: Any, schemas: dict[str, Any]) -> set[str]:
    """Names of the schemas that a part of the document refers to, directly or through others."""
    found: set[str] = set()
    texts = [str(part)]
    while texts:
        new = set(re.findall(r"#/components/schemas/(\w+)", texts.pop())) - found
        found |= new
        texts += [str(schemas[name]) for name in new]
    return found


def _operations(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in made["paths"].items():
        for operation in operations.values():
            yield path, operation


def _refine(path: str, operation: dict[str, Any]) -> None:
    """Name the demo model as the example, say which errors any request can get, and drop what a query cannot hold."""
    example = operation.pop("x-example-model", "digits")
    for parameter in operation.get("parameters", ()):
        if parameter["name"] == "name" and parameter["in"] == "path":
            parameter["example"] = example
        elif parameter["name"] == "file":
            parameter["example"] = "7.png"
        elif parameter["name"] == "request_id":
            parameter["example"] = "my-request-1"
        parameter["schema"] = _without_null(parameter["schema"])
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    for name, field in form.get("properties", {}).items():
        form["properties"][name] = _without_null(field)
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    access = (errors.HostRefused,) if open_to_all(path) else (errors.KeyMissing, errors.KeyRefused, errors.HostRefused)
    for status, response in documented(*access).items():
        known = responses.setdefault(str(status), response)
        for media_type, content in response["content"].items():
            known["content"][media_type]["examples"] |= content["examples"]
    operation["responses"] = dict(sorted(responses.items()))
    if open_to_all(path):
        operation["security"] = []


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query string or a form leaves out what is not given; it has no null to send."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return kinds[0] | {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
