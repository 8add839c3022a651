"""The tutorial "your own images" does what it says: its program makes shards, its document runs, on images of the demo."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.contract.trees import ROOT
from tools.check_docs import fences

PAGE = (ROOT / "docs/tutorial/own-images.md").read_text()
MAKE_SHARDS = next(fence.body for fence in fences(PAGE) if fence.language == "python")
DOCUMENT = next(fence.body for fence in fences(PAGE) if fence.language == "yaml")


def table_of_images(folder: Path, shard: str, number: int) -> None:
    """Images and captions of a shard as a person has them: files, and a table beside them."""
    (folder / "images").mkdir(parents=True)
    with tarfile.open(ROOT / "examples/data" / shard) as tar, (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        members = {member.name: member for member in tar.getmembers()}
        for name in [name for name in members if name.endswith(".webp")][:number]:
            image, meta = tar.extractfile(members[name]), tar.extractfile(members[name.replace(".webp", ".json")])
            assert image is not None
            assert meta is not None
            (folder / "images" / Path(name).name).write_bytes(image.read())
            writer.writerow([Path(name).name, json.load(meta)["caption"]])


def make_shards(folder: Path, program: Path, target: str) -> None:
    command = [sys.executable, "-I", program, folder / "captions.csv", folder / "images", target]
    subprocess.run(command, cwd=program.parent, check=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "make_shards.py").write_text(MAKE_SHARDS)
    (tmp_path / "my-run.yaml").write_text(DOCUMENT)
    for part, shard, number in (("train", "train/00000.tar.gz", 400), ("heldout", "development/00000.tar.gz", 200)):
        table_of_images(tmp_path / part, shard, number)
        make_shards(tmp_path / part, tmp_path / "make_shards.py", f"my-data/{part}")
    return tmp_path


def test_program_of_the_tutorial_makes_shards_with_every_pair(place: Path) -> None:
    with tarfile.open(place / "my-data/train/00000.tar") as tar:
        names = tar.getnames()
    assert len(names) == 800
    assert names[:2] == ["00000000.webp", "00000000.txt"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_document_of_the_tutorial_runs_to_its_report(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (["validate"], ["run", "--until", "filter"], ["run", "--set", "train.samples=1280"]):
        command = [sys.executable, "-P", "-m", "diht_k8s.cli", words[0], "my-run.yaml", *words[1:]]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        if "filter" in words:
            assert not (place / "runs/my-images/label").exists()
    report = json.loads((place / "runs/my-images/evaluate/report.json").read_text())
    assert [benchmark["name"] for benchmark in report["benchmarks"]] == ["heldout"]
