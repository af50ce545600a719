"""Swagger UI in a real browser: somebody opens an operation, presses Execute, and it works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Service

from onnxplain.web.application import create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPERATIONS = sum(map(len, create_app().openapi()["paths"].values()))
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here; install the package `chromium` to test this"
)


@pytest.fixture(scope="module")
def page(service: Service) -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=service.url, viewport={"width": 1200, "height": 1400})
        page.goto("/docs")
        page.wait_for_selector(".opblock")
        yield page
        browser.close()


def _execute(page: Any, operation: Any) -> str:
    operation.locator("button.execute").click()
    status = operation.locator(".live-responses-table tbody .response-col_status").first
    status.wait_for(timeout=30_000)
    return str(status.inner_text()).split("\n")[0]


# One of each kind of request; test_openapi.py sends the example of every operation, and faster than a browser.
@pytest.mark.parametrize(
    "name", ["get_model", "get_sample", "predict", "explain_gradcam", "explain_permutation_importance"]
)
def test_an_operation_succeeds_as_it_stands(page: Any, name: str) -> None:
    operation = page.locator(f"[id$=-{name}]")
    operation.locator(".opblock-summary-control").first.click()
    assert _execute(page, operation) == "200"
    operation.locator(".opblock-summary-control").first.click()


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_every_operation_succeeds_as_it_stands(page: Any) -> None:
    """Open, Execute, close: one after the other, as somebody does who explores."""
    answered = {}
    operations = page.locator(".opblock")
    for place in range(operations.count()):
        operation = operations.nth(place)
        operation.locator(".opblock-summary-control").first.click()
        answered[operation.get_attribute("id")] = _execute(page, operation)
        operation.locator(".opblock-summary-control").first.click()
    assert len(answered) == OPERATIONS
    assert set(answered.values()) == {"200"}, answered


def test_a_picture_is_shown_as_a_picture(page: Any) -> None:
    operation = page.locator("[id$=explain_layercam]")
    operation.locator(".opblock-summary-control").first.click()
    operation.locator("button.execute").wait_for()
    operation.get_by_label("Media Type").first.select_option("image/png")
    assert _execute(page, operation) == "200"
    picture = operation.locator(".live-responses-table img")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") == 160


def test_tags_stand_in_the_order_of_a_newcomers_questions(page: Any) -> None:
    assert page.locator(".opblock-tag a span").all_inner_texts() == [
        "Models",
        "Explain a picture",
        "Explain a table",
        "Operations",
    ]
