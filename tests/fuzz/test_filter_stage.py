"""Damaged shards through the whole filter stage: input = kept + dropped + bad, and input is the oracle's count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import dump
from diht_k8s.cli.main import main
from diht_k8s.data.shards.samples import count_samples
from diht_k8s.data.shards.storage import Storage
from tests.fuzz.tars import MUTATIONS, Case, case
from tests.recipe.filter.shards import rows_of, run_of, tolerating

FEW = 3 * len(MUTATIONS)
MANY = 20
"""Runs of `FEW` shards under --slow."""
ALL_ALLOWED = {"minComplexity": 0, "minActions": 0, "maxBadPercent": 100.0}


def filtered(folder: Path, made: dict[str, Case]) -> dict[str, Any]:
    """The marker of a stage over the cases' bytes."""
    (folder / "in").mkdir()
    for name, each in made.items():
        (folder / "in" / f"{name}.tar").write_bytes(each.data)
    run = run_of(folder / "out", f"{folder}/in/*.tar", ALL_ALLOWED)
    file = folder / "run.json"
    file.write_text(dump(tolerating(run, "100%")))
    assert main(["stage", "filter", "--run", str(file)]) == 0
    return json.loads((folder / "out/runs/latest/filter/COMMITTED.json").read_text())["summary"]


def problem_of(folder: Path, shard: dict[str, Any], made: Case, damage: dict[str, Any] | None) -> str | None:
    """What the stage did wrong with one shard, None if all is well."""
    if shard["input"] != shard["kept"] + sum(shard["bad"].values()) + sum(shard["dropped"].values()):
        return f"the counts do not add up: {shard}"
    rows = rows_of(folder / "out", shard["name"])
    keys = [row.index for row in rows[: len(made.unharmed)]]
    if len(rows) != shard["input"] or keys != [sample.key for sample in made.unharmed]:
        return f"{len(rows)} rows, {shard['input']} counted, {len(made.unharmed)} stand before the damage"
    if made.sound and (damage is not None or shard["input"] != len(made.unharmed)):
        return f"{shard['input']} of {len(made.unharmed)} samples of a sound archive"
    if damage is None and made.total is not None and shard["input"] < made.total:
        return f"{shard['input']} of {made.total} samples and no damage"
    if damage is not None and damage["salvaged"] != shard["input"]:
        return f"{damage['salvaged']} salvaged, {shard['input']} counted"
    if count_samples(Storage(), f"{folder}/out/runs/latest/filter/kept/{shard['name']}.tar") != shard["kept"]:
        return "the kept shard holds another number of pairs"
    return None


def problems(folder: Path, seeds: range) -> list[str]:
    made = {f"{seed:06}": case(seed) for seed in seeds}
    summary = filtered(folder, made)
    damages = {item["name"]: item for item in summary.get("damaged_shards", [])}
    assert len(summary["shards"]) == len(made)
    found = []
    for shard in summary["shards"]:
        each = made[shard["name"].removeprefix("web-")]
        if (problem := problem_of(folder, shard, each, damages.get(shard["name"]))) is not None:
            found.append(f"{shard['name']} ({each.kind}): {problem}")
    return found


def test_every_sample_of_damaged_shards_is_kept_dropped_or_bad(tmp_path: Path) -> None:
    assert problems(tmp_path, range(FEW)) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(1, MANY + 1))
def test_every_sample_of_many_damaged_shards_is_kept_dropped_or_bad(tmp_path: Path, part: int) -> None:
    assert problems(tmp_path, range(part * FEW, (part + 1) * FEW)) == []
