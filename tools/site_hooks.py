"""What mkdocs does beside its plugins: pages made from the code, pages from other folders, links, drawings.

- `reference/cli.md` is made from the parser of `diht`.
- READMEs of other folders become pages. Links to files that are no page become their names.
- `mermaid` blocks become SVG here, so that the site needs no script of strangers.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File

from tools import cli_reference, flowchart

ROOT: Final = Path(__file__).resolve().parents[1]
OTHER_PAGES: Final = {
    "CHANGELOG.md": "more/changelog.md",
    "CONTRIBUTING.md": "more/contributing.md",
    "SECURITY.md": "more/security.md",
    "benchmarks/README.md": "more/benchmarks.md",
    "examples/data/README.md": "more/demo-data.md",
    "helm/diht-operator/README.md": "more/chart.md",
    "tests/cluster/README.md": "more/test-cluster.md",
    "tests/recipe/filter/captions/GUIDELINES.md": "more/annotations.md",
}
"""Path in the repository -> page of the site."""
HOME: Final = {"README.md": "index.md"}
BOOST: Final = {"tutorial/": 3, "how-to/": 3, "troubleshooting.md": 3, "concepts.md": 3, "packages.md": 3, "more/": 0.3}
"""How much search prefers pages for readers, and those about development less: start of the path -> factor."""
_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_LOG: Final = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in `docs`."""
    files.append(File.generated(config, "reference/cli.md", content=cli_reference.page()))
    for path, page in OTHER_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Draw flowcharts, and make links and lists as Markdown on GitHub has them."""
    uri = page.file.src_uri
    page.meta["search"] = {"boost": next((factor for start, factor in BOOST.items() if uri.startswith(start)), 1)}
    source = next((path for path, made in OTHER_PAGES.items() if made == uri), f"docs/{uri}")
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_prose(markdown[end : fence.start()], source, uri), _fenced(fence[0])]
        end = fence.end()
    return "".join([*parts, _prose(markdown[end:], source, uri)])


def _fenced(block: str) -> str:
    if not block.startswith("```mermaid"):
        return block
    return f'<div class="drawing">{flowchart.draw(block.partition(chr(10))[2].rpartition("```")[0])}</div>'


def _prose(text: str, source: str, uri: str) -> str:
    text = _LINK.sub(lambda match: _link(match, source, uri), text)
    # Python-Markdown begins a list or table only after an empty line; GitHub does without one
    return re.sub(r"(?m)^(?![-|*#>]|\d+\. |\s|<)(.+)\n(?=(?:- |1\. |\|))", r"\1\n\n", text)


def _link(match: re.Match[str], source: str, uri: str) -> str:
    bang, text, target = match.groups()
    path, hash_, anchor = target.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return match[0]
    found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    page = {**OTHER_PAGES, **HOME}.get(found)
    if page is None and found.startswith("docs/") and (ROOT / found).is_file():
        page = found.removeprefix("docs/")
    if page is None and found == "docs/reference/cli.md":
        page = "reference/cli.md"
    if page is not None:
        return f"{bang}[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{hash_}{anchor})"
    if not (ROOT / found).exists():
        _LOG.warning("%s links to %s, which is not there", source, target)
        return match[0]
    return text if found in text else f"{text} (`{found}`)"
