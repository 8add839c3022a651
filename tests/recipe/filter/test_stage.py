"""The filter as a whole, on small shards with the real parser and spotter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import SimpleShardList
from webdataset.tariterators import tarfile_to_samples

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime import claims
from diht_k8s.stages.filter.text_spotting.spotter import Spotting, SpottingRequest, TextSpotter
from tests.recipe.filter.shards import (
    CAPTIONS,
    config_of,
    drawn,
    files_of,
    filter_pairs,
    filter_with,
    folder_of,
    kept_keys,
    pair,
    report_of,
    rows_of,
    run_of,
    tar_of,
    write_shards,
)


def test_filter_scores_every_sample_and_keeps_what_passes(tmp_path: Path) -> None:
    committed = filter_with(run_of(tmp_path / "out", write_shards(tmp_path / "in"), {"minActions": 1}))
    assert committed.summary["counts"] == {"input": 6, "kept": 3, "bad": {}, "dropped": {"action": 1, "complexity": 2}}
    assert [item["kept"] for item in committed.summary["shards"]] == [2, 1]
    rows = rows_of(tmp_path / "out", "web-00000")
    assert [(row.index, row.kept, row.reason) for row in rows] == [
        ("0-0", True, ""),
        ("0-1", False, "complexity"),
        ("0-2", True, ""),
    ]
    assert list(rows[0].attributes) == [("dog", "small"), ("ball", "red")]
    assert list(rows[0].relations) == [("dog", "chase", "ball")]
    assert kept_keys(tmp_path / "out", "web-00000") == ["0-0", "0-2"]


def test_repeated_keys_are_told_apart_in_kept_shards_and_nothing_is_lost(tmp_path: Path) -> None:
    good, simple = "a small dog chasing a red ball", "red car"
    samples = [
        ("a", good),
        ("a", f"{good} 2"),
        ("b", good),
        ("b", simple),
        ("b", f"{good} 3"),
        ("a-2", good),
        ("a", good),
    ]
    members = [member for number, (key, text) in enumerate(samples) for member in pair(key, text, drawn(str(number)))]
    # Without "c", which is dropped, the members of the two "d" would make one sample.
    members += [("d.png", drawn("8")), ("d.txt", good.encode()), *pair("c", simple, drawn("9"))]
    members += [("d.jpg", drawn("10", kind="JPEG")), ("d.json", json.dumps({"caption": good}).encode())]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/00000.tar").write_bytes(tar_of(members))
    filter_with(run_of(tmp_path / "out", f"{tmp_path}/in/*.tar", {"minActions": 1}))
    kept = tmp_path / "out/runs/latest/filter/kept/web-00000.tar"
    found = list(DataPipeline(SimpleShardList([str(kept)]), tarfile_to_samples()))
    assert [each["__key__"] for each in found] == ["a", "a-2", "b", "b-3", "a-2-2", "a-3", "d", "d-2"]
    rows = rows_of(tmp_path / "out", "web-00000")
    assert [row.uid for row in rows if row.kept] == [sample.uid for sample in read_samples(Storage(), str(kept))]
    assert [row.index for row in rows] == [*(key for key, _ in samples), "d", "c", "d"]


def test_artefacts_name_every_file_with_its_digest(tmp_path: Path) -> None:
    import hashlib

    committed = filter_with(run_of(tmp_path / "out", write_shards(tmp_path / "in")))
    written = {name: hashlib.sha256(data).hexdigest() for name, data in files_of(tmp_path / "out").items()}
    assert {item.path: item.sha256 for item in committed.artefacts} == written


def test_workers_leave_claimed_shards_alone_until_the_claim_is_stale(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path / "in")
    run = run_of(tmp_path / "out", shards)
    claim = folder_of(run) / "claims/web-00001.json"
    claim.parent.mkdir(parents=True)
    digest = config_of(run)
    claim.write_text(
        json.dumps({"owner": "a run", "worker": 1, "config_sha256": digest, "beat": "of one that was killed"})
    )
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        assert parsed == list(CAPTIONS[:3])
        monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)

    monkeypatch.setitem(claims.until_committed.__kwdefaults__, "sleep", wait)
    filter_with(run, worker=0, workers=2)
    assert len(waits) == 1
    assert parsed == list(CAPTIONS)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> list[Spotting]:
    """What is found in the images that are read from now on."""
    found, spot_all = list[Spotting](), TextSpotter.spot_all

    def counted(spotter: TextSpotter, requests: Iterable[SpottingRequest]) -> Iterator[Spotting]:
        for spotting in spot_all(spotter, requests):
            found.append(spotting)
            yield spotting

    monkeypatch.setattr(TextSpotter, "spot_all", counted)
    return found


def test_looser_threshold_reads_the_newly_surviving_images_only(
    tmp_path: Path, parsed: list[str], images: list[Spotting]
) -> None:
    shards = write_shards(tmp_path / "in")
    on = {"textSpotting": {"mode": "Drop", "detectorSize": 96}}
    filter_with(run_of(tmp_path / "tight", shards, {**on, "minActions": 1}))
    assert len(images) == 3
    parsed.clear()
    scores = {"scoresFrom": str(tmp_path / "tight/runs/latest/filter")}
    committed = filter_with(run_of(tmp_path / "loose", shards, {**on, **scores, "minComplexity": 0}))
    assert (parsed, len(images), committed.summary["counts"]["kept"]) == ([], 6, 6)
    filter_with(run_of(tmp_path / "fresh", shards, {**on, "minComplexity": 0}))
    assert files_of(tmp_path / "loose") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize(
    "other",
    [
        {"detectorSize": 128},
        {"detectorSize": 96, "precision": "FP32"},
        {"detectorSize": 96, "secondDetectorSize": 192},
    ],
)
def test_scores_of_another_spotter_are_reused_for_captions_only(
    other: dict[str, Any], tmp_path: Path, parsed: list[str], images: list[Spotting]
) -> None:
    shards = write_shards(tmp_path / "in")
    filter_with(run_of(tmp_path / "a", shards, {"textSpotting": {"detectorSize": 96}}))
    parsed.clear()
    images.clear()
    rules = {"textSpotting": other, "scoresFrom": str(tmp_path / "a/runs/latest/filter")}
    filter_with(run_of(tmp_path / "b", shards, rules))
    assert (parsed, len(images)) == ([], 4)


@pytest.mark.parametrize("case", ["nothing there", "other input"])
def test_scores_from_a_mismatched_folder_are_refused(tmp_path: Path, case: str) -> None:
    shards = write_shards(tmp_path / "in")
    if case == "other input":
        filter_with(run_of(tmp_path / "a", shards))
        write_shards(tmp_path / "in", [CAPTIONS[:2], CAPTIONS[2:]])
    with pytest.raises(UserError, match=r"scoresFrom: .*web-00000\.parquet does not exist or was made from another"):
        filter_with(run_of(tmp_path / "b", shards, {"scoresFrom": str(tmp_path / "a/runs/latest/filter")}))


def test_caption_in_the_image_is_dropped_as_text(tmp_path: Path) -> None:
    members = [
        *pair("a", "a tall giraffe near trees", drawn("giraffe"), painted={"text": "giraffe"}),
        *pair("b", "a small dog near trees", drawn("hello"), painted=False),
        *pair("c", "a red car near trees", drawn(""), painted=False),
    ]
    committed = filter_pairs(tmp_path, members, {"textSpotting": {"mode": "Drop", "detectorSize": 128}})
    assert committed.summary["counts"]["dropped"] == {"text": 1}
    rows = rows_of(tmp_path / "out", "web-a")
    assert [(row.reason, row.ocr_state) for row in rows] == [("text", "done"), ("", "done"), ("", "done")]
    assert [[text.text for text in row.ocr] for row in rows] == [["giraffe"], ["hello"], []]
    report = report_of(tmp_path / "out")
    assert (report["text_spotting"]["recall"], report["text_spotting"]["precision"]) == (1.0, 1.0)
    assert report["examples"]["text"][0]["texts"] == ["giraffe"]


def test_filtering_a_source_or_not_is_another_configuration(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "in")
    assert config_of(run_of(tmp_path / "out", shards, filter=False)) != config_of(run_of(tmp_path / "out", shards))


def test_exclude_list_drops_pairs(tmp_path: Path) -> None:
    members = [*pair("a", "a small dog", uid="take-me-down"), *pair("b", "a red car", uid="stay")]
    (tmp_path / "list.txt").write_text("# takedowns\n\ntake-me-down\n")
    committed = filter_pairs(tmp_path, members, {"exclude": str(tmp_path / "list.txt")})
    assert committed.summary["counts"]["dropped"] == {"exclude": 1}
    assert committed.inputs.keys() == {"web-a", "exclude list"}


def test_all_samples_filtered_out_ends_with_the_counts(tmp_path: Path) -> None:
    run = run_of(tmp_path / "out", write_shards(tmp_path / "in"), {"minComplexity": 50})
    with pytest.raises(DataError, match=r"keeps none of 6 samples \(dropped: complexity 6; bad: none\): lower"):
        filter_with(run)
    assert not (tmp_path / "out/runs/latest/filter/COMMITTED.json").exists()


def test_benchmark_that_the_run_does_not_name_is_refused(tmp_path: Path) -> None:
    rules = {"decontaminate": ["imagenet1k"]}
    with pytest.raises(UserError, match=r"no benchmark is called imagenet1k \(there are: none\)"):
        filter_with(run_of(tmp_path / "out", write_shards(tmp_path / "in"), rules))
    assert not (tmp_path / "out").exists()
