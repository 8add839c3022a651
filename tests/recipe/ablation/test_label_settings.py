"""Settings of the labels: the plan is the protocol's, and what the tables conclude follows from the published trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import label_settings
from benchmarks.ablation import label_plan, plan
from benchmarks.ablation.published import publish
from benchmarks.ablation.table import Cell
from diht_k8s.api.documents import load
from diht_k8s.recipe.report.paired_bootstrap import Difference
from diht_k8s.recipe.report.per_image import PerImage, write_per_image
from diht_k8s.recipe.shards.storage import Storage

PROTOCOL = (label_settings.ROOT / "benchmarks/ablation/PROTOCOL-4.md").read_text()
ARMS = ("distill", *label_plan.CONTROLS)


def test_plan_when_compared_with_its_protocol_then_has_its_settings_galleries_and_seeds() -> None:
    rows = [line.split("`")[1] for line in PROTOCOL.splitlines() if line.startswith(("| `default`", "| `things"))]
    assert rows == list(label_plan.SETTINGS)
    last = label_plan.FIRST_SEED + label_plan.SEEDS - 1
    assert f"Arms at 6,000 steps, seeds {label_plan.FIRST_SEED} to {last}:" in PROTOCOL
    assert f"seeds {label_plan.CHOICE_FIRST_SEED} and {label_plan.CHOICE_FIRST_SEED + 1}" in PROTOCOL
    text = (label_settings.ROOT / plan.DOCUMENT).read_text()
    for overrides in label_plan.SETTINGS.values():
        load(text, name=plan.DOCUMENT, overrides=overrides)
    galleries = {each["name"] for each in yaml.safe_load(text)["spec"]["evaluate"]["benchmarks"]}
    assert {*label_plan.GALLERIES, *label_plan.SHOWN} <= galleries


def cells(**signs: str) -> dict[tuple[str, str | None], list[Cell]]:
    """Two tested cells of each comparison: + clearly above, - clearly below, ? neither; a third, untested one is clear."""
    value = {"+": 0.1, "-": -0.1, "?": 0.1}
    named = {"untrained": "distill_untrained", "captions": "distill_captions", "default": label_settings.OTHER}
    return {
        ("distill", against): [
            Cell(0.3, Difference(value[sign], -0.2, 0.2, 0.5), sign != "?") for sign in signs.get(name, "++") + "+"
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


def published(folder: Path, shares: Mapping[str, float], seeds: int = label_plan.SEEDS) -> Path:
    """A confirmation of `things`, each arm with a share of hits, as the command publishes it."""
    rng, images = np.random.default_rng(0), 200
    for setting, arms in (("things", ARMS), ("default", ("distill",))):
        lines = []
        for arm in arms:
            for seed in range(label_plan.FIRST_SEED, label_plan.FIRST_SEED + seeds):
                hits = {}
                for gallery in (*label_plan.GALLERIES, *label_plan.SHOWN):
                    hits[gallery] = f"hits/{arm}-{seed}/{gallery}.parquet"
                    share = shares.get(arm if setting == "things" else "default", 0.2)
                    hits_N = (rng.random(images) < share).astype(float)
                    found = PerImage([str(n) for n in range(images)], [""] * images, ["fox"] * images, {"r5": (hits_N, np.ones(images))})  # fmt: skip
                    write_per_image(Storage(), str(folder / setting / hits[gallery]), found)
                lines.append(json.dumps({"arm": arm, "seed": seed, "hits": hits, "split": "HeldOut"}) + "\n")
        (folder / setting / "results.jsonl").write_text("".join(lines))
        publish(folder / setting, folder / "published" / setting, "HeldOut")
    return folder / "published"


def test_tables_when_all_is_trained_then_test_the_two_galleries_and_conclude(tmp_path: Path) -> None:
    shown = label_settings.tables(published(tmp_path, {"distill": 0.7, "default": 0.69}))
    rows = {line.split(" | ")[1]: line for line in shown.splitlines() if line.startswith("| `distill`")}
    for control in label_plan.CONTROLS:
        assert rows[f"`{control}`"].count("**") == 2 * len(label_plan.GALLERIES)
    assert "**" not in rows[f"`{label_settings.OTHER}`"]
    assert shown.endswith("knowledge helps. The setting is not shown to be better than the default one.")


def test_tables_when_a_training_is_missing_then_test_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="run --confirm SETTING"):
        label_settings.tables(tmp_path)
    with pytest.raises(SystemExit, match="4 are missing, first"):
        label_settings.tables(published(tmp_path, {}, seeds=label_plan.SEEDS - 1))
