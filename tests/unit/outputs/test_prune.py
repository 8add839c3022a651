"""Prune: what no run refers to goes, our files alone and in an order that never looks complete; what is in use
stays."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.errors import DataError, StopRequested
from diht_k8s.api.layout import MARKER, STARTED
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs import prune as own_files
from diht_k8s.outputs.prune import make_plan, plan_to_remove, remove
from diht_k8s.runtime import claims as watching
from diht_k8s.runtime.run_folder import latest_run, run_folder
from diht_k8s.runtime.signals import StopFlag
from tests.folders import filled
from tests.unit.api.documents import changed

STORAGE = Storage()
KEPT = {"kept/web-0.tar": b"kept", "scores/web-0.parquet": b"scores", "report.json": b"{}"}


def nobody(storage: Storage, folders: Iterable[str], stop: StopFlag) -> dict[str, str]:
    return {}


class Bench:
    """An output with two variants: both read one filter, each has a training of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"
        self.one, self.two = self.run("one"), self.run("two")
        self.filter = filled(self.one, Stage.FILTER, "f", files=KEPT)
        self.train_one = filled(
            self.one, Stage.TRAIN, "t1", reads={"filter": self.filter}, files={"metrics.jsonl": b"1"}
        )
        filled(self.two, Stage.FILTER, "f")
        self.train_two = filled(
            self.two, Stage.TRAIN, "t2", reads={"filter": self.filter}, files={"metrics.jsonl": b"2"}
        )

    def run(self, name: str, **changes: Any) -> DihtRun:
        document = changed(metadata__name=name, spec__data__output=str(self.output), **changes)
        return load(json.dumps(document), name="test")

    def forget(self, run: DihtRun) -> None:
        """Remove a run's folder, so that nobody refers to its stages."""
        STORAGE.remove(run_folder(run))

    def prune(self, keep: Collection[str] | None = None, stop: StopFlag | None = None) -> list[str]:
        plan = plan_to_remove(STORAGE, str(self.output), keep, stop or StopFlag(), watch=nobody)
        return [place.folder for place in remove(STORAGE, plan, stop or StopFlag())]

    def removable(self, keep: Collection[str] | None = None) -> set[str]:
        return {place.folder for place in make_plan(STORAGE, str(self.output), keep).removable}

    def run_place(self, run: DihtRun) -> str:
        return run_folder(run).removeprefix(f"{self.output}/")

    def files(self, place: str = "") -> set[str]:
        return set(STORAGE.files(f"{self.output}/{place}"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_every_run_refers_to_stays(bench: Bench) -> None:
    before = bench.files()
    assert bench.prune() == []
    assert bench.files() == before


def test_what_nobody_refers_to_goes_and_what_is_shared_stays(bench: Bench) -> None:
    bench.forget(bench.two)
    assert bench.prune() == [bench.train_two]
    assert not (bench.output / bench.train_two).exists()
    assert {*KEPT, STARTED, MARKER} == bench.files(bench.filter)


def test_folders_that_only_other_runs_refer_to_go_with_these_runs_once_one_is_to_be_kept(bench: Bench) -> None:
    assert bench.removable(["one"]) == {bench.train_two, bench.run_place(bench.two)}
    assert bench.prune(["one"]) == [bench.run_place(bench.two), bench.train_two]
    assert not (bench.output / "runs/two").exists()
    assert latest_run(STORAGE, str(bench.output)) == run_folder(bench.one)
    assert (bench.output / "runs/latest/train/metrics.jsonl").read_bytes() == b"1"


def test_folder_that_a_kept_one_reads_is_kept_through_a_chain(bench: Bench) -> None:
    source = filled(bench.run("source"), Stage.FILTER, "source", files=KEPT)
    other = filled(bench.run("other"), Stage.FILTER, "other", reads={"scores": f"{bench.output}/{source}/scores"})
    filled(bench.run("last"), Stage.LABEL, "last", reads={"filter": other})
    assert not {source, other} & bench.removable(["last"])
    assert {source, other} <= bench.removable(["one"])


def test_folder_that_a_runs_document_names_by_hand_is_referred_to_before_the_stage_begins(bench: Bench) -> None:
    named = filled(gone := bench.run("gone"), Stage.LABEL, "by hand")
    bench.forget(gone)
    assert bench.removable() == {named}
    filled(bench.run("user", spec__train__labels=f"{bench.output}/{named}"), Stage.FILTER, "f")
    assert bench.removable() == set()


def test_begun_folder_that_nobody_refers_to_is_named_so(bench: Bench) -> None:
    begun = filled(gone := bench.run("gone"), Stage.LABEL, "begun", files={"vocabulary.json": b"{}"}, complete=False)
    bench.forget(gone)
    found = {place.folder: place for place in make_plan(STORAGE, str(bench.output)).places}
    assert (found[begun].state, found[begun].runs, found[begun].removable) == ("begun", [], True)
    assert found[bench.filter].state == "complete"
    assert [run.partition("/")[0] for run in found[bench.filter].runs] == ["one", "two"]


@pytest.mark.parametrize("started", [None, "{", "another"], ids=["none", "damaged", "a copy under another name"])
def test_folder_without_our_started_stays_and_is_named(bench: Bench, started: str | None) -> None:
    folder = bench.output / "filter/mine"
    folder.mkdir()
    (folder / MARKER).write_text("{}")
    (folder / "report.json").write_text("{}")
    if started is not None:
        known = (bench.output / bench.filter / STARTED).read_text()
        (folder / STARTED).write_text(known if started == "another" else started)
    before = bench.files("filter/mine")
    assert bench.prune(["one"]) == [bench.run_place(bench.two), bench.train_two]
    assert bench.files("filter/mine") == before
    assert {p.folder: p.state for p in make_plan(STORAGE, str(bench.output)).places}["filter/mine"] == "foreign"


def test_stored_features_stay_while_a_training_on_such_does_and_go_with_the_last(bench: Bench) -> None:
    digest = "ab" * 32
    place = f"features/{digest[:16]}"
    for name, content in (
        ("features.json", json.dumps({"config_sha256": digest}).encode()),
        ("web-0-1.safetensors", b"f" * 9),
        ("claims/web-0.json", b"{}"),
        ("notes.txt", b"mine"),
    ):
        STORAGE.write_bytes(f"{bench.output}/{place}/{name}", content)
    STORAGE.write_bytes(f"{bench.output}/features/theirs/web-0.safetensors", b"no features.json beside it")
    three = bench.run("three")
    filled(three, Stage.FILTER, "f")
    stored = filled(three, Stage.TRAIN, "t3", reads={"filter": bench.filter}, settings={"features": "Stored"})
    assert bench.prune() == []
    assert next(each for each in make_plan(STORAGE, str(bench.output)).places if each.folder == place).runs == [
        bench.run_place(three).removeprefix("runs/")
    ]
    bench.forget(three)
    assert bench.prune() == [stored, place]
    assert bench.files("features") == {f"{digest[:16]}/notes.txt", "theirs/web-0.safetensors"}


def test_files_of_people_stay_and_half_written_ones_of_ours_go(bench: Bench) -> None:
    mine = ["notes.txt", "kept/notes.txt", "kept/deeper/web-1.tar", ".kept", "index"]
    for name in [*mine, "kept/.web-1.tar.abcd1234.tmp", ".STARTED.json.abcd1234.tmp"]:
        STORAGE.write_bytes(f"{bench.output}/{bench.filter}/{name}", b"x")
    STORAGE.write_bytes(f"{run_folder(bench.two)}/notes.txt", b"x")
    for run in (bench.one, bench.two):
        STORAGE.remove(f"{run_folder(run)}/filter.json")
    (bench.output / bench.train_one / STARTED).write_text(
        (bench.output / bench.train_one / STARTED).read_text().replace(bench.filter, "elsewhere")
    )
    place = next(p for p in make_plan(STORAGE, str(bench.output), ["one"]).places if p.folder == bench.filter)
    assert place.foreign_files == sorted(mine)
    assert place.bytes - place.frees == len(mine)
    bench.prune(["one"])
    assert bench.files(bench.filter) == set(mine)
    assert bench.files(bench.run_place(bench.two)) == {"notes.txt"}
    assert bench.removable(["one"]) == set(), "what is left is nobody's of ours"


def test_links_in_a_runs_folder_go_and_not_what_they_lead_to(bench: Bench) -> None:
    bench.prune(["one"])
    assert not (bench.output / bench.run_place(bench.two)).exists()
    assert (bench.output / bench.filter / "kept/web-0.tar").read_bytes() == b"kept"


def test_marker_goes_first_and_started_last_and_the_same_command_finishes_an_interrupted_prune(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.forget(bench.one)
    bench.forget(bench.two)
    monkeypatch.setattr(own_files, "CHUNK", 1)
    seen: list[set[str]] = []
    for _ in range(20):
        stop = StopFlag()
        plan = plan_to_remove(STORAGE, str(bench.output), None, stop, watch=nobody)
        try:
            remove(STORAGE, plan, stop, lambda files, stop=stop: setattr(stop, "requested", True))
        except StopRequested:
            seen.append(bench.files(bench.filter))
            continue
        break
    partial = [files for files in seen if files and files != {*KEPT, STARTED, MARKER}]
    assert [len(files) for files in partial] == [4, 3, 2, 1], "one file a start"
    assert all(MARKER not in files and STARTED in files for files in partial)
    assert "scores/web-0.parquet" not in partial[2], "what says that a shard is done goes before the shard"
    assert "kept/web-0.tar" in partial[2]
    assert not (bench.output / bench.filter).exists()


def test_folder_in_which_somebody_works_stays_with_its_run_and_all_that_these_need(bench: Bench) -> None:
    work = filled(bench.two, Stage.LABEL, "work", reads={"filter": bench.filter}, complete=False)

    def watch(storage: Storage, folders: Iterable[str], stop: StopFlag) -> dict[str, str]:
        assert f"{bench.output}/{work}" in folders
        return {f"{bench.output}/{work}": "a claim"}

    alone = filled(gone := bench.run("gone"), Stage.LABEL, "alone")
    bench.forget(gone)
    plan = plan_to_remove(STORAGE, str(bench.output), ["one"], StopFlag(), watch=watch)
    assert [place.folder for place in remove(STORAGE, plan, StopFlag())] == [alone]
    assert {place.folder: place.in_use for place in plan.places}[work] == "a claim"


def beat(claim: str) -> None:
    for number in range(10_000):
        Storage().write_bytes(claim, json.dumps({"owner": "run", "worker": 0, "beat": str(number)}).encode())
        time.sleep(0.01)


def test_command_never_removes_a_folder_whose_claim_another_process_rewrites(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.2)
    work = filled(bench.two, Stage.LABEL, "work", complete=False)
    bench.forget(bench.two)
    worker = multiprocessing.get_context("spawn").Process(
        target=beat, args=(claim := f"{bench.output}/{work}/claims/s.json",)
    )
    worker.start()
    try:
        while not Path(claim).exists():
            time.sleep(0.01)
        assert main(["prune", str(bench.output), "--yes", "--json"]) == 0
    finally:
        worker.terminate()
        worker.join()
    said = capsys.readouterr()
    assert json.loads(said.out)["removed"] == [bench.train_two]
    assert "may be in use" in said.err
    assert STARTED in bench.files(work)


def test_folder_to_which_a_run_comes_to_refer_meanwhile_stays(bench: Bench) -> None:
    bench.forget(bench.two)
    plan = plan_to_remove(STORAGE, str(bench.output), None, StopFlag(), watch=nobody)
    filled(bench.two, Stage.TRAIN, "t2")
    assert remove(STORAGE, plan, StopFlag()) == []
    assert MARKER in bench.files(bench.train_two)


@pytest.mark.parametrize("how", ["name", "name and digest", "folder", "link", "document"])
def test_run_to_keep_is_named_as_everywhere(
    bench: Bench, how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    (bench.folder / "one.json").write_text(
        json.dumps(changed(metadata__name="one", spec__data__output=str(bench.output)))
    )
    place = bench.run_place(bench.one)
    (bench.folder / "link").symlink_to(bench.output / place)
    named = {
        "name": "one",
        "name and digest": place.removeprefix("runs/"),
        "folder": f"out/{place}",
        "link": "link",
        "document": "one.json",
    }[how]
    assert main(["prune", "out", "--keep", named, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    going = {each["folder"] for each in found["folders"] if each["removable"]}
    assert going == {bench.train_two, bench.run_place(bench.two)}
    assert found["removed"] is None
    assert found["removable_bytes"] == sum(each["frees"] for each in found["folders"]) > 0


@pytest.mark.parametrize(
    ("keep", "says"),
    [("three", "has no such run: it has one, two"), ("elsewhere", "this run is not of"), ("other.json", "not of")],
)
def test_unknown_run_to_keep_is_refused_before_anything_goes(
    bench: Bench, keep: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    (bench.folder / "other.json").write_text(json.dumps(changed(spec__data__output="other")))
    Path("elsewhere/deeper").mkdir(parents=True)
    before = bench.files()
    assert main(["prune", "out", "--keep", "elsewhere/deeper" if keep == "elsewhere" else keep, "--yes"]) == 64
    assert says in capsys.readouterr().err
    assert bench.files() == before


def test_table_names_the_largest_first_and_the_command_that_removes(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    STORAGE.write_bytes(f"{bench.output}/{bench.filter}/kept/web-1.tar", b"x" * 5000)
    STORAGE.write_bytes(f"{bench.output}/{bench.train_two}/notes.txt", b"x")
    assert main(["prune", str(bench.output), "--keep", "one"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["folder", "size", "files", "state", "for"]
    assert lines[1].split()[:3] == [bench.filter, "5.5", "kB"]
    assert any(line.startswith(bench.train_two) and "only two/" in line and "removable" in line for line in lines)
    assert any(line.endswith(f"removable: diht prune {bench.output} --keep one --yes") for line in lines)
    assert f"{bench.train_two}: notes.txt stay, no stage wrote them" in lines
    assert main(["prune", str(bench.output), "--keep", "one", "--yes"]) == 0
    assert "removed 2 folders: " in capsys.readouterr().out
    assert main(["prune", str(bench.output)]) == 0
    assert "every folder of ours is referred to" in capsys.readouterr().out


def test_damaged_pointer_ends_a_prune_before_anything_goes(bench: Bench) -> None:
    bench.forget(bench.one)
    Path(run_folder(bench.two), "train.json").write_text("{")
    with pytest.raises(DataError, match=r"train\.json is damaged"):
        bench.prune()
    assert MARKER in bench.files(bench.train_two)
