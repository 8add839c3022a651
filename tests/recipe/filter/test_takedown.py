"""Takedowns after the run: pairs are removed from kept shards, scores, labels and reports; the remaining files stay
consistent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.documents import dump
from diht_k8s.api.errors import RetryableError, StopRequested, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.steps import LABEL_STEPS
from diht_k8s.cli.main import main
from diht_k8s.cli.stage_folders import stage_folders
from diht_k8s.data.shards.images import BadImageError
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs import takedown
from diht_k8s.outputs.takedown import purge
from diht_k8s.runtime.claims import living
from diht_k8s.runtime.commit import commit, start
from diht_k8s.runtime.run_folder import point, run_folder, run_layout, write_document
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.runtime.stage import locate, run_stage
from diht_k8s.stages.evaluate import stage as evaluate_stage
from diht_k8s.stages.filter.scores import open_scores
from diht_k8s.stages.label import stage as label_stage
from diht_k8s.stages.train import stage as train_stage
from tests.folders import located
from tests.recipe.filter.shards import (
    drawn,
    filter_with,
    kept_keys,
    pair,
    report_of,
    rows_of,
    run_of,
    tar_of,
    with_spec,
)
from tests.recipe.filter.taken_pairs import GOOD, Bench, entry, made_folder
from tests.recipe.label.conftest import TEACHER, teacher_weights  # noqa: F401 (a fixture)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("kind", ["uid", "path", "url", "image"])
def test_named_pair_is_removed_from_shards_scores_labels_and_counts(bench: Bench, kind: str) -> None:
    before = bench.committed(Stage.FILTER)
    assert bench.purge(entry(kind)) == takedown.PurgeResult(pairs=1, dropped=0, shards=1, labels=True, trained=False)
    assert kept_keys(bench.folder / "out", "web-a") == ["a-0", "a-3"]
    assert bench.labels("web-a") == (["a-0", "a-3"], [0, 2])
    assert bench.embedded("web-a") == [0, 2]
    rows = rows_of(bench.folder / "out", "web-a")
    assert [row.reason for row in rows] == ["", "exclude", "complexity", ""]
    assert (list(rows[1].objects), rows[1].complexity) == ([], 0)
    after = bench.committed(Stage.FILTER)
    assert after.config_sha256 == before.config_sha256
    assert after.output_sha256 != before.output_sha256
    assert after.summary["counts"] == {"input": 6, "kept": 4, "bad": {}, "dropped": {"complexity": 1, "exclude": 1}}
    assert after.summary["purged"] == 1
    assert [item["kept"] for item in after.summary["shards"]] == [2, 2]
    bench.check_artefacts()


def test_other_shards_are_not_touched_and_labels_belong_to_the_purged_filter_output(bench: Bench) -> None:
    paths = [*(bench.folder / "out/filter").rglob("web-b*"), *(bench.folder / "out/label").rglob("web-b*")]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    bench.purge("a-1")
    assert len(paths) == 5
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths} == before
    filtered, label = bench.committed(Stage.FILTER), bench.committed(Stage.LABEL)
    assert label.inputs == {"filter": filtered.identity}
    assert (label.revision, filtered.revision) == (1, 1)
    assert bench.storage.names(f"{bench.layout.stage(Stage.LABEL)}/features") == ["web-b.safetensors"]


@pytest.mark.parametrize(("usable", "labelled", "bad"), [(True, 3, {"picture_unreadable": 1}), (False, 4, {})])
def test_marker_and_report_of_labels_count_the_pairs_that_are_left(
    usable: bool, labelled: int, bad: dict[str, int], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(data: bytes) -> None:
        raise BadImageError("picture_unreadable")

    if not usable:
        monkeypatch.setattr(takedown, "decode", unreadable)
    bench.purge("a-1")
    left = {"labelled": labelled, "bad": bad}
    assert bench.committed(Stage.LABEL).summary == {"samples": 4, **left}
    assert json.loads(bench.storage.read_bytes(bench.layout.report(Stage.LABEL)))["pictures"] == {"total": 4, **left}


def test_labels_of_a_purged_filter_keep_their_folder(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_spec(bench.run, label={})
    monkeypatch.setattr(label_stage, "weights_sha256", lambda *_: "weights")
    monkeypatch.setattr(label_stage, "weights_uri", lambda *_: "weights")
    before = label_stage.identify(run, bench.storage, bench.layout)
    bench.purge("a-1")
    assert label_stage.identify(run, bench.storage, bench.layout) == before


def test_purged_run_is_cached_and_equals_one_that_excluded_from_the_start(bench: Bench, tmp_path: Path) -> None:
    bench.purge("a-1", "b-0")
    assert filter_with(bench.run) == bench.committed(Stage.FILTER)
    rules = {"exclude": bench.listed("a-1", "b-0")}
    filter_with(run_of(tmp_path / "fresh", f"{tmp_path}/?.tar", rules))
    purged, fresh = (report_of(tmp_path / name) for name in ("out", "fresh"))
    same = ("counts", "funnel", "table", "complexity", "actions", "names", "examples")
    assert {name: purged[name] for name in same} == {name: fresh[name] for name in same}
    for shard in ("web-a", "web-b"):
        assert rows_of(tmp_path / "out", shard) == rows_of(tmp_path / "fresh", shard)
        tars = [(tmp_path / name / f"runs/latest/filter/kept/{shard}.tar").read_bytes() for name in ("out", "fresh")]
        assert tars[0] == tars[1]


def held(folder: str, name: str = "s") -> str:
    """A claim that somebody holds in a stage's folder, which is then not complete."""
    Storage().remove(f"{folder}/COMMITTED.json")
    Storage().write_bytes(claim := f"{folder}/claims/{name}.json", b'{"owner": "a run", "worker": 0, "beat": "1"}')
    return claim


def evaluated(bench: Bench, digest: str, *uids: str) -> str:
    """An evaluation whose page shows pairs as examples; its folder."""
    folder = f"{bench.layout.output}/evaluate/{digest * 16}"
    shown = {"filter": {"report": {"examples": {"kept": [{"uid": uid, "caption": GOOD} for uid in uids]}}}}
    for name, content in (
        ("report.json", json.dumps(shown)),
        ("report.html", "<p>"),
        ("COMMITTED.json", "{}"),
        ("STARTED.json", "{}"),
    ):
        bench.storage.write_bytes(f"{folder}/{name}", content.encode())
    return folder


@pytest.mark.parametrize(("taken", "gone"), [("a-0", True), ("photos/a-2.png", True), ("b-1", False)])
def test_evaluation_that_shows_a_removed_pair_loses_all_but_what_it_is(bench: Bench, taken: str, gone: bool) -> None:
    folder = evaluated(bench, "1", "a-0", "a-2", "b-0")
    done = bench.purge(taken)
    assert done.removed == (("evaluate/" + "1" * 16,) if gone else ())
    left = {"STARTED.json"} if gone else {"STARTED.json", "COMMITTED.json", "report.json", "report.html"}
    assert set(bench.storage.names(folder)) == left
    words = rows_of(bench.folder / "out", "web-a")[2].objects
    assert list(words) == ([] if "a-2" in taken else ["server"]), "of a dropped pair"


def test_purge_stopped_before_the_evaluations_goes_on_with_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = evaluated(bench, "1", "a-1")
    with monkeypatch.context() as patch:
        patch.setattr(takedown.Traces, "remove", lambda traces: (_ for _ in ()).throw(StopRequested("stopped")))
        with pytest.raises(StopRequested):
            bench.purge("a-1")
    assert bench.storage.exists(f"{folder}/report.html")
    assert bench.purge("a-1").removed == ("evaluate/" + "1" * 16,)
    assert not bench.storage.exists(f"{folder}/report.html")
    assert not bench.storage.exists(f"{bench.layout.stage(Stage.FILTER)}/PURGE.json")


def test_scores_forget_all_but_the_place_of_a_pair_and_reports_lose_it(bench: Bench) -> None:
    bench.purge("a-0", "a-2")
    for row in rows_of(bench.folder / "out", "web-a")[:3:2]:
        assert (row.shard, row.index, row.uid, row.caption_sha256, row.source) == ("web-a", "", "", "", None)
    for stage in (Stage.FILTER, Stage.LABEL):
        assert '"a-0"' not in bench.storage.read_text(bench.layout.report(stage))


def test_unfinished_labels_are_made_again_and_the_embeddings_of_a_shard_with_such_pairs(bench: Bench) -> None:
    bench.storage.remove(bench.layout.committed(Stage.LABEL))
    bench.purge("a-1")
    assert bench.storage.names(f"{bench.layout.stage(Stage.LABEL)}/labels") == []
    assert bench.storage.names(f"{bench.layout.stage(Stage.LABEL)}/embeddings") == ["web-b.safetensors"]
    assert not bench.storage.exists(bench.layout.report(Stage.LABEL))


def labelled_run(folder: Path, weights: str) -> DihtRun:
    """A run of the stages filter and label, filtered: two shards of twelve pairs."""
    for shard in "ab":
        samples = [
            pair(uid, f"a {colour} {thing}", drawn(uid, colour=colour), uid=uid)
            for number, (colour, thing) in enumerate(product(("red", "green", "blue"), ("dog", "cat", "bird", "fish")))
            for uid in [f"{shard}-{number}"]
        ]
        (folder / f"{shard}.tar").write_bytes(tar_of(member for members in samples for member in members))
    label = {
        "teacher": {"model": f"timm/{TEACHER}", "weights": weights, "imageSize": 32},
        "vocabulary": {"minCount": 1},
        "heads": {"epochs": 2, "batchSize": 8},
        "topK": 2,
    }
    filter_with(run := with_spec(run_of(folder / "out", f"{folder}/?.tar", {"minObjects": 0}), label=label))
    return run


@pytest.mark.parametrize("steps", [LABEL_STEPS[:count] for count in (1, 2, 3)], ids=LABEL_STEPS)
def test_labels_taken_up_after_a_purge_are_those_of_the_purged_pairs(
    steps: tuple[str, ...],
    tmp_path: Path,
    teacher_weights: str,  # noqa: F811 (a fixture)
) -> None:
    run, storage = labelled_run(tmp_path, teacher_weights), Storage()
    for step in steps:
        run_stage(label_stage, run, Stage.LABEL, step=step)
    folder = located(tmp_path / "out").stage(Stage.LABEL)
    storage.remove(f"{folder}/COMMITTED.json")  # after all steps: killed before its marker
    shutil.rmtree(f"{folder}/claims", ignore_errors=True)
    (tmp_path / "list.txt").write_text("a-1")
    assert purge(run, storage, str(tmp_path / "list.txt"), StopFlag()).pairs == 1
    begun = run_stage(label_stage, run, Stage.LABEL)
    shutil.rmtree(folder)
    whole = run_stage(label_stage, run, Stage.LABEL)
    assert begun is not None
    assert whole is not None
    assert begun.summary["samples"] == 23
    assert begun.artefacts == whole.artefacts


@pytest.mark.parametrize("stage", [Stage.FILTER, Stage.LABEL, Stage.EVALUATE])
def test_purge_is_refused_while_somebody_works_in_a_folder_that_it_would_change(
    stage: Stage, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluated(bench, "1") if stage is Stage.EVALUATE else bench.layout.stage(stage)
    claim, before = held(folder), bench.everything()

    def sleep(seconds: float) -> None:
        bench.storage.write_bytes(claim, b'{"owner": "a run", "worker": 0, "beat": "2"}')

    with pytest.raises(RetryableError, match=re.escape(f"somebody works in {folder} ({claim} changes): wait")):
        purge(
            bench.run,
            bench.storage,
            bench.listed("a-1"),
            StopFlag(),
            watch=partial(living, sleep=sleep, clock=lambda: 0),
        )
    bench.storage.write_bytes(claim, b'{"owner": "a run", "worker": 0, "beat": "1"}')
    assert bench.everything() == before
    assert not (bench.folder / "out/takedowns").exists()


def test_half_of_a_file_that_a_killed_write_left_goes_and_those_of_people_stay(bench: Bench) -> None:
    filtered, labelled = (Path(bench.layout.stage(stage)) for stage in (Stage.FILTER, Stage.LABEL))
    half = [
        *(filtered / f".{name}.abcd_fg1.tmp" for name in ("report.json", "PURGE.json")),
        *(filtered / each for each in ("kept/.web-a.tar.abcd_fg1.tmp", "scores/.web-a.parquet.abcd_fg1.tmp")),
        *(
            labelled / each
            for each in ("labels/.web-b.parquet.abcd_fg1.tmp", "features/.web-b.safetensors.abcd_fg1.tmp")
        ),
    ]
    mine = [filtered / ".notes.txt.abcd_fg1.tmp", labelled / "labels/.own.abcd_fg1.tmp"]
    for path in (*half, *mine):
        path.write_bytes(b"a-1")
    assert bench.purge("a-1").pairs == 1
    assert [path for path in half if path.exists()] == []
    assert all(path.exists() for path in mine)


def replaced(bench: Bench) -> tuple[Path, Path]:
    """Filter another version of a shard; the folders of the first filter and of its labels, which belong to no run
    now.
    """
    before = Path(bench.layout.stage(Stage.FILTER)), Path(bench.layout.stage(Stage.LABEL))
    os.utime(bench.folder / "a.tar", ns=(1, 1))
    filter_with(bench.run)
    bench.layout = located(bench.folder / "out")
    assert Path(bench.layout.stage(Stage.FILTER)) != before[0]
    return before


@pytest.mark.parametrize("taken", ["a-1", "nobody"])
def test_folders_of_shards_that_were_replaced_go_as_a_whole(
    bench: Bench, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = replaced(bench)
    (folders[0] / "notes.txt").write_text("mine")
    document = bench.folder / "run.json"
    document.write_text(dump(bench.run))
    assert main(["purge", str(document), "--exclude", bench.listed(taken)]) == 0
    places = [str(folder.relative_to(bench.folder / "out")) for folder in folders]
    said = "removed with all that they held, since no run needs them and no document says how to search them: "
    assert said + ", ".join(places) in capsys.readouterr().out
    assert [path.name for path in folders[0].iterdir()] == ["notes.txt"]
    assert not folders[1].exists()
    assert kept_keys(bench.folder / "out", "web-a") == ["a-0", *(["a-1"] if taken == "nobody" else []), "a-3"]


@pytest.mark.parametrize("reader", ["scoresFrom", "labels", "run without its document"])
def test_folder_of_no_run_that_somebody_reads_stops_the_purge_before_any_change(bench: Bench, reader: str) -> None:
    places = [str(folder) for folder in replaced(bench)]
    place = places[reader == "labels"]
    document = json.loads(dump(run_of(bench.folder / "out", f"{bench.folder}/b.tar")))
    if reader == "labels":
        document["spec"]["train"] = {"model": "ViT-B-32", "samples": 4, "batchSize": 2, "labels": place}
    elif reader == "scoresFrom":
        document["spec"]["filter"]["scoresFrom"] = place
    run = DihtRun.model_validate(document)
    if reader == "run without its document":
        point(run, bench.storage, bench.layout.with_folder(Stage.FILTER, place), Stage.FILTER)
        bench.storage.remove(f"{run_folder(run)}/run.json")
    else:
        write_document(run, bench.storage)
    before = bench.everything()
    with pytest.raises(UserError, match=f"{place} belongs to no run .* refers to it"):
        bench.purge("a-1")
    assert bench.everything() == before


def test_run_that_comes_to_use_a_folder_of_no_run_keeps_it_and_the_next_purge_searches_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, write = str(replaced(bench)[0]), takedown._write_takedown

    def meanwhile(*arguments: Any) -> None:
        write(*arguments)
        run = run_of(bench.folder / "out", f"{bench.folder}/?.tar")
        write_document(run, bench.storage)
        point(run, bench.storage, bench.layout.with_folder(Stage.FILTER, place), Stage.FILTER)

    with monkeypatch.context() as patch:
        patch.setattr(takedown, "_write_takedown", meanwhile)
        with pytest.raises(RetryableError, match=f"a run has come to use {place}: start the purge again"):
            bench.purge("a-1")
    assert bench.purge("a-1").folders == ()
    scores = f"{place}/scores/web-a.parquet"
    assert "a-1" not in [row.uid for row in open_scores(bench.storage.read_bytes(scores), scores).rows()]


def test_pairs_are_removed_from_the_keep_list_and_stay_in_the_raw_shard(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "KeepList")
    raw = (tmp_path / "a.tar").read_bytes()
    assert bench.purge(entry("image"), "b-0").pairs == 2
    kept = {shard.name: shard for shard in bench.kept()}
    uids = {name: [sample.uid for sample in read_pairs(bench.storage, shard)] for name, shard in kept.items()}
    assert uids == {"web-a": ["a-0", "a-3"], "web-b": ["b-1"]}
    assert bench.labels("web-a") == (["a-0", "a-3"], [0, 2])
    assert (tmp_path / "a.tar").read_bytes() == raw
    bench.check_artefacts()


def test_entries_that_match_nothing_are_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    done = bench.purge("a-1", entry("image").upper(), "b-1", "a-2", "Nobody", "E" * 64, "photos/A-3.png")
    assert (done.pairs, done.unmatched) == (2, ("E" * 64, "Nobody", "photos/A-3.png"))
    (bench.folder / "run.json").write_text(dump(bench.run))
    assert main(["purge", str(bench.folder / "run.json"), "--exclude", bench.listed("a-0", "Nobody")]) == 0
    assert "1 entries match nothing (a digest finds kept pairs only): Nobody" in capsys.readouterr().out


def test_model_trained_on_the_pairs_is_reported(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    layout = bench.layout.at(Stage.TRAIN, "0" * 64)
    commit(bench.storage, layout, Stage.TRAIN, {"inputs": {}}, [], {})
    point(bench.run, bench.storage, layout, Stage.TRAIN)
    document = bench.folder / "run.json"
    document.write_text(bench.run.model_dump_json(by_alias=True, exclude_none=True))
    assert main(["purge", str(document), "--exclude", bench.listed("a-1")]) == 0
    said = capsys.readouterr().out
    assert "removed 1 pairs from kept shards and labels; 1 shards were rewritten" in said
    assert f"diht run {document} trains and evaluates another one" in said


@pytest.mark.parametrize("case", ["names nothing", "no filter has run", "has begun and is not complete"])
def test_output_that_cannot_be_purged_is_refused_and_nothing_is_taken_down(bench: Bench, case: str) -> None:
    entries, run = ["a-1"], bench.run
    if case == "names nothing":
        entries = []
    elif case == "no filter has run":
        run = run_of(bench.folder / "elsewhere", f"{bench.folder}/*.tar")
    else:
        bench.storage.remove(bench.layout.committed(Stage.FILTER))
        bench.storage.remove(f"{bench.layout.stage(Stage.FILTER)}/claims")  # this process holds one, and lives
    with pytest.raises(UserError, match=case):
        bench.purge(*entries, run=run)
    assert bench.storage.names(bench.layout.takedowns) == []


def test_takedown_reaches_every_variant_and_holds_through_a_later_one(bench: Bench) -> None:
    def variant(complexity: int) -> Layout:
        run = run_of(bench.folder / "out", f"{bench.folder}/?.tar", {"minComplexity": complexity})
        filter_with(run)
        return run_layout(run, bench.storage)

    before = variant(0)
    assert bench.purge("a-1", entry("image")).pairs == 2
    after = variant(2)
    for layout in (bench.layout, before, after):
        scores = open_scores(bench.storage.read_bytes(layout.scores("web-a")), "scores")
        rows = list(scores.rows())
        assert [(row.reason, row.uid) for row in rows] == [
            ("", "a-0"),
            ("exclude", ""),
            *[(rows[2].reason, "a-2")],
            ("", "a-3"),
        ]


def test_interrupted_purge_with_another_list_is_refused_until_the_first_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(takedown._Purge, "_purge_shard", lambda *_: (_ for _ in ()).throw(StopRequested("stopped")))
        with pytest.raises(StopRequested):
            bench.purge("a-1")
    with pytest.raises(UserError, match="a purge of another list was interrupted: start it again with that list"):
        bench.purge("a-1", "a-3")
    assert bench.purge("a-1").pairs == 1
    assert bench.purge("a-1", "a-3").pairs == 1
    assert kept_keys(bench.folder / "out", "web-a") == ["a-0"]


def trained_after(bench: Bench, *, evaluated: bool = False) -> DihtRun:
    """The bench's run with a training that wants no labels, and an evaluation."""
    train = {"model": "ViT-B-32", "samples": 4, "batchSize": 2, "distillation": {"mode": "Disabled"}}
    benchmark = {"name": "b", "type": "Retrieval", "shards": [f"{bench.folder}/none.tar"]}
    return with_spec(bench.run, train=train, evaluate={"benchmarks": [benchmark]} if evaluated else None)


def train_inputs(bench: Bench) -> Mapping[str, str]:
    return train_stage.identify(trained_after(bench), bench.storage, bench.layout)[0]


def evaluate_inputs(bench: Bench) -> Mapping[str, str]:
    layout = bench.layout.at(Stage.TRAIN, "0" * 64)
    commit(bench.storage, layout, Stage.TRAIN, {"inputs": {}}, [], {})
    return evaluate_stage.identify(trained_after(bench, evaluated=True), bench.storage, layout)[0]


@pytest.mark.parametrize("output", ["Shards", "KeepList"])
@pytest.mark.parametrize(
    ("taken", "trains", "evaluates"),
    [
        (("a-1",), "1 pairs", "1 pairs"),
        (("a-2",), None, "1 pairs"),
        (("a-1", "a-2"), "1 pairs", "2 pairs"),
        (("nobody",), None, None),
    ],
)
def test_takedown_adds_the_pairs_that_a_stage_reads_to_its_digest(
    tmp_path: Path, output: str, taken: tuple[str, ...], trains: str | None, evaluates: str | None
) -> None:
    bench = Bench(tmp_path, output)
    before = train_inputs(bench), evaluate_inputs(bench)
    bench.purge(*taken)
    for found, old, pairs in zip(
        (train_inputs(bench), evaluate_inputs(bench)), before, (trains, evaluates), strict=True
    ):
        added = {name: value.partition(",")[0] for name, value in found.items() if name not in old}
        assert added == ({} if pairs is None else {"taken down": pairs})
        assert found == {**found, **old}


def test_takedown_of_equal_pairs_by_other_lists_gives_equal_digests(bench: Bench, tmp_path: Path) -> None:
    shutil.copytree(bench.folder / "out", tmp_path / "copy", symlinks=True)
    bench.purge("a-1", "b-0", "a-2")
    at_once = train_inputs(bench), evaluate_inputs(bench)
    shutil.rmtree(bench.folder / "out")
    shutil.move(tmp_path / "copy", bench.folder / "out")
    bench.purge("a-2", "b-0")
    bench.purge(entry("image"))
    assert (train_inputs(bench), evaluate_inputs(bench)) == at_once


def test_takedown_in_another_filter_leaves_a_training_as_it_is(bench: Bench) -> None:
    other = Bench(made_folder(bench.folder / "other"))
    other.run = run_of(bench.folder / "out", f"{bench.folder}/other/b.tar")
    filter_with(other.run)
    other.layout = run_layout(other.run, bench.storage)
    before = train_inputs(other)
    assert bench.purge("a-1").pairs == 1
    assert train_inputs(other) == before


def test_interrupted_training_begins_again_after_a_takedown_and_says_so(bench: Bench) -> None:
    run = trained_after(bench)
    filter_with(run)
    layout, config = locate(train_stage, run, bench.storage, run_layout(run, bench.storage), Stage.TRAIN)
    start(bench.storage, layout, Stage.TRAIN, config, {})
    point(run, bench.storage, layout, Stage.TRAIN)
    assert stage_folders(run)[-1].note == "resumed"
    bench.purge("a-1", "b-0", "a-2")
    filtered, trained = stage_folders(run)
    assert (filtered.cached, trained.cached) == (True, False)
    assert trained.note == "begins again because a takedown removed 2 pairs of its input"


def test_stored_features_of_the_shards_go_under_every_tower_and_those_of_others_stay(bench: Bench) -> None:
    folder, digest = bench.folder / "out/features", "0123456789abcdef"
    shards = [shard.name for shard in bench.kept()]
    files = [folder / tower / f"{shard}-{digest}.safetensors" for tower in ("a" * 16, "b" * 16) for shard in shards]
    files += [
        folder / ("a" * 16) / f"{shards[0]}-{digest}-more-{digest}.safetensors",
        folder / ("a" * 16) / "features.json",
    ]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"features")
    bench.purge("a-0")
    left = [path for path in files if path.exists()]
    assert left == [path for path in files if path.name != f"{shards[0]}-{digest}.safetensors"]
