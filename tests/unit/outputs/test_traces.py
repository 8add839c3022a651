from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.traces import Traces, names_in, without_names
from diht_k8s.report.per_image import PerImage, write_per_image
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage
from diht_k8s.stages.evaluate.encoding import EncodedImages, write_encoded

UID, DIGEST, CAPTION = "pair-1", "d" * 64, "a small dog"
STORAGE = Storage()


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"a": [{"uid": UID}]}, True),
        ({UID: 1}, True),
        ({"a": f"{UID}2", "b": [f"x {UID}"]}, False),
        ([1, None, True], False),
    ],
)
def test_names_are_whole_texts_or_keys_of_a_document(document: Any, found: bool) -> None:
    assert names_in(document, {UID}) is found


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"step 1: {UID} is odd", "step 1: (taken down) is odd"),
        (f"{UID}2 and x{UID} stay", f"{UID}2 and x{UID} stay"),
        (f"'{CAPTION}', {UID}.", "'(taken down)', (taken down)."),
        ("step 12 of 3", "step 12 of 3"),
    ],
)
def test_names_in_a_text_stand_for_themselves_and_short_ones_stay(text: str, left: str) -> None:
    assert without_names(text, {UID, CAPTION, "12"}) == left


def features(uri: str, digest: str) -> None:
    item = BenchmarkImage("0.tar", "k", "other", (), None, digest=digest)
    write_encoded(STORAGE, uri, "key", EncodedImages([item], np.zeros((1, 2), np.float32), samples=1))


def per_image(uri: str, uid: str) -> None:
    write_per_image(STORAGE, uri, PerImage([uid], ["0.tar"], ["dog"]))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output with two evaluations, a training and two runs that show and name nothing yet."""
    for path, content in (
        *(
            (f"evaluate/{name * 16}/{file}", "{}")
            for name in "ab"
            for file in ("STARTED.json", "COMMITTED.json", "report.json")
        ),
        *((f"evaluate/{name * 16}/{file}", "x") for name in "ab" for file in ("report.html", "README.md", "notes.txt")),
        *(
            (f"runs/{name}/{'0' * 16}/{file}", "{}")
            for name in "ab"
            for file in ("report.json", "report.html", "run.json")
        ),
        (f"runs/a/{'0' * 16}/logs-1/app/role/0/try/out.log", "all is well\n"),
        (f"train/{'0' * 16}/not_finite-00000.json", '{"step": 1, "uids": ["other"]}'),
        (f"filter/{'0' * 16}/clip_share.json", '{"cut": {"last": [0.1, "other", 0, 0]}}'),
    ):
        STORAGE.write_bytes(f"{tmp_path}/{path}", content.encode())
    for name in "ab":
        features(f"{tmp_path}/evaluate/{name * 16}/features/00000.safetensors", "e" * 64)
        per_image(f"{tmp_path}/evaluate/{name * 16}/benchmarks/000.parquet", "other")
    return tmp_path


def everything(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def removed(output: Path) -> list[str]:
    return Traces(STORAGE, str(output), frozenset({UID, DIGEST}), frozenset({CAPTION})).remove()


def test_files_that_show_and_name_nothing_stay_as_they_are(output: Path) -> None:
    before = everything(output)
    assert removed(output) == []
    assert everything(output) == before


@pytest.mark.parametrize("what", ["report", "features", "per image", "result", "damaged"])
def test_evaluation_that_shows_a_pair_anywhere_goes_and_the_other_stays(output: Path, what: str) -> None:
    before, folder = everything(output), output / "evaluate" / ("b" * 16)
    match what:
        case "report":
            (folder / "report.json").write_text(json.dumps({"examples": [{"uid": UID}]}))
        case "features":
            features(f"{folder}/features/00000.safetensors", DIGEST)
        case "per image":
            per_image(f"{folder}/benchmarks/000.parquet", UID)
        case "result":
            (folder / "benchmarks/000.json").write_text(json.dumps({"thumbnails": {UID: "data:"}}))
        case _:
            (folder / "report.json").write_text("{")
    assert removed(output) == [f"evaluate/{'b' * 16}"]
    kept = {f"evaluate/{'b' * 16}/{name}" for name in ("STARTED.json", "notes.txt")}
    expected = {path: data for path, data in before.items() if not path.startswith("evaluate/b") or path in kept}
    assert everything(output) == expected


NAMED = {
    f"train/{'0' * 16}/not_finite-00000.json": (
        json.dumps({"step": 1, "uids": [UID, "other"]}),
        '{"step": 1, "uids": ["", "other"]}',
    ),
    f"filter/{'0' * 16}/clip_share.json": (
        json.dumps({"cut": {"last": [0.1, UID, 0, 0]}}),
        '{"cut": {"last": [0.1, "", 0, 0]}}',
    ),
    f"runs/a/{'0' * 16}/logs-1/app/role/0/try/out.log": (f"{UID}: {CAPTION}\n", "(taken down): (taken down)\n"),
    f"runs/a/{'0' * 16}/logs-1/app/cause-0.json": (
        json.dumps({"message": f"pair '{UID}'"}),
        '{"message": "pair \'(taken down)\'"}',
    ),
}


@pytest.mark.parametrize("path", NAMED)
def test_documents_that_name_a_pair_keep_the_rest(output: Path, path: str) -> None:
    (output / path).write_text(NAMED[path][0])
    assert removed(output) == [path]
    assert (output / path).read_text() == NAMED[path][1]


def test_page_of_a_run_that_shows_a_pair_goes_with_its_report(output: Path) -> None:
    place = f"runs/b/{'0' * 16}"
    (output / place / "report.json").write_text(json.dumps({"filter": {"examples": [{"uid": UID}]}}))
    assert removed(output) == [f"{place}/report.html", f"{place}/report.json"]
    assert [path.name for path in (output / place).iterdir()] == ["run.json"]
    assert (output / "runs/a" / ("0" * 16) / "report.html").exists()
