"""Outputs and a checkpoint that commit 980d9c5 made: later versions read the filter's output, find the later stages cached
and resume the training.

The archive holds two shards of the demo with 30 pairs each, a run document, the output of all stages, and the training as it
was left by a kill behind its first checkpoint (step 10 of 20, two ranks). A stage fails here when its `config_sha256`, a file
name or a file format has changed; a change that is meant (new parser rules, say) takes that stage out of the test, and the
CHANGELOG says that users run it again. So it is with the filter: its caption rules and its default language have changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.recipe.earlier import ARCHIVE, MODIFIED

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for shard in (tmp_path / "data").iterdir():
        os.utime(shard, (MODIFIED, MODIFIED))
    (tmp_path / "complete").rename(tmp_path / "out")
    return tmp_path


def run(folder: Path, *arguments: str, code: int = 0, command: Sequence[str] = ("run", "run.yaml")) -> list[str]:
    """The lines that a command prints before it ends with the exit code."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-m", "diht_k8s.cli", *command, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.splitlines() + done.stderr.splitlines()


def stage(folder: Path, name: str) -> str:
    """What one stage program prints."""
    return " ".join(run(folder, "--run", "run.yaml", command=("stage", name)))


def test_earlier_outputs_are_cached_and_read_by_the_stages_after_them(earlier: Path) -> None:
    for name in ("label", "train", "evaluate"):
        assert f"{name}: cached" in stage(earlier, name)


def test_earlier_filter_names_what_has_changed_and_keeps_its_output(earlier: Path) -> None:
    before = files_of(earlier / "out")
    refused = " ".join(run(earlier, code=64))
    assert "rules-5" in refused
    assert "add --replace" in refused
    after = files_of(earlier / "out")
    assert {name: after.get(name) for name in before} == before


def test_earlier_checkpoint_resumes(earlier: Path) -> None:
    shutil.rmtree(earlier / "out" / "train")
    (earlier / "partial-train").rename(earlier / "out" / "train")
    metrics = earlier / "out/train/metrics.jsonl"
    before = metrics.read_text().splitlines()
    stage(earlier, "train")
    after = metrics.read_text().splitlines()
    assert after[: len(before)] == before, "a training that starts again writes its first steps again"
    assert json.loads(after[-1])["step"] == 20


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MINE = (
    "filter/kept/mine.tar",
    "filter/scores/mine.parquet",
    "label/labels/mine.parquet",
    "train/model/mine.bin",
    "train/notes.txt",
    "evaluate/features/mine.safetensors",
)
"""Files of a person in the folders of the stages, with names as close to ours as can be."""


def test_replace_by_the_command_removes_exactly_what_the_earlier_version_wrote(earlier: Path) -> None:
    out = earlier / "out"
    for name in MINE:
        (out / name).write_bytes(name.encode())
    before = files_of(out)
    change = ("--set", "filter.minComplexity=0", "--until", "filter")
    refused = " ".join(run(earlier, *change, code=64))
    assert "add --replace" in refused
    assert f"leaves {len(MINE)} that this project did not write" in refused
    assert {name: data for name, data in files_of(out).items() if name in before} == before, "refused, so all is there"
    assert "--replace: removed the output of filter, label, train, evaluate" in " ".join(
        run(earlier, *change, "--replace")
    )
    after = files_of(out)
    assert {name for name in after if name.split("/")[0] in ("label", "train", "evaluate")} == set(MINE[2:])
    assert {name: after[name] for name in MINE} == {name: name.encode() for name in MINE}
    written = {name for name in after if name.startswith("filter/") and not name.startswith("filter/objects/")}
    new = {name for name in written if name.split("/")[1] in ("index", "summaries")}
    assert written - new == {name for name in before if name.startswith("filter/")}, "the filter has run again"
    assert new, "this version sums up groups of shards and indexes them"
    assert json.loads(after["filter/COMMITTED.json"])["config"]["config"]["minComplexity"] == 0
