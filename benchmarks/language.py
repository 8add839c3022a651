"""What the language rule drops by its margin, with and without function words.

The odd numbers of `languages.jsonl` (tests/recipe/filter/captions) chose the margin; its even ones, `languages2.jsonl`
(committed before) and the parser's held-out captions measure it. Of 100 English captions that look foreign it drops 10
and 1. Function words were added with `languages2`'s totals in sight: a little flattering.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks._arguments import make_parser
from diht_k8s.stages.filter.captions.language import MARGIN, WORD, foreign_margin, is_english

FOLDER: Final = Path(__file__).parent.parent / "tests/recipe/filter/captions"
HELD_OUT: Final = ("heldout", "heldout3", "heldout5")


def rows_of(name: str) -> list[dict[str, str]]:
    """The captions of a set."""
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def captions_by_set() -> dict[str, list[str]]:
    """Captions by set and by what they are."""
    first, second = rows_of("languages"), rows_of("languages2")
    parts = {"languages odd": first[::2], "languages even": first[1::2], "languages2": second}
    found: dict[str, list[str]] = {}
    for name, rows in parts.items():
        found[f"{name}, looks foreign"] = [row["caption"] for row in rows if row["language"] == "en"]
        found[f"{name}, foreign"] = [row["caption"] for row in rows if row["language"] not in ("en", "none")]
    measured = found["languages even, foreign"] + found["languages2, foreign"]
    latin = [each for each in measured if in_latin_script(each)]
    found["measured, foreign, Latin script"] = latin
    found["measured, foreign, Latin script, two or three words"] = [
        each for each in latin if len(WORD.findall(each)) in (2, 3)
    ]
    found["measured, foreign, other scripts"] = [each for each in measured if not in_latin_script(each)]
    found["held out, English"] = [row["caption"] for name in HELD_OUT for row in rows_of(name) if row["objects"]]
    return found


def in_latin_script(caption: str) -> bool:
    """Whether most of a caption's letters are Latin."""
    letters = [each for each in caption if each.isalpha()]
    return 2 * sum(unicodedata.name(each, "").startswith("LATIN") for each in letters) > len(letters)


def dropped_percent(captions: Sequence[str], margin: float, *, words: bool) -> float:
    """Share of the captions that a margin drops, in percent."""
    kept = (is_english(each, margin) if words else foreign_margin(each)[1] <= margin for each in captions)
    return round(100 * (1 - sum(kept) / len(captions)), 1)


def main() -> None:
    """Measure and print."""
    parser = make_parser("language", __doc__)
    parser.add_argument("--margins", nargs="+", type=float, default=[16, MARGIN, 20, 22, 24, 28])
    margins = parser.parse_args().margins
    sets = captions_by_set()
    for rule, words in (("margin alone", False), ("with function words", True)):
        by_set = {
            name: {f"{margin:g}": dropped_percent(captions, margin, words=words) for margin in margins}
            for name, captions in sets.items()
        }
        figures = {"benchmark": "language", "rule": rule, "dropped_percent_by_margin": by_set}
        print(json.dumps(figures | {"captions": {name: len(each) for name, each in sets.items()}}))


if __name__ == "__main__":
    main()
