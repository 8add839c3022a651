"""The documentation site in a real browser: search answers newcomers, no page scrolls sideways, nothing comes from
elsewhere.
"""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.site import QUESTIONS, build

pytestmark = pytest.mark.browser
PAGES = [
    "index.html",
    "api.html",
    "operations.html",
    "reference/cli.html",
    "reference/python.html",
    "architecture.html",
    "concepts.html",
    "how-to/s3.html",
]
NARROW, WIDE = 390, 1440
FIRST = 3
"""Pages among which the one must be."""
RESULT = ".md-search-result__item > a.md-search-result__link"

expect.set_options(timeout=60_000)


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


@pytest.fixture(scope="module")
def page(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": WIDE, "height": 900})
    page.set_default_timeout(60_000)
    return page


@pytest.fixture(scope="module")
def searching(page: Page, address: str) -> Page:
    """The first page with its search open; its script reads the index of the site once."""
    page.goto(f"{address}/index.html?q=s3")  # the page types it itself, once its script listens
    page.locator(RESULT).first.wait_for(state="attached")
    return page


def type_into(field: Locator, text: str) -> None:
    field.fill(text)
    field.press("End")  # the search listens to keys


@pytest.mark.parametrize("question", QUESTIONS)
def test_search_finds_the_page_that_answers_a_newcomer(searching: Page, address: str, question: str) -> None:
    links, field = searching.locator(RESULT), searching.locator("input.md-search__input")
    type_into(field, "")
    expect(links).to_have_count(0)
    type_into(field, question)
    links.first.wait_for(state="attached")
    urls = [(link.get_attribute("href") or "").partition("?")[0].partition("#")[0] for link in links.all()]
    found = list(dict.fromkeys(url.removeprefix(f"{address}/") for url in urls))  # a page's sections follow each other
    assert QUESTIONS[question] in found[:FIRST]


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_its_window_and_asks_nobody_else(page: Page, address: str, name: str) -> None:
    asked, errors = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_viewport_size({"width": NARROW, "height": 844})
    page.goto(f"{address}/{name}", wait_until="networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW
    page.set_viewport_size({"width": WIDE, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDE
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert errors == []
