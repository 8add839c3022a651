"""Settings of the labels: the plan is the protocol's, and what the tables conclude follows from the published trainings."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import label_settings
from benchmarks.ablation import label_plan, plan, published_labels
from benchmarks.ablation.published import publish
from benchmarks.ablation.published_labels import SoftLabels
from benchmarks.ablation.results import read_lines
from benchmarks.ablation.table import Cell
from diht_k8s.api.documents import load
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.paired_bootstrap import Difference
from diht_k8s.report.per_image import PerImage, write_per_image
from diht_k8s.stages.label.soft_labels import HeadLabels

PROTOCOL = " ".join((label_settings.ROOT / "benchmarks/ablation/PROTOCOL-4.md").read_text().split())
ARMS = {"things": ["distill", "distill_captions"], "default": ["distill", "distill_untrained"]}


def test_plan_when_compared_with_its_protocol_then_has_its_settings_galleries_lengths_and_seeds() -> None:
    for name, overrides in label_plan.SETTINGS.items():
        told = PROTOCOL.split(f"| `{name}` | ")[1].split(" |")[0]
        assert re.findall(r"`([\w.]+): ([\d.]+)`", told) == [
            tuple(each.removeprefix("label.").split("=")) for each in overrides
        ]
    last = label_plan.FIRST_SEED + label_plan.SEEDS - 1
    assert f"Arms at 6,000 steps, seeds {label_plan.FIRST_SEED} to {last}:" in PROTOCOL
    assert f"3,000 steps, seeds {label_plan.CHOICE_FIRST_SEED} and {label_plan.CHOICE_FIRST_SEED + 1}," in PROTOCOL
    assert (label_plan.STEPS, label_plan.CHOICE_STEPS) == (6000, 3000)
    assert re.findall(r"\(`([\w-]+)`\)", PROTOCOL) == [name.removesuffix("-names") for name in label_plan.GALLERIES]
    text = (label_settings.ROOT / plan.DOCUMENT).read_text()
    for overrides in label_plan.SETTINGS.values():
        run = load(text, name=plan.DOCUMENT, overrides=[*overrides, label_plan.MEASURED])
        assert run.spec.evaluate is not None
        assert [each.name for each in run.spec.evaluate.benchmarks] == [*label_plan.GALLERIES, *label_plan.SHOWN]
    assert not [name for name in label_plan.GALLERIES if name in text], (
        "another training would open what is confirmed on"
    )


def choice(**r5: float) -> list[dict[str, Any]]:
    """Lines of a choice by `arm__setting`, two seeds around a mean."""
    return [
        {
            "setting": name.split("__")[1],
            "arm": name.split("__")[0],
            "seed": seed,
            **{f"{each} r5": value + sign for each in plan.DEVELOPMENT},
        }
        for name, value in r5.items()
        for seed, sign in ((200, -0.5), (201, 0.5))
    ]


@pytest.mark.parametrize(
    ("r5", "arms"),
    [
        ({"distill__default": 5, "distill__things": 5, "distill__things_224": 4}, {}),
        (
            {
                "distill__default": 5,
                "distill__things": 6,
                "distill_untrained__default": 4,
                "distill_untrained__things": 3,
                "distill_captions__default": 2,
                "distill_captions__things": 3,
            },
            ARMS,
        ),
        (
            {
                "distill__things_224": 7,
                "distill__things": 6,
                "distill_untrained__default": 4,
                "distill_untrained__things_224": 4,
                "distill_captions__default": 3,
                "distill_captions__things_224": 2,
            },
            {"things_224": ["distill"], "default": ["distill", "distill_untrained", "distill_captions"]},
        ),
    ],
)
def test_choice_takes_the_best_setting_and_for_each_control_the_better_one(
    r5: dict[str, float], arms: dict[str, list[str]]
) -> None:
    assert label_settings.chosen_arms(choice(**r5)) == arms


def test_choice_when_told_in_the_protocol_then_is_the_published_one() -> None:
    lines = read_lines(label_settings.PUBLISHED / label_settings.CHOICE)
    for arm in ("distill", *label_plan.CONTROLS):
        means = {
            setting: np.mean(
                [
                    line[f"{each} r5"]
                    for line in lines
                    if (line["arm"], line["setting"]) == (arm, setting)
                    for each in plan.DEVELOPMENT
                ]
            )
            for setting in {line["setting"] for line in lines if line["arm"] == arm}
        }
        chosen = label_settings.best(lines, arm)
        told = PROTOCOL.split("What the choice gave")[1].split(f"| `{arm}` | ")[1].split(" |")
        for setting, cell in zip(label_plan.SETTINGS, told, strict=False):
            bold = "**" * (setting == chosen)
            assert cell.strip() == (f"{bold}{means[setting]:.1f}{bold}" if setting in means else "")


def test_outcome_when_told_in_protocol_and_readme_then_is_what_the_published_trainings_give() -> None:
    shown = label_settings.tables(label_settings.PUBLISHED)
    protocol, readme = (
        (label_settings.ROOT / "benchmarks" / name).read_text() for name in ("ablation/PROTOCOL-4.md", "README.md")
    )
    assert shown in protocol
    row = next(line for line in readme.splitlines() if '<a id="confirmation"></a>' in line)
    for against in (*label_plan.CONTROLS, label_settings.OTHER):
        cells = next(line for line in shown.splitlines() if line.startswith(f"| `distill` | `{against}` |")).split(
            " | "
        )
        for cell in cells[2 : 2 + len(label_plan.GALLERIES)]:
            bold, value, low, high = re.findall(r"(\**)([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)", cell)[0]
            assert f"{bold}{value}{bold} ({low.removeprefix('+')} to {high.removeprefix('+')})" in row


def test_confirmation_trains_each_seed_of_each_chosen_arm_once_on_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published").mkdir()
    r5 = {"distill__things": 6.0, "distill_untrained__default": 4.0, "distill_captions__things": 3.0}
    lines = choice(**r5)
    (tmp_path / "published/choice.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ran: list[list[str]] = []
    labelled: list[str] = []
    monkeypatch.setattr(label_settings, "PUBLISHED", tmp_path / "published")
    monkeypatch.setattr(label_settings, "run", lambda commands, _: ran.extend(commands))
    monkeypatch.setattr(label_settings, "make_labels", lambda setting, *_, **__: labelled.append(setting))
    monkeypatch.setattr(label_settings, "publish", lambda *_: 0)
    (tmp_path / "work/labels/things").mkdir(parents=True)
    (tmp_path / "work/labels/things/pool.npz").write_bytes(b"labels")
    label_settings.confirm(
        argparse.Namespace(work=tmp_path / "work", evidence=tmp_path / "evidence", processes=2, minutes=90)
    )
    trained = sorted(
        (setting, arm, seed)
        for command in ran
        for setting in [Path(command[command.index("--work") + 1]).name]
        for arm in command[command.index("--arms") + 1 : command.index("--first-seed")]
        for first in [int(command[command.index("--first-seed") + 1])]
        for seed in range(first, first + int(command[command.index("--seeds") + 1]))
    )
    seeds = range(label_plan.FIRST_SEED, label_plan.FIRST_SEED + label_plan.SEEDS)
    assert trained == sorted((setting, arm, seed) for setting, arms in ARMS.items() for arm in arms for seed in seeds)
    labels = {
        Path(command[command.index("--work") + 1]).name: command[command.index("--labels") + 1] for command in ran
    }
    assert labels == {"things": str(tmp_path / "published/things"), "default": str(label_settings.RESULTS)}
    assert (tmp_path / "published/things/pool.npz").read_bytes() == b"labels"
    assert labelled == ["things", "default"]
    assert all(label_plan.MEASURED in command and "samples=384000" in command for command in ran)


def cells(**signs: str) -> dict[tuple[str, str | None], list[Cell]]:
    """Two tested cells of each comparison: + clearly above, - clearly below, ? neither; a third, untested one is not clear."""
    value = {"+": 0.1, "-": -0.1, "?": 0.1}
    named = {"untrained": "distill_untrained", "captions": "distill_captions", "default": label_settings.OTHER}
    return {
        ("distill", against): [
            Cell(0.3, Difference(value[sign], -0.2, 0.2, 0.5), sign != "?") for sign in signs.get(name, "++") + "?"
        ]
        for name, against in named.items()
    }


@pytest.mark.parametrize(
    ("signs", "knowledge", "better"),
    [
        ({}, True, True),
        ({"untrained": "+?"}, False, True),
        ({"captions": "?+"}, False, True),
        ({"untrained": "+-"}, False, True),
        ({"default": "?+"}, True, False),
        ({"default": "--"}, True, False),
        ({"default": "??", "captions": "??"}, False, False),
    ],
)
def test_verdict_needs_both_galleries_and_for_the_knowledge_both_controls(
    signs: Mapping[str, str], knowledge: bool, better: bool
) -> None:
    found = label_settings.verdict(cells(**signs))
    assert ("knowledge helps." in found) == knowledge
    assert ("The setting is better than the default one." in found) == better


def published(folder: Path, shares: Mapping[str, float], seeds: int = label_plan.SEEDS, **other: int) -> Path:
    """A confirmation as the command publishes it, each arm with a share of hits."""
    rng, images = np.random.default_rng(0), 200
    for setting, arms in ARMS.items():
        lines = []
        for arm in arms:
            for seed in range(label_plan.FIRST_SEED, label_plan.FIRST_SEED + seeds):
                hits = {}
                for gallery in (*label_plan.GALLERIES, *label_plan.SHOWN):
                    hits[gallery] = f"hits/{arm}-{seed}/{gallery}.parquet"
                    share = shares.get(f"{arm}__{setting}", 0.2)
                    hits_N = (rng.random(images) < share).astype(float)
                    uids = [f"{n}{other.get(setting, '')}" for n in range(images)]
                    found = PerImage(uids, [""] * images, ["fox"] * images, {"r5": (hits_N, np.ones(images))})
                    write_per_image(Storage(), str(folder / setting / hits[gallery]), found)
                line = {"arm": arm, "seed": seed, "hits": hits, "split": "HeldOut", "pool": setting}
                lines.append(json.dumps({**line, "sizes": {"samples": other.get("samples", 384_000)}}) + "\n")
        (folder / setting / "results.jsonl").write_text("".join(lines))
        publish(folder / setting, folder / "published" / setting, "HeldOut")
        head = HeadLabels(np.zeros((4, 2), np.int64), np.full((4, 2), 0.5, np.float32))
        labels = {source: SoftLabels(head, head, (3, 3)) for source in ("teacher", "untrained", "captions")}
        published_labels.write(folder / "published" / setting, list("abcd"), labels)
    r5 = {"distill__things": 6.0, "distill_untrained__default": 4.0, "distill_captions__things": 3.0}
    (folder / "published/choice.jsonl").write_text("".join(json.dumps(line) + "\n" for line in choice(**r5)))
    return folder / "published"


def test_tables_when_all_is_trained_then_test_the_two_galleries_and_conclude(tmp_path: Path) -> None:
    shown = label_settings.tables(published(tmp_path, {"distill__things": 0.7, "distill__default": 0.69}))
    rows = {line.split(" | ")[1]: line for line in shown.splitlines() if line.startswith("| `distill`")}
    for control in label_plan.CONTROLS:
        assert rows[f"`{control}`"].count("**") == 2 * len(label_plan.GALLERIES)
    assert "**" not in rows[f"`{label_settings.OTHER}`"]
    assert "knowledge helps. The setting is not shown to be better than the default one.\n" in shown
    assert "**" not in shown.split("not tested:")[1]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seeds": label_plan.SEEDS - 1}, "has 14 trainings, not the 16 planned ones: nothing is tested"),
        ({"samples": 192_000}, "of other labels or lengths"),
        ({"default": 1}, "measured on other images of whh-names"),
    ],
)
def test_tables_when_a_training_is_missing_or_another_one_then_test_nothing(
    tmp_path: Path, other: dict[str, int], said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        label_settings.tables(published(tmp_path, {}, **other))


def test_tables_when_nothing_was_chosen_then_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no choice to confirm: run --choose"):
        label_settings.tables(tmp_path)
