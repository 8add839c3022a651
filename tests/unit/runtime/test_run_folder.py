"""The folder of a run: which fields decide it, its pointers, and who decides where they lead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, RetryableError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import run_folder
from diht_k8s.runtime.references import reached, run_folders, stage_folders
from diht_k8s.runtime.run_folder import latest_run, layout_at, point, run_layout, runs_of, write_document
from tests.folders import filled
from tests.unit.api.documents import changed

ONE, OTHER = "1" * 64, "2" * 64
STORAGE = Storage()


def run_in(tmp_path: Path, **changes: Any) -> DihtRun:
    return load(json.dumps(changed(spec__data__output=str(tmp_path / "out"), **changes)), name="test")


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"spec__train__zeroStage": 2}, True),
        ({"spec__filter__workers": 3}, True),
        ({"spec__suspend": True}, True),
        ({"spec__pods": {"labels": {"a": "b"}}}, True),
        ({"spec__train__loss": {"beta": 0.5}}, False),
        ({"spec__seed": 7}, False),
        ({"metadata__name": "another"}, False),
    ],
    ids=str,
)
def test_only_the_name_and_fields_that_change_a_result_decide_the_folder(
    tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    assert (run_folder.run_folder(run_in(tmp_path, **changes)) == run_folder.run_folder(run_in(tmp_path))) == same


def test_two_spellings_of_the_output_name_one_run() -> None:
    one, other = (load(json.dumps(changed(spec__data__output=output)), name="a") for output in ("out", "/there/out"))
    assert run_folder.run_folder(one) == run_folder.run_folder(other).removeprefix("/there/")


def test_pointers_lead_later_stages_and_people_to_the_folders(tmp_path: Path) -> None:
    run, layout = run_in(tmp_path), Layout(str(tmp_path / "out"))
    assert (latest_run(STORAGE, layout.output), run_layout(run, STORAGE)) == (None, layout)
    write_document(run, STORAGE)
    found = layout.at(Stage.FILTER, ONE)
    point(run, STORAGE, found, Stage.FILTER)
    folder = run_folder.run_folder(run)
    for place in (layout.output, folder, f"{layout.output}/runs/latest", f"{layout.output}/runs/latest/"):
        assert layout_at(STORAGE, place) == found == run_layout(run, STORAGE), place
    assert found.stage(Stage.FILTER) == f"{tmp_path}/out/filter/{ONE[:16]}"
    Path(found.stage(Stage.FILTER)).mkdir(parents=True)
    assert (tmp_path / "out/runs/latest/filter").resolve() == Path(found.stage(Stage.FILTER))
    assert [(each.metadata.name, place) for each, place in runs_of(STORAGE, layout.output)] == [("a-run", found)]


def test_worker_0_leads_an_earlier_pointer_elsewhere_and_others_wait_for_it(tmp_path: Path) -> None:
    run, layout = run_in(tmp_path), Layout(str(tmp_path / "out"))
    point(run, STORAGE, layout.at(Stage.FILTER, ONE), Stage.FILTER, lead=False)  # the first one need not wait
    waited = list[float]()

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            point(run, STORAGE, layout.at(Stage.FILTER, OTHER), Stage.FILTER)

    point(run, STORAGE, layout.at(Stage.FILTER, OTHER), Stage.FILTER, lead=False, sleep=sleep)
    assert len(waited) == 3
    with pytest.raises(RetryableError, match=r"worker 0 of the stage filter has not begun .*/filter/1111111111111111 "):
        point(run, STORAGE, layout.at(Stage.FILTER, ONE), Stage.FILTER, lead=False, sleep=waited.append)
    assert sum(waited[3:]) == run_folder.WAIT_SECONDS
    assert run_layout(run, STORAGE) == layout.at(Stage.FILTER, OTHER)


def test_file_of_a_person_in_the_place_of_a_link_stays(tmp_path: Path) -> None:
    run, layout = run_in(tmp_path), Layout(str(tmp_path / "out")).at(Stage.FILTER, ONE)
    (tmp_path / "out/runs").mkdir(parents=True)
    (tmp_path / "out/runs/latest").write_text("mine")
    point(run, STORAGE, layout, Stage.FILTER)
    assert (tmp_path / "out/runs/latest").read_text() == "mine"
    assert run_layout(run, STORAGE) == layout


def test_damaged_pointer_is_a_data_error(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    STORAGE.write_bytes(f"{run_folder.run_folder(run)}/filter.json", b"{")
    with pytest.raises(DataError, match=r"filter\.json is damaged: remove this file and start the run again"):
        run_layout(run, STORAGE)


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
    document = Path(run_folder.run_folder(run), "run.json")
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
