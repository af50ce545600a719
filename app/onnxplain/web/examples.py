"""The examples that Swagger UI, the model cards and the documents show; each runs as it stands on a demo model."""

from __future__ import annotations

import base64
from importlib.resources import files
from typing import Any

from onnxplain.facts import errors
from onnxplain.facts.cards import Kind, ModelCard
from onnxplain.facts.methods import METHODS, Method
from onnxplain.facts.options import Options, PermutationBody, schemas

PICTURE_MODEL = "digits"
TABLE_MODEL = "breast-cancer"
TABLE_REQUEST: dict[str, Any] = {"metrics": ["accuracy"], "n_repeats": 5, "seed": 0}

# What any route that hands work to a worker can answer.
TASK_ERRORS: tuple[type[errors.ExplainError], ...] = (
    errors.MalformedInput,
    errors.ModelNotFound,
    errors.NotAcceptable,
    errors.InputTooLarge,
    errors.UnsupportedMediaType,
    errors.BadParameter,
    errors.BadPicture,
    errors.BadTable,
    errors.TooExpensive,
    errors.InputCrashedRuntime,
    errors.ModelUnavailable,
    errors.Busy,
    errors.WorkerLost,
    errors.DeadlineExceeded,
)


# What a caller reads, one example an error.
DETAILS: dict[type[errors.ExplainError], str] = {
    errors.ExplainError: "Something failed inside the service. It has been logged.",
    errors.ModelNotFound: "No model is registered under this name. Known models: breast-cancer, diabetes, digits, shapes.",
    errors.LayerNotFound: "The model has no layer 'conv9' to explain. Its last ones are: relu_6, add_158, relu_8.",
    errors.MethodNotApplicable: "gradcam explains pictures, but model 'diabetes' takes tables. Use one of: permutation-importance.",
    errors.ModelRefused: "The file is not an ONNX model: its bytes are not a protobuf message; export it again.",
    errors.ModelConflict: "Model 'digits' is being replaced by another request. Try again in a moment.",
    errors.ModelUnavailable: "Model 'digits' crashed its runtime 3 times within 60 s and is paused. Other models are "
    "served; look at the inputs that were sent, then try again in a minute.",
    errors.UnsupportedOperator: "No gradient rule for operator NonMaxSuppression at node '/nms'. Explain a later layer, or choose a "
    "method that needs no gradient.",
    errors.MalformedInput: "The PNG file cannot be decoded: it is incomplete or damaged. Send the whole file as it was saved.",
    errors.UnsupportedMediaType: "The body was sent as application/x-www-form-urlencoded, the default of curl. Send a "
    "form with a file 'image' (curl -F image=@FILE), or name what the body is: Content-Type application/json, image/png, image/jpeg, "
    "image/webp.",
    errors.NotAcceptable: "This route answers application/json or image/png, not what Accept asks for. Send one of those.",
    errors.InputTooLarge: "The picture has 30000 x 30000 pixels; at most 25000000 are taken. Send a smaller one.",
    errors.BadParameter: "alpha must be a number from 0 to 1. GET /docs shows the parameters and their ranges.",
    errors.BadPicture: "The picture is animated, and an explanation is of one picture. Send a single frame.",
    errors.BadTable: "The table has 29 columns; the model takes 30. GET /v1/models/breast-cancer lists its features.",
    errors.InputRefusedByModel: "The model cannot run on this input. Check shapes and values against GET /v1/models/digits.",
    errors.TooExpensive: "This would take about 3,120 s of computing (100,000 rows, 3,100 permuted copies), more than the 600 s that "
    "one request may; send fewer rows, set max_samples, features or n_repeats, or max_seconds.",
    errors.KeyMissing: "Send an API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    errors.KeyRefused: "This key does not allow this. Send one that does.",
    errors.UploadsOff: "Models cannot be changed over HTTP here. Set ONNXPLAIN_UPLOADS=true and an admin key to allow it.",
    errors.HostRefused: "This service does not answer for the host in this request. Use the address it listens on, or name the host "
    "in ONNXPLAIN_ALLOWED_HOSTS.",
    errors.Busy: "All 2 workers are at work and 16 requests wait. Try again in 3 s.",
    errors.DeadlineExceeded: "The work was not done within 60 s and was stopped. Ask for less (fewer rows, repeats or samples), or "
    "allow more time with X-Request-Timeout.",
    errors.Cancelled: "The service is stopping. Try again in a moment; another instance may answer.",
    errors.InputCrashedRuntime: "Running model 'digits' on this input crashed the native runtime. Only this answer is lost. Check the "
    "input for values that the model cannot take, such as a division of the smallest integer by -1.",
    errors.WorkerLost: "The worker ended before it answered, perhaps for lack of memory, and was replaced. Try again, with a smaller "
    "input if it happens twice.",
}


def picture_base64() -> str:
    """A small PNG of a handwritten digit."""
    return base64.b64encode((files("onnxplain") / "static" / "examples" / "digit.png").read_bytes()).decode()


def explanation_request(method: Method) -> dict[str, Any]:
    """OpenAPI: what an explanation takes, with the demo model as the example of `name`."""
    if method.kind == "image":
        body = _operation(PICTURE_MODEL, _picture_content(method.options), required=True)
    else:
        body = _operation(TABLE_MODEL, _table_content(method.options, PermutationBody), required=False)
    return {"parameters": _query(method.options), **body}


def _query(options: type[Options]) -> list[dict[str, Any]]:
    """The options as parameters of a query string; those that are lists may be repeated."""
    found = schemas(options)
    return [
        {"name": name, "in": "query", "description": schema.pop("description"), "schema": schema}
        for name, schema in found.items()
    ]


def prediction_body() -> dict[str, Any]:
    """OpenAPI: what a prediction takes, a picture or a table."""
    picture, table = _picture_content(Options), _table_content(Options, Options)
    merged = {**table, **picture}
    merged["application/json"] = {
        "schema": {"anyOf": [picture["application/json"]["schema"], table["application/json"]["schema"]]},
        "example": picture["application/json"]["example"],
    }
    # One form with the fields of both: for a choice of two, Swagger UI would have no button that picks a file.
    forms = [content["multipart/form-data"]["schema"]["properties"] for content in (picture, table)]
    merged["multipart/form-data"] = {
        "schema": {"type": "object", "properties": forms[0] | forms[1], "additionalProperties": False}
    }
    return _operation(PICTURE_MODEL, merged, required=False)


def model_body() -> dict[str, Any]:
    """OpenAPI: what registering a model takes."""
    file = {"type": "string", "format": "binary"}
    properties = {
        "model": {**file, "description": "The .onnx file, all weights inside."},
        "manifest": {**file, "description": "model.toml, if the graph does not say everything."},
    }
    schema = {"type": "object", "properties": properties, "required": ["model"], "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _operation(model: str, content: dict[str, Any], *, required: bool) -> dict[str, Any]:
    # `x-example-model` is taken out again when the document is made: it becomes the example of the path's `name`.
    return {"requestBody": {"required": required, "content": content}, "x-example-model": model}


def _picture_content(options: type[Options]) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    schema, document = _json_schema(options), _json_schema(options, null=True)
    image = {"type": "string", "format": "byte", "description": "Base64 of a PNG, JPEG or WebP file."}
    form = {**schema, "properties": {"image": {"type": "string", "format": "binary"}, **schema["properties"]}}
    return {
        "application/json": {
            "schema": {**document, "properties": {"image": image, **document["properties"]}, "required": ["image"]},
            "example": {"image": picture_base64()},
        },
        "multipart/form-data": {"schema": {**form, "required": ["image"]}},
        "image/png": binary,
        "image/jpeg": binary,
        "image/webp": binary,
    }


def _table_content(options: type[Options], body: type[Options]) -> dict[str, Any]:
    """`options` stand in query and form, `body` in JSON, where nested values have a place."""
    schema, document = _json_schema(options), _json_schema(body, null=True)
    binary = {"schema": {"type": "string", "format": "binary"}}
    rows = {
        "description": "Lists in the order of `columns`, or objects by column; null is a missing value.",
        "type": "array",
        "items": {"anyOf": [{"type": "array", "items": {}}, {"type": "object"}]},
    }
    strings = {"type": "array", "items": {"type": "string"}}
    table = {
        "rows": rows,
        "columns": strings,
        "labels": {"type": "array", "items": {}, "description": "The true class or value of every row."},
    }
    return {
        "application/json": {
            "schema": {**document, "properties": {**table, **document["properties"]}},
            "example": TABLE_REQUEST if schema["properties"] else {},
        },
        "text/csv": {"schema": {"type": "string"}},
        "application/vnd.apache.parquet": binary,
        "application/vnd.apache.arrow.file": binary,
        "multipart/form-data": {
            "schema": {
                **schema,
                "properties": {"table": {"type": "string", "format": "binary"}, **schema["properties"]},
            }
        },
    }


def _json_schema(options: type[Options], *, null: bool = False) -> dict[str, Any]:
    """The options as keys of a body. Defaults are told, not declared: a generated client would send them, over the query's."""
    properties = {}
    for name, schema in schemas(options, null=null).items():
        default = schema.pop("default", None)
        if default is not None:
            schema["description"] += f" Default: {str(default).lower()}."
        properties[name] = schema
    return {"type": "object", "properties": properties, "additionalProperties": False}


def curl(name: str, card: ModelCard, base_url: str) -> str:
    """A curl line that works as it stands, run in the folder that holds `models/`."""
    method = card.explainers[0] if card.explainers else _first_method(card.kind)
    url = f"{base_url}/v1/models/{name}/explanations/{method}"
    if card.kind == "image":
        sample = next((file for file in card.samples if file.endswith((".png", ".jpg", ".webp"))), "")
        picture = f"models/{name}/samples/{sample}" if sample else "picture.png"
        return f"curl -s -F image=@{picture} -H 'Accept: image/png' -o heatmap.png '{url}'"
    if card.tabular and card.tabular.evaluation_data:
        return f"curl -s -X POST '{url}'"
    return f"curl -s -H 'Content-Type: text/csv' --data-binary @table.csv '{url}?label=LABEL'"


def _first_method(kind: Kind) -> str:
    return next(method.name for method in METHODS.values() if method.kind == kind)
