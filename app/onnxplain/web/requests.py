"""From an HTTP request to an `ExplainTask`: media types, multipart, options, deadline. Nothing is decoded here."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from onnxplain.facts.cards import Kind
from onnxplain.facts.errors import BadParameter, MalformedInput, NotAcceptable, UnsupportedMediaType
from onnxplain.facts.options import Options, from_texts
from onnxplain.settings import Settings

JSON = "application/json"
PNG = "image/png"
CSV = "text/csv"
MULTIPART = "multipart/form-data"
OCTETS = "application/octet-stream"
BODIES: dict[Kind, tuple[str, ...]] = {
    "image": (JSON, "image/png", "image/jpeg", "image/webp"),
    "tabular": (JSON, CSV, "application/vnd.apache.parquet", "application/vnd.apache.arrow.file"),
}
FILE_FIELD: dict[Kind, str] = {"image": "image", "tabular": "table"}


def media_type(header: str) -> str:
    """`image/png` of `image/png; charset=x`, lower case; empty when there is none."""
    return header.partition(";")[0].strip().lower()


def preferred(request: Request, offered: tuple[str, ...]) -> str:
    """The media type to answer with: the one that `Accept` likes best, the first offered when it has no wish.

    Raises:
        NotAcceptable: none of the offered ones is wanted.
    """
    header = request.headers.get("accept", "*/*")
    best, best_quality = "", 0.0
    for choice in offered:
        quality = max((q for kind, q in _accepted(header) if _matches(kind, choice)), default=0.0)
        if quality > best_quality:
            best, best_quality = choice, quality
    if not best:
        raise NotAcceptable(f"This route answers {' or '.join(offered)}, not what Accept asks for. Send one of those.")
    return best


def _accepted(header: str) -> list[tuple[str, float]]:
    entries = []
    for entry in header.split(",")[:50]:
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        entries.append((kind, quality))
    return entries


def _matches(pattern: str, choice: str) -> bool:
    return pattern in ("*/*", "", choice) or (pattern.endswith("/*") and choice.startswith(pattern[:-1]))


def timeout_s(request: Request, settings: Settings) -> float:
    """Seconds this request may take: `X-Request-Timeout` within the cap, else the default.

    Raises:
        BadParameter: the header is not a positive number.
    """
    header = request.headers.get("x-request-timeout")
    if header is None:
        return settings.timeout
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not seconds > 0 or math.isinf(seconds):
        raise BadParameter("X-Request-Timeout must be a positive number of seconds, such as 30.")
    return min(seconds, settings.max_timeout)


def read_query(request: Request, model: type[Options]) -> dict[str, Any]:
    """The options in the query string, as JSON values.

    Raises:
        BadParameter: a name is unknown, or a value out of range.
    """
    query = request.query_params
    return from_texts(model, {name: query.getlist(name) for name in query})


async def read_body(
    request: Request, kind: Kind, model: type[Options], query: Mapping[str, Any]
) -> tuple[bytes, str, dict[str, Any]]:
    """The file or document a caller sent, its media type, and the options of query string and form together.

    Raises:
        UnsupportedMediaType: this kind of model does not take the media type; the sentence names those it takes.
        MalformedInput: a picture is missing, or a form has not exactly one file.
        BadParameter: a form field is unknown or out of range.
    """
    options = dict(query)
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMediaType(
            f"The body was sent with Content-Encoding {coding[:80]}. Send it uncompressed, without that header."
        )
    kind_sent = media_type(request.headers.get("content-type", ""))
    if kind_sent == MULTIPART:
        body, kind_sent, fields = await _read_form(request, FILE_FIELD[kind], kind)
        options |= from_texts(model, fields)
        return body, kind_sent, options
    body = await request.body()
    if not body:
        if kind == "image":
            raise MalformedInput(_missing_picture())
        if request.headers.get("content-length", "0").strip("0") or "transfer-encoding" in request.headers:
            raise MalformedInput(
                "The headers announce a body, but none came. Send the body, or leave Content-Length and Transfer-Encoding out to "
                "explain the registered evaluation data."
            )
        return b"", "", options
    if kind_sent not in (*BODIES[kind], OCTETS):
        raise UnsupportedMediaType(_wrong_media_type(kind_sent, kind))
    return body, kind_sent, options


@asynccontextmanager
async def form_of(request: Request, **limits: int) -> AsyncIterator[FormData]:
    """A multipart form, while its files are open.

    Raises:
        MalformedInput: its text is in no charset.
    """
    try:
        form = await request.form(**limits)
    except UnicodeError:
        raise MalformedInput("The form's text cannot be read in the charset that it names. Send it as UTF-8.") from None
    try:
        yield form
    finally:
        await form.close()


async def _read_form(request: Request, field: str, kind: Kind) -> tuple[bytes, str, dict[str, Any]]:
    async with form_of(request, max_files=1, max_fields=64, max_part_size=2**20) as form:
        file = form.get(field)
        if not isinstance(file, UploadFile):
            if kind == "image" or any(isinstance(value, UploadFile) for value in form.values()):
                raise MalformedInput(f"The form has no file '{field}'. With curl: -F {field}=@FILE.")
            body, sent = b"", ""
        else:
            body, sent = await file.read(), media_type(file.content_type or "")
        fields: dict[str, Any] = {}
        for name in form:
            if name != field:
                fields[name] = [value for value in form.getlist(name) if isinstance(value, str)]
    return body, sent, fields


def _missing_picture() -> str:
    return (
        "No picture came. Send it as the body with Content-Type image/png, image/jpeg or image/webp, as a multipart file "
        "'image', or as JSON with the key 'image' in base64."
    )


def _wrong_media_type(sent: str, kind: Kind) -> str:
    came = f"as {sent[:80]}" if sent else "without a Content-Type"
    if sent == "application/x-www-form-urlencoded":
        came += ", the default of curl"
    field = FILE_FIELD[kind]
    return (
        f"The body was sent {came}. Send a form with a file '{field}' (curl -F {field}=@FILE), or name what the body is: "
        f"Content-Type {', '.join(BODIES[kind])}."
    )
