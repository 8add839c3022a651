"""The tutorial "your own images": its commands, as they stand there, lead from images of the demo to a report."""

from __future__ import annotations

import csv
import json
import shlex
import tarfile
from pathlib import Path

import pytest

from tests.contract.local import Diht
from tests.contract.trees import ROOT
from tests.contract.whole_run import IMPORTED
from tools.check_docs import fences

PAGE = (ROOT / "docs/tutorial/own-images.md").read_text()
COMMANDS = [line for fence in fences(PAGE) for line in fence.body.splitlines() if line.startswith("diht")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Images and captions as a person has them: files, and a table beside them."""
    (tmp_path / "images").mkdir()
    shard = ROOT / "examples/data/train/00000.tar.gz"
    with tarfile.open(shard) as tar, (tmp_path / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        members = {member.name: member for member in tar.getmembers()}
        for name in [name for name in members if name.endswith(".webp")][:400]:
            image, meta = tar.extractfile(members[name]), tar.extractfile(members[name.replace(".webp", ".json")])
            assert image is not None
            assert meta is not None
            (tmp_path / "images" / Path(name).name).write_bytes(image.read())
            writer.writerow([Path(name).name, json.load(meta)["caption"]])
    return tmp_path


def typed(place: Path, command: str, *more: str) -> str:
    """What a command of the page says; it must succeed."""
    words = [*shlex.split(command)[1:], *more]
    code, stdout, stderr = Diht(place, *words, variables={"PYTHONPATH": str(ROOT)}, modules=IMPORTED).end()
    assert code == 0, stdout + stderr
    return stdout


def test_commands_of_the_tutorial_lead_to_a_valid_run_document(place: Path) -> None:
    assert [command.split()[1] for command in COMMANDS] == [
        "import",
        "init",
        "validate",
        "run",
        "run",
        "init",
        "estimate",
    ]
    for command in COMMANDS[:3] + COMMANDS[5:]:
        typed(place, command)
    with tarfile.open(place / "data/photos/00000.tar") as tar:
        assert len(tar.getnames()) == 3 * 400


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_of_the_tutorial_lead_to_a_report(place: Path) -> None:
    for command in COMMANDS[:4]:
        typed(place, command)
    assert not (place / "runs/photos/label").exists()
    said = typed(place, COMMANDS[4], "--set", "train.samples=1280", "--set", "train.schedule.warmupSamples=128")
    assert (place / "runs/photos/runs/latest/report.html").stat().st_size > 10_000
    assert "report: " in said
