"""The report in a real browser with the network off: nothing on the console, everything there, no sideways
scrolling.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.comparison import comparison, comparison_page
from diht_k8s.report.per_image import PerImage, per_image_path, read_per_image
from diht_k8s.stages.evaluate.results import QUERIES
from tests.recipe.evaluate.small_run import document, evaluate, make_run

pytestmark = pytest.mark.browser
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECTIONS = ["queries", "notes", "filter", "concepts", "training", "evaluation", "cards", "configuration", "run"]
AXE = "axe-core@4.14.1"
PATIENCE_MS = 120_000
"""A busy machine takes its time; only what hangs shall fail."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, from its npm package, kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "diht-k8s" / AXE
    if not (cache / "axe.min.js").exists():
        cache.mkdir(parents=True, exist_ok=True)
        if shutil.which("npm") is None:
            pytest.skip("npm, which fetches axe-core, is not there")
        found = subprocess.run(["npm", "pack", AXE, "--silent"], cwd=cache, capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"axe-core cannot be fetched: {found.stderr[-200:]}")
        with tarfile.open(cache / found.stdout.split()[-1]) as package:
            source = package.extractfile("package/axe.min.js")
            assert source is not None
            (cache / "axe.min.js").write_bytes(source.read())
    return (cache / "axe.min.js").read_text()


REPORTS = ["whole", "evaluation only", "12 benchmarks"]
whole_report = pytest.mark.parametrize("report", ["whole"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    make_run(folder, document(folder))
    return folder


@pytest.fixture(scope="module", params=REPORTS)
def report(request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("report"), dirs_exist_ok=True, symlinks=True)
    run = document(folder)
    if request.param == "evaluation only":
        alone = {"model": f"{folder}/out/runs/latest/train/model"}
        run = document(folder, alone, data={"output": f"{folder}/out2"}, filter=None, label=None, train=None)
        evaluate(run)
        return folder / "out2" / "runs/latest" / "report.html"
    if request.param == "12 benchmarks":
        benchmarks = run.model_dump(by_alias=True, mode="json")["spec"]["evaluate"]["benchmarks"]
        many = [{**benchmarks[number % 2], "name": f"benchmark {number}"} for number in range(12)]
        run = document(folder, {"benchmarks": many, "fewShot": None})
    evaluate(run)
    return folder / "out" / "runs/latest" / "report.html"


View = tuple[Page, list[str]]


@pytest.fixture(scope="module")
def views(browser: Browser) -> Callable[[int, str], View]:
    """A window for each width and colour scheme, offline, and what it has said and asked for."""

    @cache
    def view(width: int, scheme: Literal["light", "dark"]) -> View:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        context.set_default_timeout(PATIENCE_MS)
        page, messages = context.new_page(), list[str]()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda found: messages.append(found.url) if found.url.startswith("http") else None)
        return page, messages

    return view


@pytest.fixture
def opened(views: Callable[[int, str], View], report: Path, request: pytest.FixtureRequest) -> View:
    """The report as it is when it is opened, whatever an earlier test did to it."""
    width, scheme = getattr(request, "param", (1440, "light"))
    page, messages = views(width, scheme)
    page.emulate_media(media="screen")
    page.goto("about:blank")
    messages.clear()
    page.goto(report.as_uri())
    return page, messages


@pytest.fixture
def plain(browser: Browser) -> Iterator[Page]:
    """A window without scripts."""
    context = browser.new_context(java_script_enabled=False, offline=True)
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("opened", [(1440, "light"), (390, "light"), (390, "dark")], indirect=True)
def test_page_when_opened_is_silent_whole_and_fits_the_width(opened: View) -> None:
    page, messages = opened
    assert messages == []
    shown = {name: page.locator(f"section#{name} h2").count() for name in SECTIONS}
    stages = dict.fromkeys(("filter", "concepts", "training"), shown["filter"])  # all of them or, where absent, none
    assert shown == dict.fromkeys(SECTIONS, 1) | stages
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.locator("script").count() == 0
    assert page.evaluate("[...document.querySelectorAll('.card')].every(card => card.scrollWidth <= card.clientWidth)")


def test_page_when_read_aloud_has_names_for_what_is_no_text(opened: View) -> None:
    page, _ = opened
    assert page.locator("h1").count() == 1
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator("svg:not([aria-label])").count() == 0
    assert page.locator("html[lang=en]").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#main", "a way past the menu"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def charts(page: Page) -> Locator:
    """The curves of the training."""
    return page.locator("#training svg.chart")


@whole_report
@pytest.mark.parametrize("opened", [(1440, "light"), (390, "dark")], indirect=True)
def test_chart_when_pointed_at_anywhere_shows_the_values_there(opened: View) -> None:
    page, messages = opened
    chart = charts(page).first
    chart.scroll_into_view_if_needed()
    ends = chart.locator("rect.at").first.bounding_box(), chart.locator("rect.at").last.bounding_box()
    assert ends[0] is not None
    assert ends[1] is not None
    left, right, y = ends[0]["x"], ends[1]["x"] + ends[1]["width"], ends[0]["y"] + 3
    under = "([x, y]) => document.elementFromPoint(x, y).querySelector('title').textContent"
    assert page.evaluate(under, [left + 1, y]) == "samples seen 10: total 5, contrastive 4"
    assert page.evaluate(under, [(left + right) / 2, y]).startswith(("samples seen 50: ", "samples seen 60: "))
    assert page.evaluate(under, [right - 1, y]) == "samples seen 100: total 0.5, contrastive 0.4"
    assert messages == []


@whole_report
def test_chart_when_scripts_are_off_or_printed_is_there(plain: Page, report: Path, opened: View) -> None:
    page, _ = opened
    page.emulate_media(media="print")
    assert charts(page).first.is_visible()
    plain.goto(report.as_uri())
    assert plain.locator("svg.chart").first.is_visible()


@whole_report
def test_page_when_a_caption_smuggles_a_script_in_does_not_run_it(opened: View, report: Path) -> None:
    page, messages = opened
    evil = "<script>document.title = 'taken'</script><img src='data:,' onerror=\"document.title = 'taken'\">"
    copy = report.with_name("evil.html")
    copy.write_text(report.read_text().replace("<main ", f"{evil}<main ", 1))
    page.goto(copy.as_uri())
    page.evaluate("""() => new Promise(failed => {
        const image = document.querySelector("img[onerror]");
        image.addEventListener("error", failed);  // behind the smuggled handler
        image.src = "data:,again";
    })""")
    assert page.title() == "small: DiHT run report"
    assert any("Content Security Policy" in message for message in messages)


@pytest.mark.parametrize("report", ["12 benchmarks"], indirect=True, scope="module")
def test_page_when_benchmarks_are_many_folds_them_and_links_unfold(opened: View) -> None:
    page, _ = opened
    assert page.locator("details.benchmark").count() == 12
    assert page.locator("details.benchmark[open]").count() == 0
    page.locator("a[href='#benchmark-7']").first.click()
    assert page.locator("details.benchmark[open] #benchmark-7").count() == 1
    page.emulate_media(media="print")
    assert page.locator("#notes li").count() < 10


def test_page_when_opened_folds_what_few_need_and_shows_it_in_print(opened: View) -> None:
    page, _ = opened
    folds = page.locator("details.more")
    assert folds.count() >= 6
    assert page.locator("details[open]").count() == 0
    height = "document.documentElement.scrollHeight"
    closed = page.evaluate(height)
    page.emulate_media(media="print")
    assert page.locator("#configuration pre").is_visible(), "print unfolds"
    assert not page.locator("nav").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert page.evaluate(height) > 1.3 * closed


@pytest.mark.parametrize("opened", [(1440, "light"), (390, "dark")], indirect=True)
def test_page_when_opened_shows_queries_before_all_else_with_the_own_image_outlined(opened: View) -> None:
    page, _ = opened
    assert page.evaluate("document.querySelector('main').firstElementChild.id") == "queries"
    queries = page.locator("#queries .opening").first.locator(".query")
    assert queries.count() == QUERIES
    for number in range(QUERIES):
        own = queries.nth(number).locator(".right .image")
        assert own.count() == 1
        assert own.locator("img").is_visible()
        border = own.evaluate("box => getComputedStyle(box).borderTopColor")
        other = queries.nth(number).locator("li:not(.right) .image").first
        assert border != other.evaluate("box => getComputedStyle(box).borderTopColor")
    top = page.evaluate("document.querySelector('#queries .hits img').getBoundingClientRect().bottom")
    assert top < 900, "images are seen without scrolling"


def test_comparison_when_opened_on_a_phone_shows_its_verdicts_without_scrolling(
    browser: Browser, report: Path, tmp_path: Path
) -> None:
    one = json.loads(report.with_name("report.json").read_text())
    other = copy.deepcopy(one)
    other["config"]["spec"]["evaluate"]["model"] = "another"
    kept: dict[str, PerImage] = {}
    for number, result in enumerate(one["benchmarks"]):
        found = read_per_image(Storage(), f"{report.parent}/evaluate/{per_image_path(number)}")
        assert found is not None
        kept[result["name"]] = found
    (tmp_path / "c.html").write_text(comparison_page(comparison([one, other], [kept, kept])))
    context = browser.new_context(viewport={"width": 390, "height": 900}, offline=True)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto((tmp_path / "c.html").as_uri())
    verdicts = "[...document.querySelectorAll('.verdict')].map(each => each.getBoundingClientRect().right)"
    rights = page.evaluate(verdicts)
    assert rights
    assert max(rights) <= 390
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


@pytest.mark.parametrize(
    ("report", "opened"),
    [
        ("whole", (1440, "light")),
        ("whole", (390, "dark")),
        ("evaluation only", (1440, "light")),
        ("12 benchmarks", (390, "dark")),
    ],
    indirect=True,
    scope="module",
)
def test_page_when_axe_looks_at_it_has_no_serious_violation(opened: View, axe: str) -> None:
    page, _ = opened
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert serious == []
