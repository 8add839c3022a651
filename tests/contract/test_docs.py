"""README and documentation: what they tell a reader to type is so, and the site builds strictly."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from diht_k8s.cli.arguments import make_parser, parsers_of
from tests.site import ROOT, build
from tools import check_docs, extra_sizes, figures, recorded_run


@pytest.mark.parametrize("path", check_docs.pages())
def test_commands_documents_links_and_sentences_of_a_page_are_right(path: str) -> None:
    assert check_docs.check_page(path, (ROOT / path).read_text()) == []


def test_figures_are_those_of_the_script() -> None:
    assert figures.main(["--check"]) == 0


def test_figures_and_images_are_those_of_the_recorded_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert recorded_run.main(["--check"]) == 0, capsys.readouterr().out


def test_sizes_of_the_extras_are_those_of_this_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert extra_sizes.main(["--check"]) == 0, capsys.readouterr().out


class Assets(HTMLParser):
    """What a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.found.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    return folder


def test_site_fetches_nothing_from_other_hosts(site: Path) -> None:
    found = []
    for page in site.rglob("*.html"):
        assets = Assets()
        assets.feed(page.read_text())
        found += [asset for asset in assets.found if re.match(r"(?:[a-z]+:)?//", asset)]
    for style in site.rglob("*.css"):
        found += re.findall(r"url\((?:[a-z]+:)?//[^)]*\)|@import[^;]*//[^;]*", style.read_text())
    assert found == []


def test_site_has_every_command_and_every_field(site: Path) -> None:
    commands = (site / "reference/cli.html").read_text()
    for parser in parsers_of(make_parser()).values():
        assert f">{parser.prog}<a" in commands
    fields = set(re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs/api.md").read_text()))
    page = (site / "api.html").read_text()
    assert [name for name in fields if f"<code>{name}</code>" not in page] == []


def test_drawings_are_images_and_no_source_of_mermaid_is_left(site: Path) -> None:
    page = (site / "architecture.html").read_text()
    assert page.count('<svg class="flowchart"') == (ROOT / "docs/architecture.md").read_text().count("```mermaid")
    assert "flowchart TD" not in page
