"""The documentation site in a real browser: search answers newcomers, no page scrolls sideways, nothing comes from elsewhere."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.site import QUESTIONS, build

pytestmark = pytest.mark.browser
PAGES = ["index.html", "api.html", "operations.html", "reference/cli.html", "reference/python.html", "architecture.html", "concepts.html", "how-to/s3.html"]  # fmt: skip
FIRST = 3
"""Pages among which the one must be."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    yield page
    page.close()


def asked_elsewhere(page: Page, address: str) -> list[str]:
    found: list[str] = []
    page.on("request", lambda request: found.append(request.url) if not request.url.startswith((address, "data:")) else None)  # fmt: skip
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_search_finds_the_page_that_answers_a_newcomer(page: Page, address: str, question: str) -> None:
    page.goto(f"{address}/index.html?q={quote(question)}")  # the page types it itself, once its script listens
    links = page.locator(".md-search-result__item > a.md-search-result__link")
    links.first.wait_for(state="attached", timeout=60_000)
    urls = [(link.get_attribute("href") or "").partition("?")[0].partition("#")[0] for link in links.all()]
    found = list(dict.fromkeys(url.removeprefix(f"{address}/") for url in urls))  # a page's sections follow each other
    assert QUESTIONS[question] in found[:FIRST]


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_its_window_and_asks_nobody_else(page: Page, address: str, name: str, width: int) -> None:
    elsewhere = asked_elsewhere(page, address)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{address}/{name}", wait_until="networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (elsewhere, errors) == ([], [])
