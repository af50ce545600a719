"""The same question twice: the kept answer, unless the caller wants none, and never one to another question."""

from __future__ import annotations

import httpx
import pytest
from tests.conftest import DEMO_MODELS, Service

from onnxplain.web.cache import Answer, ResultCache

SAMPLES = DEMO_MODELS / "digits" / "samples"
ROUTE = "/v1/models/digits/explanations/gradcam"


def ask(service: Service, query: str = "", route: str = ROUTE, sample: str = "5.png", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    body = (SAMPLES / sample).read_bytes()
    return service.client.post(f"{route}?{query}", content=body, headers={"Content-Type": "image/png"} | named)


def test_the_same_question_gets_the_same_bytes_without_work(service: Service) -> None:
    first, second = ask(service, "alpha=0.31"), ask(service, "alpha=0.31")
    assert first.content == second.content
    assert (first.headers["x-onnxplain-cache"], second.headers["x-onnxplain-cache"]) == ("miss", "hit")
    assert first.headers["etag"] == second.headers["etag"]
    assert int(second.headers["age"]) >= 0


@pytest.mark.parametrize(
    "other",
    [
        {"query": "alpha=0.33"},
        {"query": "alpha=0.32&target=1"},
        {"query": "alpha=0.32", "sample": "7.png"},
        {"query": "alpha=0.32", "route": ROUTE.replace("gradcam", "layercam")},
        {"query": "alpha=0.32", "Accept": "image/png"},
        {"query": "alpha=0.32&output=heatmap", "Accept": "image/png"},
    ],
    ids=lambda other: " ".join(other.values()),
)
def test_another_question_is_another_answer(service: Service, other: dict[str, str]) -> None:
    known = ask(service, "alpha=0.32")
    answer = ask(service, **other)
    assert answer.status_code == 200
    assert answer.headers["etag"] != known.headers["etag"]
    assert answer.content != known.content


def test_a_picture_is_kept_with_its_headers(service: Service) -> None:
    first, second = (ask(service, "alpha=0.34", Accept="image/png") for _ in range(2))
    assert second.headers["x-onnxplain-cache"] == "hit"
    assert first.content == second.content
    facts = {name for name in first.headers if name.startswith("x-onnxplain-")} - {"x-onnxplain-cache"}
    assert facts
    assert {name: first.headers[name] for name in facts} == {name: second.headers[name] for name in facts}
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_who_holds_the_answer_already_is_told_so(service: Service) -> None:
    etag = ask(service, "alpha=0.35").headers["etag"]
    answer = ask(service, "alpha=0.35", If_None_Match=f'"other", {etag}')
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert ask(service, "alpha=0.35", If_None_Match='"other"').status_code == 200


def test_no_store_neither_reads_nor_keeps(service: Service) -> None:
    for _ in range(2):
        answer = ask(service, "alpha=0.36", Cache_Control="no-store")
        assert answer.headers["x-onnxplain-cache"] == "bypass"
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers
    assert ask(service, "alpha=0.36").headers["x-onnxplain-cache"] == "miss"


def test_no_cache_makes_the_answer_anew_and_keeps_it(service: Service) -> None:
    ask(service, "alpha=0.37")
    assert ask(service, "alpha=0.37", Cache_Control="no-cache").headers["x-onnxplain-cache"] == "miss"
    assert ask(service, "alpha=0.37").headers["x-onnxplain-cache"] == "hit"


def test_a_refusal_is_not_kept(service: Service) -> None:
    for _ in range(2):
        answer = service.client.post(ROUTE, content=b"no picture", headers={"Content-Type": "image/png"})
        assert "x-onnxplain-cache" not in answer.headers
        assert "etag" not in answer.headers


def test_the_cache_stays_within_its_bytes_and_drops_what_was_not_used_for_longest() -> None:
    cache = ResultCache(100_000)
    for number in range(20):
        cache.put(str(number), Answer(bytes(10_000), "text/plain"))
        cache.get("0")
    assert cache.bytes <= 100_000
    assert cache.get("0")
    assert cache.get("19")
    assert not cache.get("1")


def test_an_answer_that_would_drive_out_all_others_is_not_kept() -> None:
    cache = ResultCache(100_000)
    cache.put("large", Answer(bytes(50_000), "text/plain"))
    assert cache.bytes == 0
