"""A run that the frozen release's programs began is finished by the next one's, or refused by name: what lies on storage is the same.

Real programs on drawn images, each a process with the packages of one release. Where the next release gives other results for a stage
it begins a folder of its own; a format that it no longer reads is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from tests.contract.whole_run import PLAIN, TRAIN, document, prepare
from tests.recipe.evaluate.small_run import pairs
from tests.upgrade.releases import frozen_version, next_release, other_results, unpacked

pytestmark = pytest.mark.timeout(600)
SHARDS, STEPS, SAVED_EACH = 20, 40, 10
OTHER_CHECKPOINTS = (
    "diht_k8s/stages/train/checkpoint/checkpoint.py",
    r"(?m)^CURSOR_VERSION = \d+$",
    "CURSOR_VERSION = 99",
)


LONGER = {"samples": 16 * STEPS, "checkpoint": {"everySamples": 16 * SAVED_EACH}}


@dataclass(frozen=True)
class Release:
    """The programs of one release, in a folder with a run."""

    code: Path
    folder: Path

    def start(self, stage: str, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "diht_k8s.cli", "stage", stage, "--run", "run.json", *words]
        env = {**os.environ, "PYTHONPATH": str(self.code), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=self.folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, stage: str, *words: str) -> tuple[int, str]:
        """Exit code and what it said."""
        process = self.start(stage, *words)
        said = process.communicate(timeout=300)[0]
        return process.returncode, said

    def stop(self, number: signal.Signals, stage: str, when: Callable[[], bool]) -> tuple[int, str]:
        """The same for a program that gets a signal as soon as something is so."""
        process = self.start(stage)
        while not when() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=300)[0]
        return process.returncode, said

    def train_halfway(self) -> None:
        """Until there is a checkpoint."""
        marker = "out/train/*/checkpoints/*/COMMITTED.json"
        code, said = self.stop(signal.SIGTERM, "train", lambda: any(self.folder.glob(marker)))
        assert (code, complete(self.folder, "train")) == (143, []), said


def folders(folder: Path, stage: str) -> list[Path]:
    """What runs have begun of a stage."""
    return sorted(path.parent for path in folder.glob(f"out/{stage}/*/STARTED.json"))


def complete(folder: Path, stage: str) -> list[Path]:
    return [path for path in folders(folder, stage) if (path / "COMMITTED.json").exists()]


def content(paths: list[Path]) -> dict[str, tuple[int, bytes]]:
    """When files were written, and what they hold."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def filtered_shards(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What was kept of the shards that are done: their scores come last."""
    scores = list(folder.glob("out/filter/*/scores/*.parquet"))
    return content([path.parents[1] / "kept" / f"{path.stem}.tar" for path in scores])


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The frozen release, the next one, and one that also filters otherwise and reads no checkpoints of before."""
    folder = tmp_path_factory.mktemp("releases")
    return {
        "old": unpacked(folder / "old"),
        "new": next_release(folder / "new"),
        "other": next_release(folder / "other", other_results(Stage.FILTER), OTHER_CHECKPOINTS),
    }


def test_filter_labels_and_training_that_the_release_began_are_finished_by_the_next_one(
    codes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (Release(codes[name], tmp_path) for name in ("old", "new"))
    monkeypatch.chdir(tmp_path)
    prepare()
    for number in range(SHARDS):
        write_samples(Storage(), f"out/raw/{number}.tar", pairs(30, 1000 * (number + 1)))
    Path("run.json").write_text(json.dumps(document("tiny", train={**TRAIN, **LONGER}, evaluate=None)))

    old.stop(signal.SIGKILL, "filter", lambda: any(tmp_path.glob("out/filter/*/scores/*.parquet")))
    kept = filtered_shards(tmp_path)
    assert (0 < len(kept) < SHARDS, complete(tmp_path, "filter")) == (True, [])
    shutil.copytree(tmp_path / "out", tmp_path / "other/out")
    shutil.copy(tmp_path / "run.json", tmp_path / "other")
    assert new.run("filter")[0] == 0
    [filtered] = complete(tmp_path, "filter")
    assert folders(tmp_path, "filter") == [filtered]
    assert kept.items() <= filtered_shards(tmp_path).items(), "what was kept stays"

    for step in ("vocabulary", "heads"):
        assert old.run("label", "--step", step)[0] == 0
    [labelled] = folders(tmp_path, "label")
    made = content([path for path in labelled.iterdir() if path.is_file()])
    assert complete(tmp_path, "label") == []
    assert new.run("label", "--step", "predict")[0] == 0
    assert complete(tmp_path, "label") == folders(tmp_path, "label") == [labelled]
    assert made.items() <= content([path for path in labelled.iterdir() if path.is_file()]).items()

    old.train_halfway()
    code, said = new.run("train")
    assert (code, "train: resuming after step" in said) == (0, True), said
    [trained] = folders(tmp_path, "train")
    steps = [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == sorted(steps)
    assert max(steps) == STEPS

    code, said = Release(codes["other"], tmp_path / "other").run("filter")
    version = frozen_version(Stage.FILTER)
    assert (code, f"filter: new because stage_version {version} -> {version}0" in said) == (0, True), said
    begun, ended = folders(tmp_path / "other", "filter"), complete(tmp_path / "other", "filter")
    [left] = [path for path in begun if path not in ended]
    assert kept == content([left / "kept" / name for name in kept]), "what the older one has made is left alone"


@pytest.mark.slow
def test_training_whose_checkpoints_the_next_release_does_not_read_is_refused_and_nothing_is_lost(
    codes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, other = (Release(codes[name], tmp_path) for name in ("old", "other"))
    monkeypatch.chdir(tmp_path)
    prepare()
    bare: dict[str, Any] = {"filter": None, "label": None, "evaluate": None}
    Path("run.json").write_text(json.dumps(document("raw", train={**PLAIN, **LONGER}, **bare)))
    old.train_halfway()
    saved = sorted(tmp_path.glob("out/train/*/checkpoints/*"))
    code, said = other.run("train")
    assert (code, complete(tmp_path, "train")) == (65, [])
    assert "has version 2, this program reads 99: use the program that wrote it" in said
    assert sorted(tmp_path.glob("out/train/*/checkpoints/*")) == saved
