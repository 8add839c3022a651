"""Writes figures of the documentation: what they show is computed here, or from the recorded run of the demo.

python tools/figures.py          # writes docs/images/caption.svg, hard-negatives.svg, display.svg
python tools/figures.py --check  # only compares; exit code 1 if one is stale
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage
from diht_k8s.cli.display import LiveDisplay, duration

IMAGES: Final = Path(__file__).resolve().parents[1] / "docs" / "images"
_STYLE: Final = (
    "<style>.b{fill:#f4f6fb;stroke:#4a5a86;stroke-width:1.5}.t{fill:#22304f}.n{fill:#5b6684;font-size:12px}"
    ".a{stroke:#4a5a86;stroke-width:1.6;fill:none;marker-end:url(#m)}.g{stroke:#c3cadd}"
    "@media (prefers-color-scheme:dark){.b{fill:#1d2438}.t{fill:#e6ebfa}.n{fill:#aab4d0}.g{stroke:#44506f}}</style>"
    '<defs><marker id="m" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="#4a5a86"/></marker></defs>'
)
BETAS: Final = {0.0: "#7b8299", 0.25: "#2f4b8f", 0.5: "#b0562b", 1.0: "#7a2f8f"}
LOGIT_SCALE: Final = 100 / 7
"""exp(log(1 / 0.07)), with which a training begins."""
SIMILARITIES: Final = [0.01 * step for step in range(-20, 61)]


def _svg(width: int, height: int, label: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" '
        f'font-size="14" role="img" aria-label="{label}">{_STYLE}{body}</svg>\n'
    )


def caption() -> str:
    """The graph of one caption, as `diht parse` prints it."""
    boxes = {"dog": (150, 100), "ball": (430, 50), "park": (430, 165)}
    body = '<text class="n" x="10" y="20">two small dogs are chasing a red ball in the park</text>'
    for name, (x, y) in boxes.items():
        body += (
            f'<rect class="b" x="{x - 45}" y="{y - 18}" width="90" height="36" rx="6"/><text class="t" x="{x}" '
            f'y="{y + 5}" text-anchor="middle">{name}</text>'
        )
    for word, x, y, to in (("two", 35, 75, "dog"), ("small", 35, 130, "dog"), ("red", 560, 50, "ball")):
        near = boxes[to][0] + (46 if x > boxes[to][0] else -46)
        body += f'<text class="t" x="{x}" y="{y + 5}" text-anchor="middle">{word}</text>'
        body += f'<path class="a" d="M{x + (-18 if x > boxes[to][0] else 24)} {y}L{near} {boxes[to][1]}"/>'
    body += '<path class="a" d="M196 92L383 54"/><text class="n" x="290" y="62" text-anchor="middle">chase</text>'
    body += '<path class="a" d="M196 108L383 161"/><text class="n" x="290" y="128" text-anchor="middle">chase in</text>'
    body += (
        '<text class="n" x="10" y="205">dog: 2 attributes + 2 relations, so complexity C = 4. One verb with a '
        "subject: actions A = 1.</text>"
    )
    label = "Caption graph: dog with the attributes two and small chases ball with the attribute red, in the park"
    return _svg(600, 220, label, body)


def weights(beta: float, similarities: Sequence[float], scale: float = LOGIT_SCALE) -> list[float]:
    """w_j = (number of negatives) x softmax_j(beta x scale x similarity), as `hn_nce` weighs negatives."""
    powers = [math.exp(beta * scale * similarity) for similarity in similarities]
    return [len(powers) * power / sum(powers) for power in powers]


def hard_negatives() -> str:
    """Weight of a negative by its similarity, where similarities are spread evenly from -0.2 to 0.6."""
    left, top, width, height, most = 60, 20, 480, 220, 12.0

    def point(similarity: float, weight: float) -> str:
        x = left + (similarity - SIMILARITIES[0]) / (SIMILARITIES[-1] - SIMILARITIES[0]) * width
        return f"{x:.1f} {top + height - weight / most * height:.1f}"

    body = ""
    for value in (0, 3, 6, 9, 12):
        y = top + height - value / most * height
        body += (
            f'<path class="g" d="M{left} {y:.1f}H{left + width}"/><text class="n" x="{left - 10}" '
            f'y="{y + 4:.1f}" text-anchor="end">{value}</text>'
        )
    for value in (-0.2, 0.0, 0.2, 0.4, 0.6):
        x = left + (value + 0.2) / 0.8 * width
        body += f'<text class="n" x="{x:.1f}" y="{top + height + 20}" text-anchor="middle">{value:.1f}</text>'
    for number, (beta, colour) in enumerate(BETAS.items()):
        line = "L".join(point(*pair) for pair in zip(SIMILARITIES, weights(beta, SIMILARITIES), strict=True))
        body += f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2.2"/>'
        body += (
            f'<path d="M{left + 20} {top + 16 + 20 * number}h24" stroke="{colour}" stroke-width="2.2"/><text '
            f'class="t" x="{left + 52}" y="{top + 21 + 20 * number}">beta = {beta:g}</text>'
        )
    body += (
        f'<text class="n" x="{left + width / 2:.0f}" y="{top + height + 42}" text-anchor="middle">cosine '
        f"similarity of image and wrong caption (logit scale {LOGIT_SCALE:.1f})</text>"
    )
    body += (
        f'<text class="n" transform="translate(16 {top + height / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">weight of the negative</text>'
    )
    return _svg(570, 300, "Weight of a negative by its similarity, for beta 0, 0.25, 0.5 and 1", body)


RECORD: Final = IMAGES.parent / "recorded-run.json"
"""Of the run of the demo that `tools.recorded_run` has recorded."""
_TERMINAL: Final = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" \
aria-label="The live display: filter and label are done, train runs, evaluate waits">
<style>.{unique_id}-matrix{{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:{char_height}px;\
line-height:{line_height}px}}{styles}</style>
<defs>{lines}</defs><rect width="{width}" height="{height}" rx="8" fill="#292929"/>
<g transform="translate({terminal_x},{terminal_y})"><g class="{unique_id}-matrix">{backgrounds}{matrix}</g></g></svg>
"""


def display() -> str:
    """What `diht run` shows on a terminal, by its own code."""
    console = Console(record=True, force_terminal=True, width=116, file=io.StringIO(), color_system="truecolor")
    shown = LiveDisplay(list(Stage), console, lambda: 0.0)
    run = json.loads(RECORD.read_text())
    for stage, line in run["display"].items():
        shown.progress(Progress.model_validate(line))
        if stage != Stage.TRAIN:
            shown.state(Stage(stage), f"done in {duration(run['stages'][stage])}", ended=True)
    console.print("[bold]$ diht run examples/demo.yaml[/bold]", highlight=False)
    console.print(shown._bars.get_renderable())
    return console.export_svg(code_format=_TERMINAL, unique_id="display")


FIGURES: Final = {"caption.svg": caption, "hard-negatives.svg": hard_negatives, "display.svg": display}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare the figures; the exit code."""
    parser = argparse.ArgumentParser(description="Write figures of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if one is stale")
    options = parser.parse_args(arguments)
    stale = [
        name for name, draw in FIGURES.items() if not (IMAGES / name).is_file() or (IMAGES / name).read_text() != draw()
    ]
    for name in stale:
        if options.check:
            print(f"docs/images/{name} is stale: run python tools/figures.py")
        else:
            (IMAGES / name).write_text(FIGURES[name]())
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
