"""What `diht explain` says of pairs, by uid, key and path, of a real filter."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from diht_k8s.api.documents import dump
from diht_k8s.api.filter import Filter
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.pair_history import verdict, write_pair_table
from diht_k8s.runtime.run_folder import run_layout
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.scores import Row
from diht_k8s.stages.filter.text_spotting.matching import SpottedText
from tests.recipe.filter.shards import drawn, filter_with, pair, run_of, tar_of

GOOD = "a small dog chasing a red ball"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("explain")
    image = drawn()
    members = [
        *pair("k0", GOOD, image, uid="u0", source_path="photos/dog.png"),
        *pair("k1", "a red ball", image, uid="u1", source_path="photos/ball.png"),
        *pair("k2", "server", image, uid="u2"),
        *pair("k3", GOOD, b"broken", uid="u3"),
        *pair("k4", GOOD, image, uid="u4"),
    ]
    (place / "a.tar").write_bytes(tar_of(members))
    (place / "list.txt").write_text("u4\n")
    run = run_of(
        place / "out", f"{place}/a.tar", {"minActions": 1, "exclude": f"{place}/list.txt", "maxBadPercent": 100}
    )
    filter_with(run)
    (place / "run.json").write_text(dump(run))
    return place


SAID = {
    "u0": "filter   kept",
    "photos/dog.png": "u0: sample 0 of web-a, key k0, from photos/dog.png",
    "photos/ball.png": "filter   dropped by action: 'a red ball' has no action",
    "dog": "u0: sample 0 of web-a, key k0, from photos/dog.png",
    "ball.png": "u1: sample 1 of web-a, key k1, from photos/ball.png",
    "k2": "filter   dropped by complexity: 'server' has complexity 0, and minComplexity is 1",
    "u3": "filter   bad: picture_unreadable",
}


@pytest.mark.parametrize("name", SAID)
def test_pair_is_found_by_any_of_its_names_and_explained(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(folder / "run.json"), name]) == 0
    assert SAID[name] in capsys.readouterr().out


def test_pair_whose_raw_shard_is_gone_is_explained_without_its_words(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = (folder / "a.tar").rename(tmp_path / "a.tar")
    try:
        assert main(["explain", str(folder / "run.json"), "u1"]) == 0
    finally:
        hidden.rename(folder / "a.tar")
    assert "filter   dropped by action: the caption has no action" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("u4", "is on a list of takedowns"),
        ("nobody", "give a uid, a key or a path"),
        *((part, f"no pair of this run is called {part}") for part in ("do", "og", "d.g", "dog.jpg", "hotos/dog")),
    ],
)
def test_name_of_no_pair_is_refused(name: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(folder / "run.json"), name]) == 64
    assert said in capsys.readouterr().err


def test_table_tells_names_verdict_and_scores_of_all_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(folder / "run.json")]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["key"], row["kept"], row["reason"]) for row in table] == [
        ("k0", "True", ""),
        ("k1", "False", "action"),
        ("k2", "False", "complexity"),
        ("k3", "False", "bad:picture_unreadable"),
        ("", "False", "exclude"),
    ]
    assert [row["source"] for row in table][:3] == ["photos/dog.png", "photos/ball.png", ""]
    assert (table[0]["objects"], table[0]["num_actions"], table[4]["complexity"]) == ("dog; ball", "1", "")


@pytest.mark.parametrize("words", ["=1+1", "+1", "-1", "@sum(a1)", "\t=1"])
def test_cells_of_the_table_are_no_formulas(words: str, folder: Path) -> None:
    """What a spreadsheet would compute with the user's rights."""
    shard, out = folder / "b.tar", io.StringIO()
    shard.write_bytes(tar_of(pair("k", GOOD, drawn(), uid=words, source_path=words)))
    run = run_of(folder / f"formulas-{words.encode().hex()}", str(shard), {"minActions": 1})
    filter_with(run)
    storage = Storage()
    write_pair_table(storage, run_layout(run, storage), out, StopFlag())
    (row,) = csv.DictReader(io.StringIO(out.getvalue(), newline=""))
    assert (row["uid"], row["source"]) == (f"'{words}", f"'{words}")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("language", "dropped by language: 'x' is not in the language en"),
        ("text", "dropped by text: its image shows 'Sale', which is in 'x'"),
        ("duplicate", "dropped by duplicate: its image repeats an earlier one of the input"),
        ("clip_share", "dropped by clip_share: its score 0.2500 is below the share that clipScore keeps"),
        ("a later rule", "dropped by a later rule"),
    ],
)
def test_each_reason_is_told_with_its_numbers(reason: str, said: str) -> None:
    row = Row(
        shard="s", index="k", uid="u", caption_sha256="", reason=reason, clip_score=0.25, ocr=[SpottedText("Sale", 0.9)]
    )
    assert verdict(row, Filter(), "x") == said
