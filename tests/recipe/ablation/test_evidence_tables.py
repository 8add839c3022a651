"""The evidence's tables: split by kind of caption, bold only where the protocol tests, complete only with all trainings."""

from __future__ import annotations

import json
import re
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.ablation import plan, published_labels
from benchmarks.ablation.arms import BATCH
from benchmarks.ablation.evidence_tables import (
    FIRST_STEPS,
    best_length,
    counts_of,
    read_trainings,
    require_planned,
    second_tables,
)
from benchmarks.ablation.kinds import KINDS, by_kind
from benchmarks.ablation.processes import ROOT
from benchmarks.ablation.published import LINES, RESULTS, publish
from benchmarks.ablation.published_labels import SoftLabels
from benchmarks.ablation.results import read_lines
from benchmarks.ablation.table import Cell, Column, table
from benchmarks.ablation.verdicts import verdicts
from benchmarks.corpus.captions import COLOURS, GROUNDS, STYLES, Look, captions_of, kind_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.paired_bootstrap import Difference
from diht_k8s.report.per_image import PerImage, write_per_image
from diht_k8s.stages.label.soft_labels import HeadLabels

TABLES = (ROOT / "benchmarks/ablation/TABLES.md").read_text()


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("a teal pixelated icon showing a retro camera", "colour"),
        ("a red outline of a poll on a light green background", "colour"),
        ("poll on a light green background", "ground"),
        ("an emoji of a cat on a yellow background", "ground"),
        ("retro camera", "neither"),
        ("a black cross", "colour"),
        ("blackboard", "neither"),
        ("a fired clay pot", "neither"),
        ("yellow heart", "colour"),
    ],
)
def test_kind_when_a_caption_names_a_colour_a_ground_or_neither_then_says_so(caption: str, kind: str) -> None:
    assert kind_of(caption) == kind


def test_kind_when_captions_come_from_the_templates_then_is_what_was_drawn() -> None:
    for style in STYLES:
        for colour in COLOURS:
            for ground in GROUNDS:
                for caption in captions_of(Look("alarm clock", style, colour, ground, ("timer",)), Random(0)):
                    expected = (
                        "colour"
                        if colour in caption.split(" on ")[0].split()
                        else "ground"
                        if "background" in caption
                        else "neither"
                    )
                    assert kind_of(caption) == expected, caption


def test_figures_by_kind_when_added_up_then_are_the_figure_of_all() -> None:
    rng = np.random.default_rng(0)
    texts = ["a red fox", "fox on a yellow background", "fox", "a blue fox on a yellow background"]
    images = PerImage(list("abcd"), [""] * 4, texts, {"r5": (rng.random(4), np.full(4, 2.0))})
    found = by_kind(images, "r5")
    for part in range(2):
        total_N = sum(found.figures[f"r5 {kind}"][part] for kind in KINDS)
        np.testing.assert_allclose(total_N, images.figures["r5"][part])
    assert [found.figures[f"r5 {kind}"][1].sum() for kind in KINDS] == [4, 2, 2]


def test_table_when_a_column_is_not_tested_then_shows_intervals_and_corrects_and_marks_nothing_in_it() -> None:
    """The same clear difference twice: bold in the tested column alone, whose correction the other does not touch."""
    rng = np.random.default_rng(0)
    base_N = rng.random(300) < 0.3
    kept = {}
    for arm, hits_N in (("plain", base_N), ("distill", base_N | (rng.random(300) < 0.3))):
        kept[arm, 0] = PerImage([""] * 300, [""] * 300, [""] * 300, {"r5": (hits_N.astype(float), np.ones(300))})
    shown = table([Column("a", kept, "r5"), Column("b", kept, "r5", tested=False)], [("distill", "plain")])
    cells = shown.splitlines()[-1].split(" | ")
    assert re.fullmatch(r"[\d.]+, \*\*\+\d+\.\d \(.*\)\*\*", cells[2])
    assert cells[3] == cells[2].replace("**", "")
    assert cells[4] == "1 |"


def trainings(
    folder: Path,
    gains: dict[tuple[int, str], float],
    seeds: int,
    development: dict[tuple[int, str], float] | None = None,
) -> Path:
    """Published trainings of (steps, arm), each with a gain in every gallery; that on the development ones may be another."""
    rng, images = np.random.default_rng(0), 60
    galleries = [
        plan.PRIMARY,
        plan.CAPTIONS,
        *plan.ELSEWHERE,
        *(f"{name} {kind}" for name in plan.PROBES for kind in ("linear", "few-shot")),
    ]
    lines = []
    for (steps, arm), gain in gains.items():
        for seed in range(plan.FIRST_SEED, plan.FIRST_SEED + seeds):
            hits = {}
            for gallery in galleries:
                hits[gallery] = f"hits/{steps}-{arm}-{seed}/{gallery}.parquet"
                figure = "r5" if gallery in galleries[:5] else "accuracy"
                values = {figure: ((rng.random(images) < 0.2 + gain).astype(float), np.full(images, 2.0))}
                texts = ["a red fox", "fox", "fox on a yellow background"] * 20
                write_per_image(
                    Storage(),
                    str(folder / "work" / hits[gallery]),
                    PerImage([str(n) for n in range(images)], [""] * images, texts, values),
                )
            chosen_by = (development or {}).get((steps, arm), gain)
            figures = {f"{gallery} r5": 100 * chosen_by for gallery in plan.DEVELOPMENT} | {
                f"{plan.PRIMARY} r5": 100 * gain
            }
            lines.append(
                {
                    "arm": arm,
                    "seed": seed,
                    **figures,
                    "hits": hits,
                    "sizes": {"samples": steps * BATCH},
                    "pool": "p",
                    "split": plan.SPLIT,
                }
            )
    (folder / "work/results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    publish(folder / "work", folder / "published", plan.SPLIT)
    head = HeadLabels(np.zeros((4, 2), np.int64), np.full((4, 2), 0.5, np.float32))
    labels = {source: SoftLabels(head, head, (3, 3)) for source in ("teacher", "untrained", "captions")}
    published_labels.write(folder / "published", list("abcd"), labels)
    return folder / "published"


def test_second_protocol_when_trainings_are_missing_then_shows_how_many_there_are_and_tests_nothing(
    tmp_path: Path,
) -> None:
    published = trainings(tmp_path, {(6000, "distill"): 0.7, (6000, "plain"): 0.0}, seeds=2)
    done, _, verdict, tested, *rest = second_tables(published)
    assert verdict == "No verdict: 4 of the 170 trainings that decide are done."
    assert "| 6,000 | 4 of 90 | `distill` 2, `distill_captions` 0" in done
    assert "not complete" in tested
    assert re.search(r"\| `distill` \| `plain` \| [\d.]+, \+[23]\d", tested)
    assert "**+" not in "".join([tested, *rest])
    assert "`hn_0.25`" not in tested
    with (published / LINES).open("a") as file:
        file.write((published / LINES).read_text().splitlines()[0] + "\n")
    with pytest.raises(SystemExit, match="distill, 6000 steps, seed 100 is there twice"):
        next(second_tables(published))


def test_second_protocol_when_one_arm_alone_is_trained_then_shows_it_and_compares_nothing(tmp_path: Path) -> None:
    _, _, _, tested, *rest = second_tables(trainings(tmp_path, {(6000, "distill"): 0.7}, seeds=1))
    assert "No two arms" in tested
    assert rest
    assert all("| `distill` |  |" in part for part in rest)


def test_second_protocol_when_all_is_trained_then_tests_the_seven_comparisons_with_controls_at_their_best_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "SEEDS", 3)
    gains = {(length.steps, arm): 0.0 for length in plan.LENGTHS if length.steps <= plan.STEPS for arm in length.arms}
    gains[6000, "distill"] = 0.7
    gains[1500, "distill_shuffled"] = 0.1
    published = trainings(tmp_path, gains, seeds=plan.SEEDS)
    _, _, verdict, tested, *rest = second_tables(published)
    assert "Distillation helps: `distill` is clearly above `plain, 1,500 steps` (+" in verdict
    assert "The teacher's knowledge helps: " in verdict
    assert "Hard negatives are not shown to help: `hn_0.25` is not clearly different from `plain` (" in verdict
    assert "Hard negatives beside distillation harm: `distill_hn` is clearly below `distill` (-" in verdict
    assert "The filter on the junk pool is not shown to help: " in verdict
    assert "not complete" not in tested
    rows = [line.split(" | ") for line in tested.splitlines() if line.startswith("| `")]
    assert len(rows) == 7
    against = {row[1] for row in rows if row[0] == "| `distill`"}
    assert against == {
        "`distill_shuffled, 1,500 steps`",
        "`plain, 1,500 steps`",
        "`distill_captions, 1,500 steps`",
        "`distill_untrained, 1,500 steps`",
    }  # of equal lengths the shortest
    assert ["**" in row[2] for row in rows] == [True] * 4 + [False, True, False]
    assert "**" not in "".join("".join(row[3:]) for row in rows) + "".join(rest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "distill, 6000 steps, seed 100 is there twice"),
        ({"seed": 110}, "no training distill, 6000 steps, seed 110"),
        ({"arm": "hn_1"}, "no training hn_1, 6000 steps"),
        ({"sizes": {"samples": 384 * BATCH}}, "no training distill, 384 steps"),
        ({"seed": 101, "pool": "q"}, "has another pool"),
        ({"seed": 101, "sizes": {"samples": 6000 * BATCH, "lr": 1}}, "has another lr"),
    ],
    ids=["twice", "a seed too many", "another arm", "another length", "another pool", "another learning rate"],
)
def test_trainings_that_are_none_of_the_plan_or_there_twice_are_refused(change: dict[str, Any], said: str) -> None:
    line = {"arm": "distill", "seed": 100, "sizes": {"samples": 6000 * BATCH, "lr": 2, "gone": 1}, "pool": "p"}
    require_planned([line, {**line, "seed": 102}])
    fewer = {**line, "seed": 102, "sizes": {"samples": 6000 * BATCH, "lr": 2}}  # of other versions of the harness
    require_planned([line, fewer])
    require_planned([fewer, line])
    with pytest.raises(SystemExit, match=said):
        require_planned([line, line | change])


def test_one_comparison_when_computed_again_from_the_published_files_then_is_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the harness: best length, paired difference, interval and Holm's correction of the seven, in plain numpy."""
    monkeypatch.setattr(plan, "SEEDS", 3)
    gains = {(length.steps, arm): 0.0 for length in plan.LENGTHS if length.steps <= plan.STEPS for arm in length.arms}
    gains |= {(6000, "distill"): 0.7, (1500, "plain"): 0.2, (3000, "plain"): 0.1, (6000, "hn_0.25"): 0.22}
    chosen_by = {
        (1500, "plain"): 0.0,
        (3000, "plain"): 0.5,
    }  # of `plain` 1,500 steps are the best on the held-out gallery
    published = trainings(tmp_path, gains, plan.SEEDS, chosen_by)
    _, _, verdict, tested = islice(second_tables(published), 4)
    again = recomputed(published)
    row = next(line for line in tested.splitlines() if line.startswith("| `distill` | `plain, 3,000 steps`"))
    level, value, low, high = (float(each) for each in re.findall(r"[-+]?\d+\.\d", row.split(" | ")[2]))
    expected = again["distill", "plain"]
    assert (level, value) == (pytest.approx(100 * expected[0], abs=0.051), pytest.approx(100 * expected[1], abs=0.051))
    near = 4 * (expected[3] - expected[2])  # two draws of resamples differ by some percent of the interval
    assert (low, high) == (pytest.approx(100 * expected[2], abs=near), pytest.approx(100 * expected[3], abs=near))
    bold = {
        (arm, against.partition(",")[0])
        for arm, against in re.findall(r"\| `(\S+)` \| `(.+?)` \| [\d.]+, \*\*", tested)
    }
    assert bold
    assert bold == {pair for pair, each in again.items() if each[4] <= 0.05}
    assert ("hn_0.25", "plain") in bold or "Hard negatives are not shown" in verdict


def recomputed(published: Path) -> dict[tuple[str, str], tuple[float, float, float, float, float]]:
    """Arm and control -> level, difference, low, high, corrected p."""
    lines = [json.loads(line) for line in (published / "trainings.jsonl").read_text().splitlines()]
    hits = pq.read_table(published / "style-names.parquet").to_pydict()
    weights = np.array(hits["weight"], dtype=float)

    def figures(arm: str, steps: int) -> np.ndarray:
        own = [each for each in lines if (each["arm"], each["sizes"]["samples"]) == (arm, steps * 64)]
        own.sort(key=lambda each: each["seed"])
        return np.array([hits[each["hits"]["style-names"]] for each in own], dtype=float)

    def development(arm: str, steps: int) -> float:
        own = [each for each in lines if (each["arm"], each["sizes"]["samples"]) == (arm, steps * 64)]
        names = ("development-style-names r5", "development-concepts-names r5")
        return float(np.mean([each[name] for each in own for name in names]))

    controls = ("distill_captions", "distill_untrained", "distill_shuffled", "plain")
    best = {arm: max((1500, 3000, 6000), key=lambda steps: development(arm, steps)) for arm in controls}
    pairs = [("distill", arm, best[arm]) for arm in controls]
    pairs += [("hn_0.25", "plain", 6000), ("distill_hn", "distill", 6000), ("junk_kept", "junk_random", 6000)]
    rng, found = np.random.default_rng(7), {}
    for arm, control, steps in pairs:
        ours, theirs = figures(arm, 6000), figures(control, steps)
        gain, images, seeds = ours - theirs, len(weights), len(ours)
        value = gain.mean(axis=0).sum() / weights.sum()
        drawn = []
        for _ in range(4000):
            chosen, seed = rng.integers(0, images, images), rng.integers(0, seeds, seeds)
            of_seed = gain[:, chosen].sum(axis=1) / weights[chosen].sum()
            wider = np.sqrt(seeds / rng.chisquare(seeds - 1))
            drawn.append(of_seed.mean() + wider * (of_seed[seed].mean() - of_seed.mean()))
        spread = value + (np.array(drawn) - value) * np.sqrt(images / (images - 1))
        p = max(2 * min((spread <= 0).mean(), (spread >= 0).mean()), 2 / 10_000)
        low, high = np.quantile(spread, [0.025, 0.975])
        found[arm, control] = (ours.sum() / weights.sum() / seeds, value, low, high, p)
    ordered = sorted(found, key=lambda pair: found[pair][4])
    largest = 0.0
    for rank, pair in enumerate(ordered):
        largest = max(largest, min(1.0, (7 - rank) * found[pair][4]))
        found[pair] = (*found[pair][:4], largest)
    return found


CLEAR, UNCLEAR = 0.05, 0.01


def cell(value: float) -> Cell:
    """A difference that is clear from 5 points on."""
    return Cell(0.3, Difference(value, value - 0.02, value + 0.02, 0.01), abs(value) >= CLEAR)


def seven(**values: float) -> dict[tuple[str, str | None], Cell]:
    """The seven comparisons; those that are not given are not clear. A control's best length is in its name."""
    given = {
        "captions": "distill_captions, 1,500 steps",
        "untrained": "distill_untrained",
        "shuffled": "distill_shuffled",
    }
    pairs: list[tuple[str, str]] = [("distill", given.get(name, name)) for name in (*given, "plain")]
    found = {pair: cell(values.get(name, UNCLEAR)) for pair, name in zip(pairs, (*given, "plain"), strict=True)}
    others = {"hn": ("hn_0.25", "plain"), "both": ("distill_hn", "distill"), "junk": ("junk_kept", "junk_random")}
    return {**found, **{pair: cell(values.get(name, UNCLEAR)) for name, pair in others.items()}}


NOT_SHOWN = "is not shown to help"


@pytest.mark.parametrize(
    ("values", "distillation", "teacher"),
    [
        ({}, NOT_SHOWN, NOT_SHOWN),
        ({"plain": CLEAR}, NOT_SHOWN, NOT_SHOWN),
        ({"plain": CLEAR, "shuffled": CLEAR}, "helps", NOT_SHOWN),
        ({"plain": CLEAR, "shuffled": CLEAR, "untrained": CLEAR}, "helps", NOT_SHOWN),
        ({"plain": CLEAR, "shuffled": CLEAR, "captions": CLEAR}, "helps", NOT_SHOWN),
        ({"plain": CLEAR, "shuffled": CLEAR, "captions": CLEAR, "untrained": CLEAR}, "helps", "helps"),
        ({"captions": CLEAR, "untrained": CLEAR, "plain": CLEAR}, NOT_SHOWN, NOT_SHOWN),
        ({"plain": -CLEAR, "shuffled": CLEAR, "captions": CLEAR, "untrained": CLEAR}, NOT_SHOWN, NOT_SHOWN),
    ],
)
def test_verdict_on_distillation_and_teacher_needs_all_that_the_protocol_names(
    values: dict[str, float], distillation: str, teacher: str
) -> None:
    sentences = verdicts(seven(**values)).splitlines()[2:]
    assert sentences[0].startswith(f"- Distillation {distillation}: `distill` is ")
    assert sentences[1].startswith(f"- The teacher's knowledge {teacher}: `distill` is ")
    if "captions" not in values:
        missed = "`distill_captions, 1,500 steps` (+1.0 points, -1.0 to +3.0)"
        assert f"not clearly different from {missed}" in sentences[1]
    assert ("clearly below `plain` (-5.0 points" in sentences[0]) is (values.get("plain") == -CLEAR)


@pytest.mark.parametrize(
    ("value", "hard_negatives", "filter_"),
    [(CLEAR, "help", "helps"), (-CLEAR, "harm", "harms"), (UNCLEAR, "are not shown to help", NOT_SHOWN)],
)
def test_verdict_on_the_other_parts_is_that_of_their_one_comparison(
    value: float, hard_negatives: str, filter_: str
) -> None:
    sentences = verdicts(seven(hn=value, both=value, junk=value)).splitlines()[4:]
    assert [sentence.partition(":")[0] for sentence in sentences] == [
        f"- Hard negatives {hard_negatives}",
        f"- Hard negatives beside distillation {hard_negatives}",
        f"- The filter on the junk pool {filter_}",
    ]


def test_verdict_of_other_comparisons_than_the_seven_is_refused() -> None:
    tested = seven()
    for pair in tested:
        with pytest.raises(ValueError, match="the seven comparisons are other ones"):
            verdicts({other: each for other, each in tested.items() if other != pair})


def test_best_length_when_seeds_are_missing_at_a_length_then_does_not_count_it() -> None:
    def lines(steps: int, seeds: int, figure: float) -> list[dict[str, object]]:
        development = {f"{gallery} r5": figure for gallery in plan.DEVELOPMENT}
        return [{"arm": "plain", "sizes": {"samples": steps * BATCH}, **development}] * seeds

    assert best_length([], "plain") == plan.STEPS
    assert best_length([*lines(1500, 9, 50), *lines(3000, 10, 20), *lines(6000, 10, 10)], "plain") == 3000
    assert best_length(lines(12000, 10, 90), "plain") == plan.STEPS


def test_tables_when_printed_from_the_published_trainings_then_are_those_in_the_repository() -> None:
    assert counts_of(read_trainings(RESULTS)) in TABLES
    for part in islice(second_tables(RESULTS), 2, 4):  # the verdicts and the seven comparisons
        assert part in TABLES


def test_tables_when_not_tested_then_mark_nothing() -> None:
    parts = TABLES.split("\n\n")
    untested = [table for heading, table in pairwise(parts) if "not tested" in heading]
    assert len(untested) == len(FIRST_STEPS) + len(plan.LENGTHS)
    assert "**" not in "".join(untested)


def test_readme_when_it_tells_the_second_protocol_then_counts_its_trainings_and_has_its_seven_comparisons() -> None:
    readme = " ".join((ROOT / "benchmarks/README.md").read_text().split())
    told = re.search(r"(\d+) of (\d+) trainings are done", readme)
    published = len(read_lines(RESULTS / LINES))
    assert told is not None
    assert (int(told[1]), int(told[2])) == (published, plan.PLANNED)
    rows = TABLES.split("The seven comparisons")[1].split("\n\n")[1].splitlines()[2:]
    figures = [
        re.findall(r"(\**)([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)", row.split(" | ")[2])[0] for row in rows
    ]
    assert len(figures) == 7
    for bold, value, low, high in figures:
        assert f"{bold}{value}{bold} ({low.removeprefix('+')} to {high.removeprefix('+')})" in readme
