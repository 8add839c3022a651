"""`filter.junkField`: the report says what each rule drops of each kind of junk, whoever filtered and however often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.captions.parser import CaptionParser
from tests.recipe.filter.shards import drawn, filter_with, pair, report_of, rows_of, run_of, tar_of

GOOD, SIMPLE, FOREIGN = "a small dog chasing a red ball", "server", "ein kleiner Hund jagt einen roten Ball im Garten"
RULES: dict[str, Any] = {"junkField": "junk", "duplicates": "Exact", "maxBadPercent": 50}
EVIL = "<script>alert(1)</script>"


def pool(folder: Path) -> str:
    """Shards a and b: their pairs, each a colour, a caption and a kind of junk."""
    shards = {
        "a": [("red", GOOD, ""), ("red", GOOD, "repeat"), ("green", SIMPLE, "file name"), ("blue", SIMPLE, "")],
        "b": [("red", GOOD, "repeat"), ("pink", FOREIGN, "foreign"), ("grey", GOOD, EVIL), ("", GOOD, "foreign")],
    }
    folder.mkdir(exist_ok=True)
    for name, samples in shards.items():
        members = [
            member
            for number, (colour, caption, kind) in enumerate(samples)
            for member in pair(
                f"{name}-{number}",
                caption,
                drawn(colour=colour) if colour else b"",
                uid=f"{name}-{number}",
                **({"junk": kind} if kind else {}),
            )
        ]
        (folder / f"{name}.tar").write_bytes(tar_of(members))
    return f"{folder}/*.tar"


def junk(output: Path) -> dict[str, Any]:
    return report_of(output)["junk"]


def run_in(folder: Path, **more: Any) -> DihtRun:
    return run_of(folder / "out", pool(folder / "in"), RULES | more)


@pytest.mark.parametrize("output", ["Shards", "KeepList"])
def test_report_tells_what_became_of_each_kind(tmp_path: Path, output: str) -> None:
    filter_with(run_in(tmp_path, output=output))
    found = junk(tmp_path / "out")
    assert found["wanted"] == {"pairs": 2, "kept": 1, "dropped": {"complexity": 1}}
    assert found["junk"] == {"pairs": 5, "kept": 1, "dropped": {"complexity": 1, "duplicate": 2, "language": 1}}
    assert {row.pop("kind"): row for row in found["kinds"]} == {
        "foreign": {"pairs": 1, "kept": 0, "dropped": {"language": 1}},
        "repeat": {"pairs": 2, "kept": 0, "dropped": {"duplicate": 2}},
        "file name": {"pairs": 1, "kept": 0, "dropped": {"complexity": 1}},
        EVIL: {"pairs": 1, "kept": 1, "dropped": {}},
    }
    assert [row.junk for row in rows_of(tmp_path / "out", "web-a")] == ["", "repeat", "file name", ""]


def test_counts_of_earlier_scores_are_those_of_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = pool(tmp_path / "in")
    filter_with(run_of(tmp_path / "out", shards, {**RULES, "junkField": None}))
    monkeypatch.setattr(CaptionParser, "parse", None)
    filter_with(run_of(tmp_path / "out", shards, RULES))
    monkeypatch.undo()
    filter_with(run_of(tmp_path / "fresh", shards, RULES))
    assert junk(tmp_path / "out") == junk(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("taken", "gone"), [("a-0", {"wanted"}), ("a-2", {"file name"}), ("b-2", {EVIL})], ids=["kept", "dropped", "last"]
)
def test_takedown_leaves_no_name_of_a_kind_that_only_the_pair_had(tmp_path: Path, taken: str, gone: set[str]) -> None:
    run = run_in(tmp_path)
    filter_with(run)
    (tmp_path / "list").write_text(taken)
    purge(run, Storage(), f"{tmp_path}/list", StopFlag())
    found = junk(tmp_path / "out")
    kinds = {row["kind"] for row in found["kinds"]} | ({"wanted"} if found["wanted"]["kept"] else set())
    assert kinds == {"foreign", "repeat", "file name", EVIL, "wanted"} - gone
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and "wanted" not in gone:
            assert all(name.encode() not in path.read_bytes() for name in gone), path
