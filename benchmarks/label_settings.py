"""Settings of the labels that leave the commonest words out, by `ablation/PROTOCOL-4.md`.

`--choose` makes the labels of each setting, trains on them and prints which one the development galleries choose;
`--confirm SETTING` trains what the protocol compares and publishes it; `--tables` prints that. Needs the corpus
(`python -m benchmarks.corpus`) and the second protocol's work folder, or its hour of filtering.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from benchmarks._arguments import make_parser
from benchmarks.ablation import label_plan, plan
from benchmarks.ablation.published import FIGURE, publish, restore
from benchmarks.ablation.results import read_hits, read_lines
from benchmarks.ablation.table import Cell, Column, Pair, cells_of, table
from benchmarks.evidence import RESULTS, ROOT
from diht_k8s.recipe.report.per_image import PerImage

PUBLISHED: Final = ROOT / "benchmarks/ablation/evidence-4"
DEFAULT: Final = next(iter(label_plan.SETTINGS))
OTHER: Final = "distill, default labels"


def labels_of(setting: str, work: Path) -> Path:
    """Where the labels of a setting lie."""
    return RESULTS if setting == DEFAULT else work / "labels" / setting


def make_labels(setting: str, options: argparse.Namespace, *, untrained: bool) -> None:
    """Run the label stage of a setting on the second protocol's pool."""
    from benchmarks.ablation.pools import publish_labels

    folder, overrides = labels_of(setting, options.work), label_plan.SETTINGS[setting]
    wanted = ("teacher", "untrained") if untrained else ("teacher",)
    if not all((folder / f"labels-{source}.parquet").exists() for source in wanted):
        publish_labels(plan.DOCUMENT, options.evidence, folder, RESULTS, overrides, untrained=untrained)


def ablation(setting: str, arms: Sequence[str], options: argparse.Namespace, *more: str) -> list[str]:
    """Command line of trainings on the labels of a setting."""
    folder = options.work / setting
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "junk").exists():
        (folder / "junk").symlink_to(options.evidence / "junk")  # the same captions, so the same tokens
    return [
        sys.executable, "-m", "benchmarks.ablation", "--document", plan.DOCUMENT, "--work", str(folder),
        "--labels", str(labels_of(setting, options.work)), "--arms", *arms, *more,
    ]  # fmt: skip


def run(commands: Sequence[Sequence[str]], processes: int) -> None:
    """Run commands side by side.

    Raises:
        SystemExit: one failed.
    """
    with ThreadPoolExecutor(processes) as pool:
        codes = list(pool.map(lambda command: subprocess.run(command, cwd=ROOT, check=False).returncode, commands))
    if any(codes):
        raise SystemExit(next(code for code in codes if code))


def choose(options: argparse.Namespace) -> None:
    """Train on each setting's labels, and print its R@5 on the development galleries."""
    for setting in label_plan.SETTINGS:
        make_labels(setting, options, untrained=False)
    seeds = ("--first-seed", str(label_plan.CHOICE_FIRST_SEED), "--seeds", str(label_plan.CHOICE_SEEDS))
    sizes = ("--split", "Development", "--set", *label_plan.CHOICE_SIZES)
    run([ablation(each, ["distill"], options, *seeds, *sizes) for each in label_plan.SETTINGS], options.processes)
    for setting in label_plan.SETTINGS:
        lines = [
            line for line in read_lines(options.work / setting / "results.jsonl") if line["split"] == "Development"
        ]
        r5_SG = [[line[f"{gallery} {FIGURE}"] for gallery in plan.DEVELOPMENT] for line in lines]
        print(f"{setting}: R@5 {np.mean(r5_SG):.2f} of {len(lines)} seeds, {r5_SG}")


def confirm(setting: str, options: argparse.Namespace) -> None:
    """Train the chosen setting, its controls and the default setting, and publish them with the labels."""
    make_labels(setting, options, untrained=True)
    seeds = ("--first-seed", str(label_plan.FIRST_SEED), "--seeds", str(label_plan.SEEDS))
    rest = ("--split", "HeldOut", "--set", *label_plan.SIZES)
    trained = ((setting, ["distill", "distill_untrained"]), (setting, ["distill_captions"]), (DEFAULT, ["distill"]))
    run([ablation(each, arms, options, *seeds, *rest) for each, arms in trained], options.processes)
    for each in (setting, DEFAULT):
        print(f"{publish(options.work / each, PUBLISHED / each, 'HeldOut')} trainings in {PUBLISHED / each}")
    for path in labels_of(setting, options.work).glob("labels-*.parquet"):
        (PUBLISHED / setting / path.name).write_bytes(path.read_bytes())


def tables(published: Path) -> str:
    """What the protocol tests, what it shows beside, and what follows.

    Raises:
        SystemExit: there is no confirmation, or a training of it is missing.
    """
    chosen = next((path.name for path in sorted(published.glob("*")) if path.name != DEFAULT), None)
    if chosen is None:
        raise SystemExit(f"{published} has no confirmation: run --confirm SETTING")
    with TemporaryDirectory() as work:
        hits = {gallery: dict[tuple[str, int], PerImage]() for gallery in (*label_plan.GALLERIES, *label_plan.SHOWN)}
        for setting in (chosen, DEFAULT):
            restore(published / setting, Path(work) / setting)
            lines = read_lines(Path(work) / setting / "results.jsonl")
            for gallery, found in hits.items():
                for (arm, seed), images in read_hits(Path(work) / setting, lines, gallery).items():
                    found[arm if setting == chosen else OTHER, seed] = images
    arms, seeds = (
        ("distill", *label_plan.CONTROLS, OTHER),
        range(label_plan.FIRST_SEED, label_plan.FIRST_SEED + label_plan.SEEDS),
    )
    if missing := [(arm, seed) for arm in arms for seed in seeds if (arm, seed) not in hits[label_plan.GALLERIES[0]]]:
        raise SystemExit(f"nothing is tested before the last training: {len(missing)} are missing, first {missing[0]}")
    pairs: list[Pair] = [("distill", None), *(("distill", each) for each in arms[1:])]
    columns = [
        Column(f"`{gallery}`", found, FIGURE, gallery in label_plan.GALLERIES) for gallery, found in hits.items()
    ]
    return f"Labels `{chosen}`:\n\n{table(columns, pairs)}\n\n{verdict(cells_of(columns, pairs))}"


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
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one core each (default: 2)")
    act = parser.add_mutually_exclusive_group(required=True)
    act.add_argument("--choose", action="store_true", help="train on each setting, measured on development galleries")
    act.add_argument(
        "--confirm", choices=list(label_plan.SETTINGS)[1:], help="train the chosen setting and its controls"
    )
    act.add_argument("--tables", action="store_true", help="print what is published")
    options = parser.parse_args()
    options.work, options.evidence = options.work.resolve(), options.evidence.resolve()
    if options.tables:
        print(tables(PUBLISHED))
    elif options.choose:
        choose(options)
    else:
        confirm(options.confirm, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
