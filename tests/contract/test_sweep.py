"""`diht sweep` with stub stage programs: shared stages, comparison, a variant that fails, interruption."""

from __future__ import annotations

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.cli.main import main
from tests.contract.local import DOCUMENT, Diht, Stub, wait_for, write_run

EVALUATE = {"benchmarks": [{"name": "b", "type": "Retrieval", "shards": ["b.tar"]}]}
SMALL: dict[str, Any] = {**DOCUMENT["spec"], "evaluate": EVALUATE}
SPEC = {**SMALL, "label": {}, "train": {"model": "ViT-B-32", "samples": 8, "batchSize": 8}}
NAMES = ["tiny-beta-0-1-seed-0", "tiny-beta-0-1-seed-1", "tiny-beta-0-5-seed-0", "tiny-beta-0-5-seed-1"]
TWO_BY_TWO = ("--vary", "train.loss.beta=0.1,0.5", "--seeds", "2")


def started(folder: Path, *arguments: str, spec: dict[str, Any] = SPEC, stub: Stub | None = None) -> Diht:
    write_run(folder, {**DOCUMENT, "spec": spec})
    return Diht(folder, "sweep", "run.json", *arguments, stub=stub)


def sweep(folder: Path, *arguments: str, spec: dict[str, Any] = SPEC, stub: Stub | None = None) -> tuple[int, str, str]:
    return started(folder, *arguments, spec=spec, stub=stub).end()


def committed(folder: Path) -> list[int]:
    return [
        len(list((folder / "out" / stage).glob("*/COMMITTED.json")))
        for stage in ("filter", "label", "train", "evaluate")
    ]


def attempts(folder: Path, stage: str) -> int:
    return (folder / "out" / f"attempts-{stage}-0").stat().st_size


def states(stdout: str) -> list[list[str]]:
    """The stages' columns of the table, a row a variant."""
    lines = stdout.splitlines()
    columns = len(lines[0].split()) - lines[0].split().index("filter")
    return [line.split()[-columns:] for line in itertools.takewhile(lambda line: ":" not in line, lines[1:])]


def compared(stdout: str) -> list[str]:
    """The words of the comparison's head."""
    lines = stdout.splitlines()
    return lines[next(number for number, line in enumerate(lines) if "pairs kept" in line) - 1].split()


def test_variants_share_what_they_have_in_common_and_are_compared_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = sweep(tmp_path, *TWO_BY_TWO)
    assert (code, stderr) == (0, "")
    first, *others = states(stdout)
    assert (first, others) == (["new"] * 4, [["shared", "shared", "new", "new"]] * 3)
    assert committed(tmp_path) == [1, 1, 4, 4]
    assert [attempts(tmp_path, part) for part in ("filter", "label-heads", "train", "evaluate")] == [1, 1, 4, 4]
    shown = [line.partition(" (")[0] for line in stdout.splitlines() if " of 4): " in line]
    assert shown == NAMES
    assert compared(stdout) == [f"{NAMES[0]},", NAMES[1], f"{NAMES[2]},", NAMES[3]], "seeds share a column"
    assert NAMES[3] in (tmp_path / "comparison.html").read_text()

    assert main(["list", str(tmp_path), "--sweep", "tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["name"]: each["state"] for each in found} == dict.fromkeys(NAMES, "complete")
    assert main(["list", str(tmp_path), "--sweep", "another"]) == 0
    assert capsys.readouterr().out.startswith("no runs of the sweep another below ")

    code, stdout, _ = sweep(tmp_path, *TWO_BY_TWO)
    assert (code, states(stdout)) == (0, [["cached"] * 4] * 4)
    assert [attempts(tmp_path, part) for part in ("filter", "train", "evaluate")] == [1, 4, 4]


def test_dry_run_prints_the_variants_and_begins_nothing(tmp_path: Path) -> None:
    code, stdout, stderr = sweep(tmp_path, *TWO_BY_TWO, "--dry-run")
    assert (code, stderr, len(states(stdout))) == (0, "", 4)
    assert stdout.splitlines()[-2:] == ["train: 4 for 4 variants: 4 new", "evaluate: 4 for 4 variants: 4 new"]
    assert not (tmp_path / "out").exists()


def test_others_run_where_one_variant_fails_and_the_first_failure_decides_the_code(tmp_path: Path) -> None:
    code, stdout, stderr = sweep(tmp_path, "--seeds", "3", spec=SMALL, stub={"train": [65, 64, "ok"]})
    assert (code, committed(tmp_path)) == (65, [1, 0, 1, 1])
    assert "diht: tiny-seed-0 failed with exit code 65" in stderr
    assert "diht: tiny-seed-1 failed with exit code 64" in stderr
    assert compared(stdout) == ["tiny-seed-2"]


def test_interrupted_sweep_stops_all_and_the_same_command_goes_on(tmp_path: Path) -> None:
    stub: Stub = {"train": ["ok", "hang", "ok"]}
    diht = started(tmp_path, "--seeds", "3", spec=SMALL, stub=stub)
    wait_for((tmp_path / "out/runs/latest/train/step").exists, 300)
    diht.process.send_signal(signal.SIGINT)
    code, stdout, stderr = diht.end()
    assert code == 143
    assert "to resume: diht sweep run.json --seeds 3" in stderr
    assert ("tiny-seed-2 (3 of 3)" in stdout, committed(tmp_path)) == (False, [1, 0, 1, 1])
    assert not (tmp_path / "comparison.html").exists()

    code, stdout, _ = sweep(tmp_path, "--seeds", "3", spec=SMALL, stub=stub)
    assert (code, committed(tmp_path), attempts(tmp_path, "filter")) == (0, [1, 0, 3, 3], 1)
    assert [row[-2] for row in states(stdout)] == ["cached", "begun", "new"]
    assert (tmp_path / "comparison.html").exists()
