"""Screenshots of the page for the documents, from the running service in a real browser.

.venv/bin/python -m docs.images.screenshots          needs the extra `test` and Chromium
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.conftest import running

HERE = Path(__file__).parent


def main() -> None:
    """Start the service, and the browser on it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "log") as service,
        sync_playwright() as playwright,
    ):
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        screenshots(browser, service.url)
        browser.close()


def screenshots(browser: Browser, url: str) -> None:
    """The page as people see it: a picture in light, a table in dark, and on a telephone."""
    page = opened(browser, url, "shapes", "heart and triangle", 1180, 1000, "light")
    for label in ("Explain heart", "Explain triangle", "LayerCAM"):
        page.get_by_label(label, exact=True).check()
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator("article")).to_have_count(4)
    page.mouse.wheel(0, -10_000)
    shoot(page, "page-picture.png")
    page = opened(browser, url, "diabetes", "test.csv", 1180, 860, "dark")
    page.get_by_role("button", name="Explain", exact=True).click()
    expect(page.locator("canvas")).to_be_visible()
    shoot(page, "page-table.png")
    page = opened(browser, url, "digits", "3", 400, 860, "light")
    page.locator("#results").scroll_into_view_if_needed()
    page.locator("article").scroll_into_view_if_needed()
    shoot(page, "page-narrow.png")


def opened(browser: Browser, url: str, model: str, sample: str, width: int, height: int, scheme: str) -> Page:
    """The page with a sample chosen, ready for its first explanation."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, base_url=url)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"/#{model}")
    page.get_by_role("list", name="Samples").get_by_role("button", name=sample, exact=True).click()
    expect(page.get_by_role("button", name="Explain", exact=True)).to_be_visible()
    return page


def shoot(page: Page, name: str) -> None:
    """Saves what the window shows, without the alpha channel that it does not need."""
    page.wait_for_timeout(300)  # the opacity moves for a tenth of a second
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(HERE / name, optimize=True)


if __name__ == "__main__":
    main()
