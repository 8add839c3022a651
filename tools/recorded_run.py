"""The run of the demo from which README and documentation take their figures and images.

    python -m tools.recorded_run runs/demo   # records a run: docs/recorded-run.json, docs/images/report.png and
    found.png python -m tools.recorded_run --check     # what README, pages and images say otherwise; exit code 1 if
    anything

The figures stand in the text as people write them. `PHRASES` says where, and how each follows from the record; a number
on the first pages that neither the record nor a benchmark has is found too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.reports import Progress, parse_progress
from diht_k8s.api.run import Stage

ROOT: Final = Path(__file__).resolve().parents[1]
RECORD: Final = "docs/recorded-run.json"
IMAGES: Final = {"docs/images/found.png": "#queries .queries", "docs/images/report.png": ""}
"""Screenshots and the part of the page that they show: all that fits if empty."""
WIDTH, HEIGHT = 1200, 1300
QUERIES: Final = 8
"""In the screenshot: the first ones of the page, four rows of two."""
ALONE: Final = ("README.md", "docs/index.md")
"""Pages on which each number has a source."""
ALLOWED: Final = {
    "2301.02280": "arXiv",
    "12": "Debian",
    "3.11": "Python",
    "2.0": "licence",
    "7": "GB on disk, of docs/packages.md",
    "3.6": "GB of CUDA, the same",
    "0.1.0": "version",
    "3": "ZeRO",
    "0": "ZeRO",
    "38": "tasks of DataComp",
}

Json = dict[str, Any]


PHRASES: Final[Mapping[str, Sequence[str]]] = {
    "README.md": (
        "on {pairs:,} drawings with captions",
        "in {minutes:.0f} to 5 minutes on two cores",
        "Among {own[images]} new drawings a caption finds its own image among the first five (R@5) in "
        "{own[to_image][model][0]:.0f} % of cases ({own[to_image][model][1]:.0f} to {own[to_image][model][2]:.0f})",
        "chance is {own[to_image][chance][0]:.0f} %",
        "the filter drops {filter[junk_dropped]:.0f} % of the junk and keeps {filter[wanted_kept]:.0f} % of the rest",
    ),
    "docs/tutorial/demo.md": (
        "on {pairs:,} image-caption pairs",
        "it takes {minutes:.0f} to 5 minutes",
        "| the model | {own[to_image][model][0]:.1f} % ({own[to_image][model][1]:.1f} to "
        "{own[to_image][model][2]:.1f}) | {own[to_text][model][0]:.1f} % ({own[to_text][model][1]:.1f} to "
        "{own[to_text][model][2]:.1f}) |",
        "| BPE ridge, from BPE tokens and class names to whitened features | {own[to_image][tokens][0]:.1f} % | "
        "{own[to_text][tokens][0]:.1f} % |",
        "| chance | {own[to_image][chance][0]:.1f} % | {own[to_text][chance][0]:.1f} % |",
        "| the model on drawings of another style | {other[to_image][model][0]:.1f} % "
        "({other[to_image][model][1]:.1f} to {other[to_image][model][2]:.1f}) | {other[to_text][model][0]:.1f} % "
        "({other[to_text][model][1]:.1f} to {other[to_text][model][2]:.1f}) |",
        "the mean accuracy over {classes[number]} classes is {classes[balanced]:.1f} %",
        "(top-1 of {classes[images]} drawings {classes[top1][0]:.0f} %, {classes[top1][1]:.0f} to "
        "{classes[top1][2]:.0f}; the commonest class is {classes[commonest]:.0f} %)",
        "The filter drops {filter[junk_dropped]:.0f} % of the junk and {filter[wanted_dropped]:.0f} % of the rest",
    ),
}


def record(report: Json, lines: Mapping[str, Progress], seconds: float) -> Json:
    """What of a run's report the documentation says; rates in percent.

    Args:
        report: report.json.
        lines: of the display, by stage.
        seconds: from the start to the page.
    """
    named = {each["name"]: each for each in report["benchmarks"]}
    classes, junk = named["heldout-classes"], report["filter"]["report"]["junk"]
    return {
        "pairs": report["funnel"][0]["samples"],
        "kept": report["funnel"][-1]["samples"],
        "minutes": seconds / 60,
        "stages": {row["stage"]: row["seconds"] for row in report["cost"]},
        "filter": {
            "junk_dropped": 100 - _percent_kept(junk["junk"]),
            "wanted_kept": _percent_kept(junk["wanted"]),
            "wanted_dropped": 100 - _percent_kept(junk["wanted"]),
        },
        "own": _retrieval(named["heldout-retrieval"]),
        "other": _retrieval(named["other-style"]),
        "classes": {
            "images": classes["pictures"],
            "number": len(classes["classes"]),
            "top1": [100 * value for value in (classes["top1"], *classes["top1_interval"])],
            "commonest": 100 * classes["majority"],
            "balanced": 100 * classes["balanced"],
        },
        "display": {stage: json.loads(line.model_dump_json(exclude_defaults=True)) for stage, line in lines.items()},
    }


def _percent_kept(row: Json) -> float:
    return round(100 * row["kept"] / row["pairs"], 2)


def _retrieval(benchmark: Json) -> Json:
    """R@5 of the model (with its interval), of the references and by chance, both ways."""
    found: Json = {"images": benchmark["pictures"]}
    for name, key in (("to_image", "text_to_image"), ("to_text", "image_to_text")):
        direction = benchmark[key]
        rates = {"model": [direction["recall"]["5"], *direction["interval"]["5"]], "chance": [direction["chance"]["5"]]}
        rates |= {each["name"]: [each[key]["recall"]["5"]] for each in benchmark["references"]}
        found[name] = {who: [100 * value for value in values] for who, values in rates.items()}
    return found


def lines_of(folder: Path) -> dict[str, Progress]:
    """Of each stage that trains or reads, the line of progress to show: the last one, and of train one at two
    thirds.
    """
    found: dict[str, Progress] = {}
    for stage, step in ((Stage.FILTER, "filter"), (Stage.LABEL, "heads"), (Stage.TRAIN, "train")):
        log = next(folder.glob(f"logs/*-{step}-1/*/*/0/combined.log"))
        lines = [
            line for each in log.read_text(errors="replace").splitlines() if (line := parse_progress(each)) is not None
        ]
        lines = [line for line in lines if line.metrics and line.total]
        if stage is Stage.TRAIN:
            lines = [line for line in lines if line.done <= 2 * line.total / 3]
        found[stage.value] = Progress.model_validate(
            lines[-1].model_dump(
                include={"stage", "step", "done", "total", "unit", "per_second", "eta_seconds", "metrics"}
            )
        )
    return found


def screenshots(page: Path) -> None:
    """Write the screenshots of a report's page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        view.goto(page.absolute().as_uri())
        for name, part in IMAGES.items():
            if part:
                rest = f"{part} > li:nth-child(n + {QUERIES + 1})"
                view.evaluate("rest => document.querySelectorAll(rest).forEach(each => each.hidden = true)", rest)
                view.add_style_tag(content="[hidden] { display: none !important }")
                view.locator(part).first.screenshot(path=str(ROOT / name))
                view.reload()
            else:
                view.screenshot(path=str(ROOT / name))
        browser.close()


def problems(found: Json, read: Mapping[str, str]) -> Iterator[str]:
    """What pages say otherwise than the record; numbers without a source.

    Args:
        found: the record.
        read: text of each page by path; benchmarks/README.md among them.
    """
    for page, phrases in PHRASES.items():
        text = " ".join(read[page].split())
        for phrase in phrases:
            if (wanted := phrase.format(**found)) not in text:
                yield f"{page}: the recorded run says {wanted!r}"
    for page in ALONE:
        phrases = [phrase.format(**found) for phrase in PHRASES.get(page, ())]
        yield from _without_source(page, read[page], phrases, read["benchmarks/README.md"])


def _without_source(page: str, text: str, phrases: Sequence[str], benchmarks: str) -> Iterator[str]:
    prose = " ".join(re.sub(r"^```.*?^```", " ", text, flags=re.MULTILINE | re.DOTALL).split())
    for phrase in phrases:
        prose = prose.replace(phrase, " ")
    prose = re.sub(r"`[^`]*`", " ", prose)
    for words, link in re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", prose):
        row = _row(benchmarks, link.partition("benchmarks/README.md#")[2])
        missing = [number for number in _numbers(words) if row and number not in _numbers(row)]
        yield from (f"{page}: {number} is not in {link}" for number in missing)
        prose = prose.replace(f"[{words}]" if row else f"({link})", " ", 1)
    prose = re.sub(r"\]\([^()\s]*\)", " ", prose)
    yield from (f"{page}: nobody says where {number} is from" for number in _numbers(prose) if number not in ALLOWED)


def _numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w./-])\d+(?:,\d{3})*(?:\.\d+)*(?![\w-])", text)


def _row(text: str, anchor: str) -> str:
    """The row of a table that sets the anchor."""
    return next((line for line in text.splitlines() if anchor and f'<a id="{anchor}">' in line), "")


def digests() -> dict[str, str]:
    """SHA-256 of each image."""
    return {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in IMAGES if (ROOT / name).is_file()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Record a run, or compare; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "folder",
        nargs="?",
        metavar="OUTPUT",
        help="output of `diht run examples/demo.yaml` that nothing has interrupted",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a page or image says otherwise"
    )
    options = parser.parse_args(arguments)
    if not options.check:
        folder = Path(options.folder) / "runs" / "latest"
        begun = next((folder / "logs").glob("*-filter-1")).stat().st_mtime
        page = folder / "report.html"
        made = record(json.loads((folder / "report.json").read_text()), lines_of(folder), page.stat().st_mtime - begun)
        screenshots(page)
        (ROOT / RECORD).write_text(json.dumps({**made, "images": digests()}, indent=1) + "\n")
    found = json.loads((ROOT / RECORD).read_text())
    pages = {*PHRASES, *ALONE, "benchmarks/README.md"}
    wrong = [*problems(found, {page: (ROOT / page).read_text() for page in pages})]
    wrong += [
        f"{name} is not that of the recorded run" for name in IMAGES if digests().get(name) != found["images"].get(name)
    ]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
