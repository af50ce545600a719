"""What strangers send: JSON that is none, forms that are bombs, headers out of range. Always a short, clean 4xx."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import time

import httpx
import pytest
from PIL import Image
from tests.conftest import DEMO_MODELS, Service, eventually

DIGIT = (DEMO_MODELS / "digits" / "samples" / "7.png").read_bytes()
PICTURE_ROUTES = ("/v1/models/digits/explanations/gradcam", "/v1/models/digits/predictions")
TABLE_ROUTES = ("/v1/models/diabetes/explanations/permutation-importance", "/v1/models/diabetes/predictions")
ROUTES = (*PICTURE_ROUTES, *TABLE_ROUTES)
LEAKS = re.compile(rb"0x[0-9a-f]{6,}|/home|/root|/tmp|/work|Traceback|site-packages|\.py\b")

HOSTILE_JSON = {
    "empty": b"",
    "space": b" ",
    "cut": b'{"rows": [[1',
    "trailing comma": b'{"rows": [[1,]]}',
    "single quotes": b"{'rows': []}",
    "comment": b'{"rows": [] /* none */}',
    "two documents": b"{} {}",
    "NaN": b'{"rows": [[NaN]]}',
    "Infinity": b'{"rows": [[Infinity]]}',
    "-Infinity": b'{"rows": [[-Infinity]]}',
    "1e400": b'{"rows": [[1e400]]}',
    "-1e400": b'{"rows": [[-1e400]]}',
    "leading zero": b'{"rows": [[01]]}',
    "plus": b'{"rows": [[+1]]}',
    "hex": b'{"rows": [[0x10]]}',
    "5,000 digits": b'{"rows": [[' + b"9" * 5000 + b"]]}",
    "400 digits": b'{"rows": [[' + b"9" * 400 + b"]]}",
    "lone surrogate": rb'{"columns": ["\ud800"], "rows": [[1]]}',
    "lone surrogate as key": rb'{"\udfff": 1}',
    "control character": b'{"columns": ["\x01"], "rows": [[1]]}',
    "duplicate key": b'{"rows": [], "rows": []}',
    "duplicate cell": b'{"rows": [{"age": 1, "age": 2}]}',
    "UTF-16": '{"rows": [[1]]}'.encode("utf-16"),
    "UTF-16 without mark": '{"rows": [[1]]}'.encode("utf-16-le"),
    "UTF-32": '{"rows": [[1]]}'.encode("utf-32"),
    "Latin-1": '{"columns": ["é"]}'.encode("latin-1"),
    "byte order mark": b'\xef\xbb\xbf{"rows": [[1]]}',
    "overlong": b'{"columns": ["\xc0\xaf"]}',
    "nested 50": b'{"rows": ' + b"[" * 50 + b"]" * 50 + b"}",
    "nested 120": b'{"rows": ' + b"[" * 120 + b"]" * 120 + b"}",
    "nested 100,000": b"[" * 100_000,
    "nested objects": b'{"rows":' * 100_000,
    "list": b"[]",
    "number": b"1",
    "null": b"null",
    "text": b'"rows"',
    "true as cell": b'{"rows": [[true]]}',
    "ragged": b'{"rows": [[1], [1, 2]]}',
    "mixed": b'{"rows": [[1], {"a": 1}]}',
    "unknown key": b'{"rows": [[1]], "__proto__": {}}',
    "rows of nothing": b'{"rows": [[]]}',
    "text in cells": b'{"rows": [["a"]]}',
    "objects in cells": b'{"rows": [[{}]]}',
    "100,000 bad cells": b'{"rows": [' + b'["x"],' * 99_999 + b'["x"]]}',
    "image of a wrong type": b'{"image": 5}',
    "image not base64": b'{"image": "***"}',
    "image empty": b'{"image": ""}',
    "image of text": b'{"image": "' + base64.b64encode(b"hello") + b'"}',
    "image URL": b'{"image": "http://127.0.0.1/"}',
}


def _check(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) <= 4096
    assert not LEAKS.search(answer.content), answer.text
    problem = answer.json()
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["status"] == answer.status_code


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused_with_a_short_problem(service: Service, route: str, name: str) -> None:
    body = HOSTILE_JSON[name]
    if not body and "diabetes" in route:
        pytest.skip("without a body, the model's own evaluation data are explained")
    _check(service.client.post(route, content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("route", ROUTES)
def test_refusing_a_hundred_thousand_bad_cells_holds_nobody_up(service: Service, route: str) -> None:
    started = time.monotonic()
    service.client.post(route, content=HOSTILE_JSON["100,000 bad cells"], headers={"Content-Type": "application/json"})
    assert time.monotonic() - started < 1


def _form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def _part(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + content


IMAGE = _part(b"image", DIGIT, b'; filename="a.png"')
HOSTILE_FORMS = {
    "no part": _form(),
    "no boundary": DIGIT,
    "no end": b"--x\r\n" + IMAGE,
    "no file": _form(_part(b"image", b"text")),
    "two files": _form(IMAGE, IMAGE),
    "1,001 parts": _form(*[_part(b"a%d" % number, b"1") for number in range(1001)]),
    "1,001 files": _form(*[IMAGE.replace(b"image", b"f%d" % number) for number in range(1001)]),
    "unknown field": _form(IMAGE, _part(b"nonsense", b"1")),
    "field out of range": _form(IMAGE, _part(b"alpha", b"7")),
    "field not a number": _form(IMAGE, _part(b"top_k", b"many")),
    "2 MB in a field": _form(IMAGE, _part(b"layer", b"x" * 2**21)),
    "long header": _form(_part(b"image", DIGIT, b'; filename="' + b"a" * 100_000 + b'"')),
    "many headers": _form(b"A: b\r\n" * 10_000 + IMAGE),
    "preamble": b"x" * 5_000_000 + _form(IMAGE),
    "surrogate in a field": _form(IMAGE, _part(b"layer", b"\xed\xa0\x80")),
    "NUL in a field": _form(IMAGE, _part(b"layer", b"\0")),
}


@pytest.mark.parametrize("name", HOSTILE_FORMS)
def test_hostile_forms_are_refused_with_a_short_problem(service: Service, name: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    _check(service.client.post(PICTURE_ROUTES[0], content=HOSTILE_FORMS[name], headers=headers))


@pytest.mark.parametrize("filename", ["../../etc/passwd", "a\0.png", "a" * 3000, "", "é.png", "a\r\nb"])
def test_the_name_of_a_file_means_nothing(service: Service, filename: str) -> None:
    answer = service.client.post(PICTURE_ROUTES[0], files={"image": (filename or "x", DIGIT)})
    assert answer.status_code == 200


@pytest.mark.parametrize("boundary", ["", "x" * 300, '"', "a b"])
def test_a_hostile_boundary_is_refused(service: Service, boundary: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    _check(service.client.post(PICTURE_ROUTES[0], content=_form(IMAGE), headers=headers))


@pytest.mark.parametrize("charset", ["undefined", "idna", "utf-7", "rot13", "no-charset"])
def test_a_charset_of_a_form_is_read_or_refused(service: Service, charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    form = _form(IMAGE, _part(b"layer", b"\xff.." + b"a" * 70))
    _check(service.client.post(PICTURE_ROUTES[0], content=form, headers=headers))


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_refused_by_name(service: Service, coding: str) -> None:
    headers = {"Content-Type": "image/png", "Content-Encoding": coding}
    answer = service.client.post(PICTURE_ROUTES[0], content=gzip.compress(DIGIT), headers=headers)
    _check(answer)
    assert (answer.status_code, coding in answer.json()["detail"]) == (415, True)


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "1e999", "soon", "", "1,5"])
def test_a_timeout_that_is_no_positive_number_is_refused(service: Service, timeout: str) -> None:
    answer = service.client.post(PICTURE_ROUTES[0], files={"image": DIGIT}, headers={"X-Request-Timeout": timeout})
    _check(answer)
    assert answer.json()["code"] == "bad_parameter"


@pytest.mark.parametrize("sent", ["application/x-www-form-urlencoded", "text/html", "", "a" * 5000, "application/xml"])
def test_a_media_type_that_is_not_read_is_named_with_those_that_are(service: Service, sent: str) -> None:
    answer = service.client.post(PICTURE_ROUTES[0], content=DIGIT, headers={"Content-Type": sent})
    _check(answer)
    assert answer.status_code == 415
    assert "image/png" in answer.json()["detail"]


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "application/json;q=0", "nonsense"])
def test_an_answer_that_does_not_exist_is_not_acceptable(service: Service, accept: str) -> None:
    answer = service.client.post(PICTURE_ROUTES[0], files={"image": DIGIT}, headers={"Accept": accept})
    _check(answer)
    assert answer.status_code == 406


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/UPPER",
        "/v1/models/none",
        "/v1/models/digits/samples/..%2fmodel.onnx",
        "/v1/models/digits/samples/model.onnx",
        "/static/..%2f..%2fpyproject.toml",
        "/static/../main.py",
        "/v1/models/" + "a" * 5000,
        "/v1/models/%00",
        "/v1/models/%ff",
        "/nothing",
    ],
)
def test_a_path_that_leads_nowhere_is_a_problem(service: Service, path: str) -> None:
    answer = service.client.get(path)
    assert answer.status_code in {404, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert not LEAKS.search(answer.content)


def test_a_wrong_method_says_which_are_right(service: Service) -> None:
    answer = service.client.get(PICTURE_ROUTES[0])
    _check(answer)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_a_request_id_is_kept_where_it_is_sane_and_made_where_it_is_not(service: Service) -> None:
    assert service.client.get("/health/live", headers={"X-Request-ID": "abc-1.2"}).headers["x-request-id"] == "abc-1.2"
    for hostile in ("a b", "x" * 65, "<script>", ""):
        made = service.client.get("/health/live", headers={"X-Request-ID": hostile}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{16}", made)


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/models", "/nothing", "/static/swagger/swagger-ui.css"])
def test_every_answer_has_the_security_headers(service: Service, path: str) -> None:
    headers = service.client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "server" not in headers


def test_many_ranges_cost_nothing(service: Service) -> None:
    ranges = "bytes=" + ",".join(f"{start}-{start + 1}" for start in range(0, 4000, 2))
    started = time.monotonic()
    answer = service.client.get("/static/swagger/swagger-ui-bundle.js", headers={"Range": ranges})
    assert time.monotonic() - started < 0.5
    assert answer.status_code < 500


def test_a_request_is_one_line_in_the_log_with_what_it_was_about(service: Service) -> None:
    headers = {"X-Request-ID": "logged-1", "Cache-Control": "no-store"}
    service.client.post(PICTURE_ROUTES[0], files={"image": DIGIT}, headers=headers)
    eventually(lambda: [line for line in service.lines() if line.get("request_id") == "logged-1"])
    (line,) = [line for line in service.lines() if line.get("request_id") == "logged-1"]
    assert (line["model"], line["method"], line["level"]) == ("digits", "gradcam", "info")
    assert set(line["timings_ms"]) >= {"decode", "run", "render"}
    assert line["ms"] > 0


def test_metrics_count_requests_by_model_method_and_status(service: Service) -> None:
    headers = {"Content-Type": "image/png", "Cache-Control": "no-store"}
    service.client.post(PICTURE_ROUTES[0], content=DIGIT, headers=headers)
    service.client.post(PICTURE_ROUTES[0], content=b"none", headers=headers)
    text = service.client.get("/metrics").text
    assert 'onnxplain_request_seconds_count{method="gradcam",model="digits",status="200"}' in text
    assert 'onnxplain_stage_seconds_bucket{le="0.05",method="gradcam",model="digits",stage="run"}' in text
    assert re.search(r'onnxplain_problems_total\{code="[a-z_]+"\} [1-9]', text)
    for name in (
        "workers",
        "workers_busy",
        "queue",
        "active",
        "cache_bytes",
        "pool_crashes_total",
        "pool_refused_total",
    ):
        assert re.search(rf"^onnxplain_{name} [0-9]", text, re.MULTILINE)


def test_an_answer_of_gigabytes_is_refused_with_its_size_before_it_is_made(service: Service) -> None:
    """Ten targets of a 16 megapixel picture, two pictures each: 320 megapixels."""
    stream = io.BytesIO()
    Image.new("L", (4000, 4000), 128).save(stream, "PNG")
    headers = {"Content-Type": "image/png", "Cache-Control": "no-store"}
    answer = service.client.post(f"{PICTURE_ROUTES[0]}?top_k=10", content=stream.getvalue(), headers=headers)
    _check(answer)
    assert answer.json()["code"] == "too_expensive"
    assert "320 megapixels" in answer.json()["detail"]
    assert "at most 100" in answer.json()["detail"]


def test_the_service_is_still_whole(service: Service) -> None:
    """After all of the above: the same workers, no crash, no answer of 500 or above."""
    assert len(service.workers()) == 2
    text = service.client.get("/metrics").text
    assert "onnxplain_pool_crashes_total 0.0" in text
    assert not re.search(r'status="5', text)
    assert json.loads(service.client.get("/health/ready").text)["status"] == "ok"
