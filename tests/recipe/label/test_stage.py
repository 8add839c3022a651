"""The label stage on real files: what it writes, resuming and several workers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diht_k8s.api.errors import StopRequested
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import claims
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.label import heads_step, predict_step
from diht_k8s.stages.label.job import LabelJob
from diht_k8s.stages.label.soft_labels import read_labels
from tests.folders import located
from tests.recipe.filter.shards import tolerating
from tests.recipe.label.conftest import Make, label, picture


def files_of(run: DihtRun) -> dict[str, str]:
    """Digest of every artefact below label/; markers, claims, features (a cache) and names of attempts apart."""
    folder = Path(run.spec.data.output) / "runs/latest/label"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ("COMMITTED.json", "STARTED.json")
        and path.parent.name not in ("objects", "claims")
    }


def test_labels_of_a_committed_filter_when_all_is_well_then_rows_follow_the_kept_shards(make_kept: Make) -> None:
    kept = make_kept().write()
    committed = label(kept.run())
    assert committed is not None
    assert committed.summary["samples"] == committed.summary["labelled"] == 120
    layout = located(kept.folder)
    vocabulary = json.loads(Path(layout.vocabulary).read_text())
    assert {row["name"]: row["count"] for row in vocabulary["objects"]} == {"bar": 36, "circle": 42, "square": 42}
    assert [row["name"] for row in vocabulary["objects"]] == ["circle", "square", "bar"]
    for number, pairs in enumerate(kept.shards):
        labels = read_labels(Storage(), layout.labels(f"shapes-{number:02}"))
        assert labels.uids == [pair.uid for pair in pairs]
        np.testing.assert_allclose(labels.objects.probabilities_NK.sum(axis=1), 1, atol=1e-6)
        assert labels.attributes.ids_NK.shape == (40, 3)
        assert labels.header["config_sha256"] == committed.config_sha256
        assert labels.header["inputs"] == {"filter": committed.inputs["filter"]}


def test_vocabulary_when_captions_credit_an_author_then_the_author_is_no_class(make_kept: Make) -> None:
    kept = make_kept(shards=1)
    for pair in kept.shards[0][:20]:
        pair.author = "jane doe"
    assert label(kept.write().run(), step="vocabulary") is None
    vocabulary = json.loads(Path(located(kept.folder).vocabulary).read_text())
    assert {row["name"] for row in vocabulary["objects"]} == {"bar", "circle", "square"}
    assert vocabulary["cut"]["objects"]["credits"] == {"distinct": 1, "commonest": [["jane doe", 20]]}


def test_heads_when_images_show_their_concepts_then_beat_the_frequency_baseline(make_kept: Make) -> None:
    kept = make_kept().write()
    label(kept.run(heads={"epochs": 15, "lr": 0.02, "batchSize": 32}))
    report = json.loads((kept.folder / "runs/latest/label" / "report.json").read_text())
    for kind in ("objects", "attributes"):
        figures = report["heads"][kind]
        assert figures["held_out"]
        assert figures["mean_average_precision"] > 1.5 * figures["frequency_baseline"]


def test_report_when_captions_leave_out_a_bar_then_shows_it_and_none_elsewhere(make_kept: Make) -> None:
    kept = make_kept()
    for pair in (pair for shard in kept.shards for pair in shard if pair.objects == ["bar"]):
        number = int(pair.uid.partition("-")[2])
        pair.objects = [f"thing {number}", *(["bar"] if number % 2 else [])]
        pair.unparsed = " bar" if pair.uid.startswith("0-") else ""
    label(kept.write().run(heads={"epochs": 15, "lr": 0.02, "batchSize": 32}))
    report = json.loads((kept.folder / "runs/latest/label" / "report.json").read_text())
    ((name, shown, precision),) = report["added"]["commonest"]
    assert (name, shown + report["added"]["none"]) == ("bar", report["added"]["measured_on"])
    assert 0 < shown <= 18
    assert 0 < precision < 1
    assert 0 < len(report["examples"]) < shown
    assert all(each["added"] == "bar" and "bar" not in each["caption"] for each in report["examples"])


def test_labels_of_three_steps_when_heads_may_say_nothing_then_what_is_said_is_likely(make_kept: Make) -> None:
    heads = {"epochs": 15, "lr": 0.02, "batchSize": 32, "kind": "Sigmoid", "calibrate": True}
    kept = make_kept().write()
    for step in ("vocabulary", "heads", "predict"):
        label(kept.run(heads=heads, minProbability=0.6), step=step)
    labels = read_labels(Storage(), located(kept.folder).labels("shapes-00"))
    said = labels.attributes.probabilities_NK
    assert labels.has_label_N.all()
    assert 0 < (said > 0).sum() < said.size
    assert said[said > 0].min() >= 0.599


def test_labels_when_the_teachers_classes_join_then_vocabulary_and_heads_have_them(make_kept: Make) -> None:
    kept = make_kept(shards=1).write()
    heads = {"epochs": 2, "lr": 0.01, "batchSize": 32, "kind": "Sigmoid"}
    teacher = {**kept.label["teacher"], "ownClasses": True}
    label(kept.run(heads=heads, teacher=teacher, minProbability=0.5))
    layout = located(kept.folder)
    rows = json.loads(Path(layout.vocabulary).read_text())["objects"]
    assert [row["name"] for row in rows[:4]] == ["circle", "square", "bar", "tench"]
    assert load_file(layout.teacher_heads)["objects.weight"].shape[:2] == (6, len(rows))
    assert 900 < len(rows) <= 1003


def test_two_workers_when_no_step_is_named_then_worker_0_does_it_all_and_nobody_waits(make_kept: Make) -> None:
    run = make_kept(shards=2).write().run()
    assert label(run, worker=1, workers=2) is None
    assert not (Path(run.spec.data.output) / "runs/latest/label" / "features").exists()
    committed = label(run, worker=0, workers=2)
    assert committed is not None
    assert committed.summary["labelled"] == 80


def test_damaged_shard_within_the_limit_keeps_a_row_for_each_lost_pair_and_is_counted(make_kept: Make) -> None:
    kept = make_kept().write()
    path = kept.folder / "runs/latest/filter" / "kept" / "shapes-01.tar"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    committed = label(tolerating(kept.run(), 1))
    assert committed is not None
    (shard,) = committed.summary["damaged_shards"]
    lost = len(kept.shards[1]) - shard["salvaged"]
    assert shard["name"] == "shapes-01"
    assert lost > 0
    assert committed.summary["bad"]["shard_damaged"] == lost
    assert committed.summary["samples"] == sum(map(len, kept.shards))
    assert committed.summary["labelled"] == committed.summary["samples"] - sum(committed.summary["bad"].values())


def test_labels_when_a_worker_is_lost_then_another_makes_its_shards_and_the_same_bytes(
    make_kept: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.1)
    whole, broken = make_kept(name="whole", shards=5).write(), make_kept(name="broken", shards=5).write()
    label(whole.run())
    for step in ("vocabulary", "heads"):
        label(broken.run(), step=step)
    made, original = list[str](), predict_step.write_labels
    alive = iter([True, False, *[True] * 4])

    def write(storage: Any, uri: str, *rest: Any) -> None:
        if not next(alive):
            raise RuntimeError("killed")
        made.append(Path(uri).stem)
        original(storage, uri, *rest)

    monkeypatch.setattr(predict_step, "write_labels", write)
    with pytest.raises(RuntimeError, match="killed"):
        label(broken.run(), step="predict", worker=0, workers=2)

    def old_listing(job: LabelJob, folder: str, suffix: str, shards: Any) -> Any:
        return list(shards) if len(made) < 5 else missing(job, folder, suffix, shards)

    missing = LabelJob.missing
    monkeypatch.setattr(LabelJob, "missing", old_listing)
    assert label(broken.run(), step="predict", worker=1, workers=2) is not None
    assert made == [f"shapes-{number:02}" for number in (0, 1, 3, 4, 2)]
    assert files_of(broken.run()) == files_of(whole.run())


def test_threads_when_the_teacher_has_several_then_same_bytes_as_with_one(make_kept: Make) -> None:
    one, three = make_kept(name="one").write(), make_kept(name="three").write()
    label(one.run())
    torch.set_num_threads(3)  # the fixture one_thread restores it
    label(three.run())
    assert files_of(three.run()) == files_of(one.run())


def test_max_samples_when_fewer_than_the_images_then_the_rest_is_labelled_without_cached_features(
    make_kept: Make,
) -> None:
    kept = make_kept().write()
    committed = label(kept.run(maxSamples=50))
    assert committed is not None
    assert committed.summary["labelled"] == 120
    assert len(list((kept.folder / "runs/latest/label" / "features").iterdir())) == 2
    report = json.loads((kept.folder / "runs/latest/label" / "report.json").read_text())
    assert report["heads"]["training_pictures"] == 50
    assert report["added"]["measured_on"] == 80  # the two shards that they come from


def test_stop_when_the_heads_are_trained_then_resumes_after_the_epoch_to_the_same_bytes(
    make_kept: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = make_kept(name="whole", shards=1).write(), make_kept(name="stopped", shards=1).write()
    heads = {"epochs": 4, "lr": 0.01, "batchSize": 32}
    monkeypatch.setattr(heads_step, "MEMORY_BYTES", 0)  # features on disk give the same
    label(stopped.run(heads=heads), step="vocabulary")
    flag, epochs = StopFlag(), list[int]()
    original = heads_step.fit_head

    def stops(images: Any, targets: Any, config: Any, seed: int, device: Any, on_epoch: Any, state: Any) -> Any:
        def after_epoch(epoch: int, *rest: Any) -> None:
            epochs.append(epoch)
            flag.requested = len(epochs) == 2
            on_epoch(epoch, *rest)

        return original(images, targets, config, seed, device, after_epoch, state)

    monkeypatch.setattr(heads_step, "fit_head", stops)
    with pytest.raises(StopRequested):
        label(stopped.run(heads=heads), step="heads", stop=flag)
    assert (stopped.folder / "runs/latest/label" / "heads" / "objects.state").exists()
    flag.requested = False
    label(stopped.run(heads=heads), step="heads")
    assert epochs == [1, 2, 3, 4, 1, 2, 3, 4]
    label(stopped.run(heads=heads), step="predict")
    monkeypatch.undo()
    label(whole.run(heads=heads))
    assert files_of(stopped.run(heads=heads)) == files_of(whole.run(heads=heads))


def test_bad_image_when_within_the_limit_then_counted_and_without_label(make_kept: Make) -> None:
    kept = make_kept(shards=1)
    kept.rules = {"maxBadPercent": 5}
    kept.shards[0][7].image = b"GIF89a no image"
    committed = label(kept.write().run())
    assert committed is not None
    assert committed.summary["bad"] == {"picture_unreadable": 1}
    labels = read_labels(Storage(), located(kept.folder).labels("shapes-00"))
    assert labels.has_label_N.tolist() == [number != 7 for number in range(40)]
    assert not labels.objects.probabilities_NK[7].any()


@pytest.mark.parametrize("by", ["group", "image"])
def test_pairs_of_one_group_or_without_groups_of_one_image_share_a_fold(make_kept: Make, by: str) -> None:
    kept = make_kept(shards=2)
    for pairs in kept.shards:
        for number, pair in enumerate(pairs):
            if by == "group":
                pair.group = f"g{number // 5}"
            else:
                pair.image = picture("red", "circle", number // 5)
    label(kept.write().run())
    features = kept.folder / "runs/latest/label/features"
    first, second = (load_file(features / f"shapes-0{shard}.safetensors")["group_hash"] for shard in range(2))
    assert all(len(row.unique()) == 1 for row in first.view(8, 5))
    assert len(first.unique()) == 8
    assert torch.equal(first, second)
