"""Who refers to a stage folder: every spelling of a place counts, and what is read by what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.references import reached, run_folders, stage_folders
from diht_k8s.runtime.run_folder import run_folder
from tests.folders import filled
from tests.unit.api.documents import changed

STORAGE = Storage()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("label/{digest}", "label/{digest}"),
        ("label/{digest}/labels", "label/{digest}"),
        ("{output}/label/{digest}/labels/", "label/{digest}"),
        ("file://{output}/label/{digest}", "label/{digest}"),
        ("out/label/{digest}", "label/{digest}"),
        ("out/../out/label/{digest}", "label/{digest}"),
        ("link", None),
        ("link/label/{digest}", "label/{digest}"),
        ("{output}/runs/latest/label", "label/{digest}"),
        ("{output}/raw/0.tar", None),
        ("elsewhere/label/{digest}", None),
        ("https://example.org/label/{digest}", None),
        ("{output}/label", None),
        ("a/b\0c", None),
    ],
)
def test_text_refers_to_a_stage_folder_in_every_spelling(
    text: str, place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"
    run = load(json.dumps(changed(spec__data__output=str(output))), name="test")
    digest = filled(run, Stage.LABEL, "label").partition("/")[2]
    Path("link").symlink_to("out")
    filled(run, Stage.TRAIN, "train", reads={"label": text.format(output=output, digest=digest)})
    (found,) = (folder for folder in stage_folders(STORAGE, str(output)) if folder.stage is Stage.TRAIN)
    assert found.reads == ({place.format(digest=digest)} if place else set())


def test_run_refers_to_what_its_pointers_lead_to_also_without_its_document(tmp_path: Path) -> None:
    run = load(json.dumps(changed(spec__data__output=str(tmp_path / "out"))), name="test")
    places = {filled(run, stage, stage.value) for stage in (Stage.FILTER, Stage.LABEL)}
    document = Path(run_folder(run), "run.json")
    for _ in range(2):
        assert [found.refers for found in run_folders(STORAGE, str(tmp_path / "out"))] == [places]
        document.unlink(missing_ok=True)
    document.write_text("{")
    with pytest.raises(DataError, match=r"run\.json is damaged: what the run refers to is not known"):
        list(run_folders(STORAGE, str(tmp_path / "out")))


def test_folder_of_a_person_among_the_runs_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "runs/mine/deeper").mkdir(parents=True)
    (tmp_path / "runs/mine/deeper/notes.txt").write_text("mine")
    assert list(run_folders(STORAGE, str(tmp_path))) == []


def test_places_are_reached_through_others_and_a_circle_ends() -> None:
    reads = {"a": ["b"], "b": ["c", "a"], "d": ["a"]}
    assert reached(["a"], reads) == {"a", "b", "c"}
    assert reached([], reads) == set()
