"""The first hour on a machine with cards: parts that fail or hang leave the others alone, and are repeated alone."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import pytest

from tests.gpu import first_hour
from tests.gpu.first_hour import Part

COUNTS = "import sys; open(sys.argv[1], 'a').write('x'); print('said'); sys.exit(int(sys.argv[2]))"


def parts(folder: Path, *codes: int) -> list[Part]:
    """Each counts its calls in a file, and ends with a code; -1 is one that hangs."""
    made = []
    for number, code in enumerate(codes):
        command = (sys.executable, "-c", COUNTS, f"{folder}/calls-{number}", str(code))
        hangs = (sys.executable, "-c", "import time; print('waits', flush=True); time.sleep(600)")
        made.append(Part(f"part{number}", hangs if code == -1 else command, 1.5 if code == -1 else 60, ""))
    return made


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *codes: int) -> int:
    monkeypatch.setattr(first_hour, "parts_of", lambda place, dry: parts(place, *codes))
    return first_hour.main(["--folder", str(folder)])


def test_parts_when_one_fails_and_one_hangs_then_the_others_run_and_all_is_told_and_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hour"
    (folder / "benchmark/data-1").mkdir(parents=True)
    (folder / "benchmark/data-1/shard.tar").write_text("data")
    (folder / "benchmark/results.md").write_text("table")
    assert call(monkeypatch, folder, 0, 3, -1, 0) == 1
    last = capsys.readouterr().out.splitlines()[-6:]
    assert [line.split()[:2] for line in last[:4]] == [
        ["part0", "ok"],
        ["part1", "failed"],
        ["part2", "ended"],
        ["part3", "ok"],
    ]
    assert "failed (3)" in last[1]
    assert last[4:] == [
        "failed: part1, part2; start again to repeat them",
        f"send back: {folder.resolve()}.tar.gz",
    ]
    with tarfile.open(f"{folder}.tar.gz") as tar:
        names = set(tar.getnames())
    assert {
        f"first-hour/{name}" for name in ("summary.txt", "part1.log", "part3.json", "benchmark/results.md")
    } <= names
    assert not [name for name in names if "data-1" in name]


def test_parts_of_a_dry_run_are_not_those_of_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_hour, "parts_of", lambda place, dry: parts(place, 0))
    for name in ("FOLDER", "REHEARSAL"):
        monkeypatch.setattr(first_hour, name, tmp_path / name)
    for value in ("cpu", ""):
        monkeypatch.setenv(first_hour.VARIABLE, value)
        assert first_hour.main([]) == 0
    assert [len(list((tmp_path / name).glob("part0.json"))) for name in ("REHEARSAL", "FOLDER")] == [1, 1]


def test_parts_when_started_again_then_those_that_went_well_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, tmp_path, 0, 3)
    assert call(monkeypatch, tmp_path, 0, 0) == 0
    assert [len((tmp_path / f"calls-{number}").read_text()) for number in range(2)] == [1, 2]
    said = capsys.readouterr().out
    assert "all parts went well" in said
    assert said.count("(kept)") == 1


@pytest.mark.parametrize("dry", [True, False])
def test_parts_are_the_machine_each_file_of_the_tier_and_the_benchmark(tmp_path: Path, dry: bool) -> None:
    made = first_hour.parts_of(tmp_path, dry=dry)
    files = sorted(path.stem.removeprefix("test_") for path in Path(first_hour.__file__).parent.glob("test_*.py"))
    assert sorted(part.name for part in made) == sorted(["machine", "benchmark", *files])
    assert ("--smoke" in made[-1].command) is dry


@pytest.mark.parametrize(("outcome", "code"), [("done", 0), ("out of memory", 0), ("failed", 1), ("too slow", 1)])
def test_benchmark_when_a_case_failed_then_the_part_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, code: int
) -> None:
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark/results.json").write_text(json.dumps({"cases": [{"outcome": outcome}]}))
    monkeypatch.setattr(first_hour, "parts_of", lambda place, dry: [Part("benchmark", ("true",), 60, "")])
    assert first_hour.main(["--folder", str(tmp_path)]) == code
