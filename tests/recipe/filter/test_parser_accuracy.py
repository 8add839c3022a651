"""Accuracy of the caption parser and of the language rule on hand-annotated captions, with bootstrap bounds.

The parser's rules were tuned on `dev.jsonl` to `dev4.jsonl`, and on `heldout2.jsonl` after it had measured once; never
on `heldout.jsonl`, `heldout3.jsonl` and `heldout5.jsonl`. Of `languages.jsonl`, odd numbers served to choose the
identifier and the margin, even ones measure, and so do the English captions that are held out for the parser;
`languages2.jsonl` was written before the margin was chosen again. The asserted bounds are slightly beyond the measured
values, so the tests catch a loss of accuracy. Run with `-s` to see all figures.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.stages.filter.captions.graph import CaptionGraph
from diht_k8s.stages.filter.captions.language import is_english
from diht_k8s.stages.filter.captions.parser import CaptionParser

FOLDER = Path(__file__).parent / "captions"
PARTS = ("objects", "attributes", "relations")
RESAMPLES = 2000
Figures = dict[str, tuple[float, float]]
"""name -> (value, lower 95 % bound)"""

FLOORS: dict[str, dict[str, float]] = {
    part: dict(zip(("objects", "attributes", "relations", "action verdict", "complexity exact"), least, strict=True))
    for part, least in {
        "dev": (0.96, 0.94, 0.88, 0.97, 0.91),
        "dev2": (0.96, 0.96, 0.875, 0.96, 0.91),
        "dev3": (0.91, 0.86, 0.73, 0.93, 0.745),
        "heldout": (0.93, 0.87, 0.77, 0.935, 0.86),
        "heldout2": (0.89, 0.8, 0.72, 0.86, 0.74),
        "heldout3": (0.88, 0.7, 0.7, 0.85, 0.8),
        "heldout5": (0.92, 0.85, 0.64, 0.86, 0.65),
        "dev4": (0.92, 0.82, 0.71, 0.89, 0.68),
    }.items()
}
"""Minimum lower bounds."""


def annotated(part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{part}.jsonl").read_text().splitlines()]


def found(graph: CaptionGraph) -> dict[str, list[Hashable]]:
    names = graph.names
    return {
        "objects": list(names),
        "attributes": [(names[index], name) for index, name in graph.attributes],
        "relations": [
            (None if one is None else names[one], predicate, None if two is None else names[two])
            for one, predicate, two in graph.relations
        ],
    }


def hits(gold: Iterable[Any], got: Iterable[Hashable]) -> tuple[int, int, int]:
    """True positives, found, wanted."""
    wanted, given = Counter(tuple(item) if isinstance(item, list) else item for item in gold), Counter(got)
    return (wanted & given).total(), given.total(), wanted.total()


def lower_bound(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> float:
    """2.5 % quantile over resamples of captions."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(values), (RESAMPLES, len(values)))
    return float(np.quantile(statistic(values[draws].sum(axis=1)), 0.025))


def f1(sums: np.ndarray) -> np.ndarray:
    return 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


def measured(rows: Sequence[dict[str, Any]], graphs: Sequence[CaptionGraph]) -> Figures:
    figures: Figures = {}
    parts = [found(graph) for graph in graphs]
    for part in PARTS:
        values = np.array([hits(row[part], graph[part]) for row, graph in zip(rows, parts, strict=True)])
        figures[part] = float(f1(values.sum(axis=0))), lower_bound(values, f1)
    verdicts = {
        "action verdict": [
            (g.num_actions > 0) == (row["num_actions"] > 0) for row, g in zip(rows, graphs, strict=True)
        ],
        "complexity exact": [g.complexity == row["complexity"] for row, g in zip(rows, graphs, strict=True)],
    }
    for name, right in verdicts.items():
        values = np.array(right, dtype=float)[:, None]
        figures[name] = float(values.mean()), lower_bound(values, lambda sums: sums[..., 0] / len(rows))
    return figures


@cache
def figures_of(part: str) -> Figures:
    rows = annotated(part)
    return measured(rows, CaptionParser().parse([row["caption"] for row in rows]))


@pytest.mark.parametrize("part", list(FLOORS))
def test_parser_is_as_accurate_as_when_it_was_measured(part: str) -> None:
    figures = figures_of(part)
    for name, (value, bound) in figures.items():
        print(f"{part} {name}: {value:.3f} (lower 95 % bound {bound:.3f})")
    too_low = {name: bound for name, (_, bound) in figures.items() if bound < FLOORS[part][name]}
    assert not too_low


OTHER = "other"
ORDINARY = {"tuned": ("dev", "dev2", "dev3"), "measured": ("heldout", "heldout2")}
"""English captions that were written for the parser."""


def captions_of(part: str) -> list[tuple[str, str]]:
    """Captions with en, hard (English that looks foreign), none or other."""
    rows = [json.loads(line) for line in (FOLDER / "languages.jsonl").read_text(encoding="utf-8").splitlines()]
    kinds = {"en": "hard", "none": "none"}
    found = [(row["caption"], kinds.get(row["language"], OTHER)) for row in rows[part == "measured" :: 2]]
    for name in ORDINARY[part]:
        lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        found += [(row["caption"], "en") for row in map(json.loads, lines) if row["objects"]]
    return found


@pytest.mark.parametrize("part", ["tuned", "measured"])
def test_one_english_caption_in_a_hundred_is_dropped_at_most(part: str) -> None:
    captions = captions_of(part)
    total = Counter(kind for _, kind in captions)
    dropped = Counter(kind for caption, kind in captions if not is_english(caption))
    english = dropped["en"] + dropped["hard"]
    precision = 1 - english / dropped.total()
    print(f"{part}: dropped {dict(dropped)} of {dict(total)}, precision {precision:.3f}")
    assert english <= 0.01 * (total["en"] + total["hard"])
    assert dropped[OTHER] >= 0.9 * total[OTHER]
    assert precision >= 0.9


def test_captions_that_look_foreign_are_kept_more_often_than_foreign_ones_are_missed() -> None:
    rows = [json.loads(line) for line in (FOLDER / "languages2.jsonl").read_text(encoding="utf-8").splitlines()]
    total = Counter(row["language"] == "en" for row in rows)
    dropped = Counter(row["language"] == "en" for row in rows if not is_english(row["caption"]))
    assert dropped[True] <= 0.1 * total[True]
    assert dropped[False] >= 0.97 * total[False]
