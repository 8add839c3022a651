"""The evidence's tables: split by kind of caption, bold only where the protocol tests, complete only with all trainings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import numpy as np
import pytest

from benchmarks.ablation import plan, published_labels
from benchmarks.ablation.arms import BATCH
from benchmarks.ablation.evidence_tables import best_length, first_tables, second_tables
from benchmarks.ablation.kinds import KINDS, by_kind
from benchmarks.ablation.published import LINES, publish
from benchmarks.ablation.published_labels import SoftLabels
from benchmarks.ablation.results import read_lines
from benchmarks.ablation.table import Column, table
from benchmarks.corpus.captions import COLOURS, GROUNDS, STYLES, Look, captions_of, kind_of
from benchmarks.evidence import FIRST, RESULTS, ROOT
from diht_k8s.recipe.label.soft_labels import HeadLabels
from diht_k8s.recipe.report.per_image import PerImage, write_per_image
from diht_k8s.recipe.shards.storage import Storage

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


def trainings(folder: Path, gains: dict[tuple[int, str], float], seeds: int) -> Path:
    """Published trainings of (steps, arm), each with a gain in every gallery."""
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
            development = {f"{gallery} r5": 100 * gain for gallery in plan.DEVELOPMENT}
            lines.append({"arm": arm, "seed": seed, **development, "hits": hits, "sizes": {"samples": steps * BATCH}, "pool": "p", "split": plan.SPLIT})  # fmt: skip
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
    done, _, tested, *rest = second_tables(published)
    assert "| 6,000 | 4 of 90 | `distill` 2, `distill_captions` 0" in done
    assert "not complete" in tested
    assert re.search(r"\| `distill` \| `plain` \| [\d.]+, \+[23]\d", tested)
    assert "**+" not in "".join([tested, *rest])
    assert "`hn_0.25`" not in tested


def test_second_protocol_when_one_arm_alone_is_trained_then_shows_it_and_compares_nothing(tmp_path: Path) -> None:
    _, _, tested, *rest = second_tables(trainings(tmp_path, {(6000, "distill"): 0.7}, seeds=1))
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
    _, _, tested, *rest = second_tables(published)
    assert "not complete" not in tested
    rows = [line.split(" | ") for line in tested.splitlines() if line.startswith("| `")]
    assert len(rows) == 7
    against = {row[1] for row in rows if row[0] == "| `distill`"}
    assert against == {
        "`distill_shuffled, 1,500 steps`", "`plain, 1,500 steps`", "`distill_captions, 1,500 steps`", "`distill_untrained, 1,500 steps`",
    }  # of equal lengths the shortest  # fmt: skip
    assert ["**" in row[2] for row in rows] == [True] * 4 + [False, True, False]
    assert "**" not in "".join("".join(row[3:]) for row in rows) + "".join(rest)


def test_best_length_when_seeds_are_missing_at_a_length_then_does_not_count_it() -> None:
    def lines(steps: int, seeds: int, figure: float) -> list[dict[str, object]]:
        development = {f"{gallery} r5": figure for gallery in plan.DEVELOPMENT}
        return [{"arm": "plain", "sizes": {"samples": steps * BATCH}, **development}] * seeds

    assert best_length([], "plain") == plan.STEPS
    assert best_length([*lines(1500, 9, 50), *lines(3000, 10, 20), *lines(6000, 10, 10)], "plain") == 3000
    assert best_length(lines(12000, 10, 90), "plain") == plan.STEPS


def test_tables_when_printed_from_the_published_trainings_then_are_those_in_the_repository() -> None:
    for shown in first_tables(FIRST, [6000]):
        assert shown in TABLES
    assert "**" not in "".join(part for part in TABLES.split("\n\n") if "not tested" in part)


def test_readme_when_it_counts_the_second_protocols_trainings_then_counts_the_published_ones() -> None:
    told = re.search(r"\*\*(\d+) of its (\d+) trainings", (ROOT / "benchmarks/README.md").read_text())
    planned = plan.SEEDS * sum(len(length.arms) for length in plan.LENGTHS)
    published = sum("hits" in line for line in read_lines(RESULTS / LINES))
    assert told is not None
    assert (int(told[1]), int(told[2])) == (published, planned)
