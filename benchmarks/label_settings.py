"""Settings of the labels that leave the commonest words out, by `ablation/PROTOCOL-4.md`.

`--choose` makes the labels of each setting, trains on them and writes what the development galleries choose;
`--confirm` trains what the protocol compares, and publishes it; `--tables` prints it. Needs the corpus (`python -m
benchmarks.corpus`) and the second protocol's work folder, or minutes of filtering and labelling.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks._arguments import make_parser
from benchmarks.ablation import label_plan, plan, published_labels
from benchmarks.ablation.arms import BATCH
from benchmarks.ablation.processes import ROOT, run, shares
from benchmarks.ablation.published import FIGURE, LINES, RESULTS, publish, published_hits, restore
from benchmarks.ablation.published_labels import POOL
from benchmarks.ablation.results import read_lines
from benchmarks.ablation.table import Cell, Column, Pair, cells_of, table
from diht_k8s.report.per_image import PerImage

PUBLISHED: Final = ROOT / "benchmarks/ablation/evidence-4"
CHOICE: Final = "choice.jsonl"
DEFAULT: Final = next(iter(label_plan.SETTINGS))
OTHER: Final = "distill, default labels"
Arms = dict[str, list[str]]
"""Setting -> arms that have its labels."""


def labels_of(setting: str, work: Path) -> Path:
    """Where the labels of a setting lie: where they are published, or in the work folder."""
    if setting == DEFAULT:
        return RESULTS
    published = PUBLISHED / setting
    return published if (published / POOL).exists() else work / "labels" / setting


def make_labels(setting: str, options: argparse.Namespace, *, untrained: bool) -> None:
    """Run the label stage of a setting on the second protocol's pool, unless its labels are there."""
    from benchmarks.ablation.pools import publish_labels

    folder, overrides = labels_of(setting, options.work), label_plan.SETTINGS[setting]
    wanted = [POOL, "labels-teacher.parquet", *(["labels-untrained.parquet"] if untrained else [])]
    if not all((folder / name).exists() for name in wanted):
        publish_labels(plan.DOCUMENT, options.evidence, folder, RESULTS, overrides, untrained=untrained)


def ablation(setting: str, arms: Sequence[str], options: argparse.Namespace, *more: str) -> list[str]:
    """Command line of trainings on the labels of a setting."""
    folder = options.work / setting
    folder.mkdir(parents=True, exist_ok=True)
    (options.evidence / "junk").mkdir(parents=True, exist_ok=True)
    if not (folder / "junk").is_symlink():
        (folder / "junk").symlink_to(options.evidence / "junk")  # the same captions, so the same tokens
    return [
        sys.executable,
        "-m",
        "benchmarks.ablation",
        "--document",
        plan.DOCUMENT,
        "--work",
        str(folder),
        "--labels",
        str(labels_of(setting, options.work)),
        "--arms",
        *arms,
        *more,
    ]


def choose(options: argparse.Namespace) -> None:
    """Train `distill` on each setting's labels, then the controls on those of the default and the chosen one; write the
    figures.
    """
    for setting in label_plan.SETTINGS:
        make_labels(setting, options, untrained=False)
    lines = _develop({setting: ["distill"] for setting in label_plan.SETTINGS}, options)
    chosen = best(lines, "distill")
    if chosen != DEFAULT:
        make_labels(chosen, options, untrained=True)
        lines += _develop({setting: list(label_plan.CONTROLS) for setting in (DEFAULT, chosen)}, options)
    PUBLISHED.mkdir(exist_ok=True)
    (PUBLISHED / CHOICE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    print("\n".join(map(json.dumps, lines)))
    print(f"chosen: {chosen_arms(lines)}")


def _develop(arms: Arms, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train on the choice's seeds; one line each."""
    first = label_plan.CHOICE_FIRST_SEED
    seeds = ("--first-seed", str(first), "--seeds", str(label_plan.CHOICE_SEEDS))
    rest = ("--split", "Development", "--set", *plan.sizes(label_plan.CHOICE_STEPS))
    run([ablation(setting, names, options, *seeds, *rest) for setting, names in arms.items()], options.processes)
    found = {
        (setting, line["arm"], line["seed"]): {
            key: line[key] for key in (f"{each} {FIGURE}" for each in plan.DEVELOPMENT)
        }
        for setting in arms
        for line in read_lines(options.work / setting / "results.jsonl")
        if line["split"] == "Development" and line["sizes"]["samples"] == label_plan.CHOICE_STEPS * BATCH
    }
    return [
        {"setting": setting, "arm": arm, "seed": seed, **found[setting, arm, seed]}
        for setting, names in arms.items()
        for arm in names
        for seed in range(first, first + label_plan.CHOICE_SEEDS)
    ]


def best(lines: Sequence[Mapping[str, Any]], arm: str) -> str:
    """The setting with the highest mean R@5 on the development galleries, the earlier one of equals."""
    figures = {
        setting: [
            line[f"{each} {FIGURE}"]
            for line in lines
            if (line["setting"], line["arm"]) == (setting, arm)
            for each in plan.DEVELOPMENT
        ]
        for setting in label_plan.SETTINGS
    }
    return max((setting for setting in figures if figures[setting]), key=lambda setting: sum(figures[setting]))


def chosen_arms(lines: Sequence[Mapping[str, Any]]) -> Arms:
    """What a confirmation trains; nothing if the default setting is the best."""
    chosen = best(lines, "distill")
    if chosen == DEFAULT:
        return {}
    arms: Arms = {chosen: ["distill"], DEFAULT: ["distill"]}
    for control in label_plan.CONTROLS:
        arms[best(lines, control)].append(control)
    return arms


def confirm(options: argparse.Namespace) -> None:
    """Train what was chosen, and publish what has ended, with the labels; another call goes on."""
    arms, deadline = _chosen(PUBLISHED), time.monotonic() + 60 * options.minutes
    rest = ("--split", "HeldOut", "--override", label_plan.MEASURED, "--set", *plan.sizes(label_plan.STEPS))
    for setting in arms:
        restore(PUBLISHED / setting, options.work / setting)
        make_labels(setting, options, untrained=True)
        if setting != DEFAULT and labels_of(setting, options.work) != PUBLISHED / setting:
            shutil.copytree(labels_of(setting, options.work), PUBLISHED / setting, dirs_exist_ok=True)
    for setting, names in arms.items():
        minutes = ("--minutes", f"{max(0.0, (deadline - time.monotonic()) / 60):.1f}")
        commands = [
            ablation(setting, names, options, "--first-seed", str(first), "--seeds", str(number), *minutes, *rest)
            for first, number in shares(label_plan.FIRST_SEED, label_plan.SEEDS, options.processes)
        ]
        run(commands, options.processes)
        print(f"{publish(options.work / setting, PUBLISHED / setting, 'HeldOut')} trainings in {PUBLISHED / setting}")


def _chosen(published: Path) -> Arms:
    arms = chosen_arms(lines) if (lines := read_lines(published / CHOICE)) else {}
    if not arms:
        raise SystemExit(f"{published / CHOICE} has no choice to confirm: run --choose")
    return arms


def tables(published: Path) -> str:
    """What the protocol tests, what it shows beside, and what follows.

    Raises:
        SystemExit: there is no choice, or what is published is not what it asks for.
    """
    hits = {gallery: dict[tuple[str, int], PerImage]() for gallery in (*label_plan.GALLERIES, *label_plan.SHOWN)}
    arms = _chosen(published)
    seeds = range(label_plan.FIRST_SEED, label_plan.FIRST_SEED + label_plan.SEEDS)
    for setting, names in arms.items():
        lines = read_lines(published / setting / LINES)
        wanted = sorted((arm, seed) for arm in names for seed in seeds)
        there = sorted((line["arm"], line["seed"]) for line in lines)
        if there != wanted:
            raise SystemExit(
                f"{published / setting} has {len(there)} trainings, not the {len(wanted)} planned ones: nothing is "
                f"tested"
            )
        same = {(line["pool"], line["sizes"]["samples"]) for line in lines}
        if len(same) != 1 or next(iter(same))[1] != label_plan.STEPS * BATCH:
            raise SystemExit(f"{published / setting} has trainings of other labels or lengths: {same}")
        for gallery, found in hits.items():
            for (arm, seed), images in published_hits(published / setting, lines, gallery).items():
                found[OTHER if (setting, arm) == (DEFAULT, "distill") else arm, seed] = images
    for gallery, found in hits.items():
        if len({tuple(images.uids) for images in found.values()}) != 1:
            raise SystemExit(f"trainings were measured on other images of {gallery}: they cannot be compared")
    pairs: list[Pair] = [("distill", None), *(("distill", each) for each in (*label_plan.CONTROLS, OTHER))]
    columns = [
        Column(f"`{gallery}`", found, FIGURE, gallery in label_plan.GALLERIES) for gallery, found in hits.items()
    ]
    beside: list[Pair] = [(each, OTHER) for each in label_plan.CONTROLS]
    untested = table([replace(column, tested=False) for column in columns], beside)
    told = "; ".join(f"`{setting}` for {', '.join(f'`{name}`' for name in names)}" for setting, names in arms.items())
    said = published_labels.agreement_table(published / next(iter(arms)))
    return (
        f"Labels: {told}.\n\n{table(columns, pairs)}\n\n{verdict(cells_of(columns, pairs))}\n\n"
        f"Controls beside the teacher's default labels, not tested:\n\n{untested}\n\n"
        f"What the chosen labels say, each image by heads that did not train on it:\n\n{said}"
    )


def verdict(cells: Mapping[Pair, Sequence[Cell]]) -> str:
    """What PROTOCOL-4.md concludes, in two sentences.

    Args:
        cells: pair -> its figures, the tested galleries first.
    """

    def above(against: str) -> bool:
        tested = cells["distill", against][: len(label_plan.GALLERIES)]
        return all(each.decided and each.difference is not None and each.difference.value > 0 for each in tested)

    knowledge = "helps" if all(map(above, label_plan.CONTROLS)) else "is not shown to help"
    better = "is better than" if above(OTHER) else "is not shown to be better than"
    return f"With these labels the teacher's knowledge {knowledge}. The setting {better} the default one."


def main() -> int:
    """Choose, confirm or print; returns the exit code."""
    parser = make_parser("label_settings", __doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/label-settings", help="folder (default: %(default)s)")
    parser.add_argument(
        "--evidence", type=Path, default=ROOT / "runs/evidence", help="work folder of `evidence` (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="with --confirm: begin no training after so long")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one core each (default: 2)")
    acts = parser.add_mutually_exclusive_group(required=True)
    acts.add_argument("--choose", action="store_true", help="choose by the development galleries")
    acts.add_argument("--confirm", action="store_true", help="train what was chosen and its controls, and publish")
    acts.add_argument("--tables", action="store_true", help="print what is published")
    options = parser.parse_args()
    options.work, options.evidence = options.work.resolve(), options.evidence.resolve()
    if options.tables:
        print(tables(PUBLISHED))
    elif options.choose:
        choose(options)
    else:
        confirm(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
