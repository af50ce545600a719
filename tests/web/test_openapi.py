"""The OpenAPI document: valid, complete, and every example in it works as it stands."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from onnxplain.facts.methods import METHODS
from onnxplain.settings import Settings
from onnxplain.web.application import create_app

DOCUMENT: dict[str, Any] = create_app(Settings()).openapi()
OPERATIONS = {
    operation["operationId"]: (verb, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for verb, operation in operations.items()
}


def test_the_document_is_valid_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_every_method_is_an_operation_of_its_own() -> None:
    assert {f"explain_{name.replace('-', '_')}" for name in METHODS} <= set(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_says_what_it_does_and_how_it_fails(name: str) -> None:
    _, _, operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    assert any(status.startswith("4") for status in operation["responses"])
    for status, response in operation["responses"].items():
        if status.startswith(("4", "5")) and "application/problem+json" in response["content"]:
            assert response["content"]["application/problem+json"]["examples"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_parameter_is_described(name: str) -> None:
    _, _, operation = OPERATIONS[name]
    assert not [each["name"] for each in operation.get("parameters", ()) if not each.get("description")]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_succeeds_with_its_example_as_it_stands(name: str, service: Any) -> None:
    """What Swagger UI sends when somebody opens the operation and presses Execute."""
    verb, path, operation = OPERATIONS[name]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", parameter["example"])
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    media_types = next(
        iter(operation["responses"][status] for status in ("200", "201") if status in operation["responses"])
    )
    for accept in media_types.get("content", {"*/*": None}):
        response = service.client.request(verb, path, json=body, headers={"Accept": accept})
        assert response.is_success, response.text
        assert response.content
        assert accept in ("*/*", response.headers["content-type"].partition(";")[0])


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_json_answer_is_as_its_schema_says(name: str, service: Any) -> None:
    """Every key that an answer holds stands in its schema, and every key that the schema requires is there."""
    verb, path, operation = OPERATIONS[name]
    schema = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
    if not schema:
        pytest.skip("no JSON answer")
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", parameter["example"])
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    _conforms(service.client.request(verb, path, json=body).json(), schema, name)


def _conforms(value: Any, schema: dict[str, Any], where: str) -> None:
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) <= set(schema["properties"]), where
        assert set(schema.get("required", ())) <= set(value), where
        for key, item in value.items():
            _conforms(item, schema["properties"][key], f"{where}.{key}")
    elif isinstance(value, dict) and isinstance(schema.get("additionalProperties"), dict):
        for key, item in value.items():
            _conforms(item, schema["additionalProperties"], f"{where}.{key}")
    elif isinstance(value, list) and "items" in schema:
        for item in value[:3]:
            _conforms(item, schema["items"], f"{where}[]")
