"""`diht benchmarks import`: every layout into shards, resumed, refused, and bad input told apart."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diht_k8s.api.errors import UserError
from diht_k8s.cli.main import main
from diht_k8s.data.imports import resumable_import
from diht_k8s.data.imports.layouts import open_benchmark
from diht_k8s.data.imports.records import ReaderOptions
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.evaluate import class_texts
from diht_k8s.stages.evaluate.answer_ranking import answer_score
from diht_k8s.stages.evaluate.benchmark_images import questions_of
from diht_k8s.stages.evaluate.importing import BenchmarkImport, import_benchmark
from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.imports.downloads import DOWNLOADS
from tests.recipe.evaluate.imports.drawings import IMAGES, drawing, two_captions
from tests.recipe.evaluate.imports.original_pixels import FER_EMOTIONS
from tests.recipe.evaluate.imports.original_tables import (
    few_rows,
    parquet_counts,
    parquet_winoground_without_a_caption,
    png,
    split_files,
)
from tests.recipe.evaluate.imports.originals import ORIGINALS
from tests.recipe.evaluate.small_run import COLOURS

ALPHABET = sorted(COLOURS)


def by_name(row: int) -> int:
    """Classes in the order of their names."""
    return ALPHABET.index(COLOURS[row % 6])


def by_number(classes: int) -> Callable[[int], int]:
    return lambda row: row % classes


LABELS: dict[str, Callable[[int], int]] = {
    "image_folder": by_name,
    "cifar10": by_number(10),
    "cifar100": by_number(100),
    "mnist": by_number(10),
    "fashion_mnist": by_number(10),
    "kmnist": by_number(10),
    "stl10": by_number(10),
    "svhn": by_number(10),
    "usps": by_number(10),
    "pcam": by_number(2),
    "fer2013": lambda row: FER_EMOTIONS[row % 7],
    "gtsrb": by_number(43),
    "food101": by_name,
    "dtd": by_name,
    "pets": by_number(6),
    "flowers": lambda row: row * 7 % 102,
    "cars": by_number(6),
    "fgvc_aircraft": by_number(6),
    "sun397": by_number(6),
    "eurosat": by_number(10),
    "renderedsst2": by_number(2),
    "caltech101": by_name,
    "camelyon17": by_number(2),
    "iwildcam": by_number(6),
    "fmow": by_name,
    "parquet": by_number(6),
    "arrow": by_number(6),
    "yes_or_no": by_number(2),
}
"""Layout -> class of the image that was drawn as number `row`."""
CAPTIONED = ("coco", "karpathy", "flickr", "parquet_captions")


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    originals.trust_files(monkeypatch)


def imported(folder: Path, name: str, *options: str) -> tuple[Path, dict[str, Any]]:
    """Import a small original by the command; the output and its marker."""
    source = ORIGINALS[name](folder / name)
    output = folder / "out" / name
    assert main(["benchmarks", "import", str(source), str(output), *options]) == 0
    return output, json.loads((output / "COMMITTED.json").read_text())


def samples_of(output: Path) -> list[Sample]:
    names = sorted((output / "test").glob("*.tar"), key=lambda path: int(path.stem))
    return [sample for path in names for sample in read_samples(Storage(), str(path))]


def drawn_row(sample: Sample) -> int:
    """Which of the drawings a sample's image is, also after JPEG."""
    image = Image.open(io.BytesIO(sample.image)).convert("RGB")
    seen = np.asarray(image, dtype=np.int64)
    grey = len(set(image.getpixel((0, 0)))) == 1 and np.ptp(seen, axis=2).max() == 0
    mode = "L" if grey else "RGB"
    distances = [
        np.abs(np.asarray(drawing(row, image.size[0], mode=mode).convert("RGB"), dtype=np.int64) - seen).mean()
        for row in range(IMAGES)
    ]
    return int(np.argmin(distances))


@pytest.mark.parametrize("name", list(LABELS))
def test_import_when_images_have_classes_keeps_each_with_its_own(tmp_path: Path, name: str) -> None:
    output, marker = imported(tmp_path, name, "--shard-size", "7")
    samples = samples_of(output)
    expected = 20 if name in ("camelyon17", "iwildcam", "fmow") else IMAGES
    assert (len(samples), marker["samples"], marker["bad"]) == (expected, expected, {})
    assert (marker["schema_version"], marker["type"]) == (1, "Classification")
    rows = [drawn_row(sample) for sample in samples]
    assert sorted(rows) == list(range(expected))
    assert [int(sample.members["cls"]) for sample in samples] == [LABELS[name](row) for row in rows]
    names = (output / "classnames.txt").read_text().splitlines()
    assert len(names) == marker["classes"] > max(map(LABELS[name], rows))
    assert (output / "test/nshards.txt").read_text() == f"{-(-expected // 7)}\n"


def test_import_when_the_set_is_imagenet_numbers_and_names_its_thousand_classes(tmp_path: Path) -> None:
    output, marker = imported(tmp_path, "imagenet1k")
    assert [int(sample.members["cls"]) for sample in samples_of(output)] == list(range(1000))
    assert (output / "classnames.txt").read_text().splitlines() == list(open_clip.IMAGENET_CLASSNAMES)
    assert (marker["kind"], marker["class_names_from"], marker["templates_from"]) == ("imagenet1k", *["open_clip"] * 2)


def test_import_when_emotions_are_numbered_names_them_in_the_order_of_other_tools(tmp_path: Path) -> None:
    output, _ = imported(tmp_path, "fer2013")
    names = (output / "classnames.txt").read_text().splitlines()
    assert names == ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
    assert [names[int(sample.members["cls"])] for sample in samples_of(output)[4:7]] == ["sad", "surprised", "neutral"]


def test_import_when_a_folder_has_the_name_of_a_set_but_class_folders_reads_those(tmp_path: Path) -> None:
    source = ORIGINALS["image_folder"](tmp_path / "fer2013")
    assert open_benchmark(source, None, ReaderOptions()).kind == "image-folder"
    source = ORIGINALS["fer2013"](tmp_path / "csv") / "fer2013"
    assert open_benchmark(source, None, ReaderOptions()).kind == "fer2013"


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["2749/a/0.jpg", "2750/a/1.jpg", "2750/b/2.jpg", "2751/c/3.jpg"], ("2749", "2750", "2751")),
        (["bus/0.jpg", "car/1.jpg", "train/2.jpg"], ("bus", "car", "train")),
        (["test/bus/0.jpg", "test/train/1.jpg", "train/bus/2.jpg"], ("bus", "train")),
    ],
    ids=["EuroSAT's folder", "a class named train", "splits with such a class"],
)
def test_import_when_a_class_is_named_as_parts_of_other_layouts_are_reads_all_classes(
    tmp_path: Path, paths: list[str], classes: tuple[str, ...]
) -> None:
    for row, path in enumerate(paths):
        originals.save(tmp_path / path, row)
    source = open_benchmark(tmp_path, None, ReaderOptions())
    found = (source.kind, source.class_names, {record.label for record in source.read(0, source.total)})
    assert found == ("image-folder", classes, {*range(len(classes))})


@pytest.mark.parametrize("name", CAPTIONED)
def test_import_when_images_have_captions_keeps_all_of_them(tmp_path: Path, name: str) -> None:
    output, marker = imported(tmp_path, name)
    samples = samples_of(output)
    rows = [drawn_row(sample) for sample in samples]
    kept = [row for row in range(IMAGES) if name != "karpathy" or row % 4 != 3]
    assert sorted(rows) == kept
    assert [sample.members["txt"].decode().split("\n") for sample in samples] == [two_captions(row) for row in rows]
    assert (marker["type"], (output / "dataset_type.txt").read_text()) == ("Retrieval", "retrieval\n")


def test_import_when_the_set_is_vqav2_keeps_questions_answers_and_candidates(tmp_path: Path) -> None:
    output, marker = imported(tmp_path, "vqav2", "--answers", "6")
    first = json.loads(samples_of(output)[0].members["json"])["questions"]
    assert [question["question"] for question in first] == ["what colour is it? (0)", "what colour is it? (1)"]
    assert first[0]["answers"] == [COLOURS[0]] * 7 + ["rare 0"] * 3
    assert sorted((output / "classnames.txt").read_text().split()) == ALPHABET
    assert "24 of 24 questions (100.0 %)" in marker["notes"][0]


def test_import_when_the_set_is_snli_ve_keeps_agreed_labels_only(tmp_path: Path) -> None:
    output, marker = imported(tmp_path, "snli_ve")
    asked = [question for sample in samples_of(output) for question in sample.meta["questions"]]
    assert [question["answers"] for question in asked[:3]] == [["entailment"], ["neutral"], ["contradiction"]]
    assert len(asked) == 18
    assert marker["notes"] == ["6 hypotheses without an agreed label are left out"]
    assert (output / "classnames.txt").read_text().split() == ["entailment", "neutral", "contradiction"]


def test_import_when_the_set_is_sugar_crepe_puts_the_right_caption_first(tmp_path: Path) -> None:
    output, marker = imported(tmp_path, "sugar_crepe")
    for sample in samples_of(output):
        row = drawn_row(sample)
        right, wrong = sample.members["txt"].decode().split("\n")
        assert right.startswith(f"a {COLOURS[row % 6]} thing")
        assert wrong == f"a {COLOURS[(row + 1) % 6]} one"
    assert marker["type"] == "CaptionChoice"


@pytest.mark.parametrize("name", ["winoground", "parquet_winoground"])
def test_import_when_the_set_is_winoground_keeps_pairs_together(tmp_path: Path, name: str) -> None:
    output, marker = imported(tmp_path, name, "--shard-size", "5")
    samples = samples_of(output)
    assert [drawn_row(sample) for sample in samples] == list(range(IMAGES))
    assert [sample.meta["group"] for sample in samples] == [row // 2 for row in range(IMAGES)]
    captions = [sample.members["txt"].decode() for sample in samples[:2]]
    assert captions == [f"{COLOURS[0]} 0 over 1", f"{COLOURS[0]} 1 over 0"]
    assert len({sample.uid for sample in samples}) == IMAGES
    assert marker["type"] == "PairMatching"


def test_import_when_the_set_is_winogavil_stores_each_image_once_with_all_its_cues(tmp_path: Path) -> None:
    output, marker = imported(tmp_path, "parquet_winogavil", "--shard-size", "5")
    samples = samples_of(output)
    cues = {sample.uid: sample.meta["cues"] for sample in samples}
    assert sorted(cues) == sorted(f"image{row}" for row in range(IMAGES))
    for sample in samples:
        assert drawn_row(sample) == int(sample.uid[5:])
    for name, groups, associated in (
        ("image3", (0, 1, 8, 9), ()),
        ("image4", (0, 1, 8, 9), (1, 9)),
        ("image1", (0, 7, 8), (0, 8)),
    ):
        assert cues[name] == [
            {"group": n, "cue": f"{COLOURS[n % 6]} idea", "candidates": 5, "associated": n in associated}
            for n in groups
        ]
    assert marker["type"] == "Association"


def test_import_when_regions_are_known_makes_them_groups_without_the_rest(tmp_path: Path) -> None:
    output, _ = imported(tmp_path, "fmow")
    groups = [sample.meta.get("group") for sample in samples_of(output)]
    assert groups == [("Europe", "Americas", None)[row % 3] for row in range(20)]


@pytest.mark.parametrize(
    ("paths", "split", "taken"),
    [
        (["data/test-00000-of-00001", "data/test_mini-00000-of-00001"], "test", [0]),
        (["data/test-00000-of-00001", "data/test_mini-00000-of-00001"], "test_mini", [1]),
        (
            ["data/test_seen-00000-of-00002", "data/test_seen-00001-of-00002", "data/test_new-00000-of-00001"],
            "test_seen",
            [0, 1],
        ),
        (["data/test_seen-00000-of-00001", "data/train-00000-of-00001"], "test", [0]),
        (["data/test-00000-of-00002-0a1b2c", "data/test-00001-of-00002-3d4e5f"], "test", [0, 1]),
        (["data/test_2014-00000-of-00001", "data/test_2017-00000-of-00001"], "test_2017", [1]),
        (["data/query-00000-of-00001", "data/gallery-00000-of-00001"], "query", [0]),
        (["test_mini/0", "test/0", "test/1"], "test", [1, 2]),
        (["test_000", "test_001", "train_000"], "test", [0, 1]),
        (["test-part1", "test-part2"], "test", [0, 1]),
        (["data/test-0000-of-0002", "data/test-0001-of-0002", "data/train-0-of-1"], "test", [0, 1]),
        (["test_00000_of_00002.snappy", "test_00001_of_00002.snappy", "test_new.snappy"], "test", [0, 1]),
        (["test", "train"], "test", [0]),
        (["0000", "0001"], "test", [0, 1]),
    ],
)
def test_import_when_names_of_splits_begin_alike_takes_the_files_of_one(
    tmp_path: Path, paths: list[str], split: str, taken: list[int]
) -> None:
    split_files(tmp_path / "in", {f"{path}.parquet": [number] for number, path in enumerate(paths)})
    assert main(["benchmarks", "import", f"{tmp_path}/in", f"{tmp_path}/out", "--split", split]) == 0
    assert [int(sample.members["cls"]) for sample in samples_of(tmp_path / "out")] == taken


MORE = "{} of the {} classes are in other splits alone, such as {}"
ALONE = (
    "the {} classes are those of split test alone: if other splits hold more, put them beside it and name the folder"
)


@pytest.mark.parametrize(
    ("files", "classes", "notes"),
    [
        (
            {"data/test-0": ["cat", "dog"], "data/train-0": ["ant", "cat", "eel"], "data/val-0": ["cat", "fox"]},
            5,
            [MORE.format(3, 5, "'ant'")],
        ),
        ({"test/0": [0, 1], "train/0": [3], "train/1": [5, -1, None]}, 6, [MORE.format(2, 6, 3)]),
        (
            {"en/test-0": ["cat"], "en/train-0": ["cat", "dog"], "de/train-0": ["Hund", "Katze"]},
            2,
            [MORE.format(1, 2, "'dog'")],
        ),
        ({"test": ["cat", "dog"], "train": ["dog", "cat", ""], "dev": ["?", "?"]}, 2, []),
        ({"test": [0, 1], "train": [1, 0], "dev": [255, 255]}, 2, []),
        ({"test": ["cat", "dog"]}, 2, [ALONE.format(2)]),
        ({"test": [0, 3]}, 4, [ALONE.format(4)]),
    ],
    ids=[
        "texts",
        "numbers",
        "another set beside",
        "hidden texts",
        "hidden numbers",
        "texts of one split",
        "numbers of one split",
    ],
)
def test_import_when_classes_have_no_names_takes_those_of_all_splits(
    tmp_path: Path, files: dict[str, list[Any]], classes: int, notes: list[str]
) -> None:
    split_files(tmp_path / "in", {f"{name}.parquet": labels for name, labels in files.items()}, {})
    assert main(["benchmarks", "import", f"{tmp_path}/in", f"{tmp_path}/out"]) == 0
    marker = json.loads((tmp_path / "out/COMMITTED.json").read_text())
    assert marker["classes"] == classes
    assert [note for note in marker["notes"] if "numbers" not in note] == notes
    names = (tmp_path / "out/classnames.txt").read_text().split()
    (labels,) = (labels for name, labels in files.items() if "test" in name)
    assert [names[int(sample.members["cls"])] for sample in samples_of(tmp_path / "out")] == list(map(str, labels))


def test_import_when_a_file_of_another_split_cannot_be_read_tells_that_its_classes_are_unknown(tmp_path: Path) -> None:
    split_files(tmp_path / "in", {"test.parquet": ["cat", "dog"]}, {})
    (tmp_path / "in/train.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert main(["benchmarks", "import", f"{tmp_path}/in", f"{tmp_path}/out"]) == 0
    notes = json.loads((tmp_path / "out/COMMITTED.json").read_text())["notes"]
    assert notes == ["train.parquet cannot be read: classes that it alone holds are not known", ALONE.format(2)]


def test_import_when_another_split_has_more_columns_takes_its_classes(tmp_path: Path) -> None:
    split_files(tmp_path / "in", {"test.parquet": ["cat", "dog"]}, {})
    pq.write_table(pa.table({"label": ["cat", "eel"], "box": [1, 2]}), tmp_path / "in/train.parquet")
    assert main(["benchmarks", "import", f"{tmp_path}/in", f"{tmp_path}/out"]) == 0
    assert (tmp_path / "out/classnames.txt").read_text().split() == ["cat", "dog", "eel"]


@pytest.mark.parametrize(
    ("typed", "plain", "taken", "others"),
    [
        (["animal", "pet"], ["label"], "label", "animal, pet"),
        (["animal", "fine_label"], ["label"], "fine_label", "animal"),
        (["coarse_label", "fine_label"], [], "fine_label", "coarse_label"),
        (["animal"], ["category"], "animal", ""),
    ],
)
def test_import_when_several_columns_hold_classes_takes_the_usual_name_and_tells(
    tmp_path: Path, typed: list[str], plain: list[str], taken: str, others: str
) -> None:
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features |= {name: {"_type": "ClassLabel", "names": [f"{name} {n}" for n in range(3)]} for name in typed}
    pq.write_table(few_rows({**features, **dict.fromkeys(plain)}), tmp_path / "test.parquet")
    assert main(["benchmarks", "import", f"{tmp_path}/test.parquet", f"{tmp_path}/out"]) == 0
    names = (tmp_path / "out/classnames.txt").read_text().splitlines()
    assert names == ([f"{taken.replace('_', ' ')} {n}" for n in range(3)] if taken in typed else ["0", "1", "2"])
    notes = json.loads((tmp_path / "out/COMMITTED.json").read_text())["notes"]
    assert [note for note in notes if "column" in note] == (
        [f"classes are from the column {taken} (also there: {others})"] if others else []
    )


@pytest.mark.parametrize("space", ["\u2028", "\x85", "\x0b", "\n", " \t "])
def test_class_names_when_one_holds_a_line_separator_keep_their_classes(tmp_path: Path, space: str) -> None:
    label = {"_type": "ClassLabel", "names": [f"red{space}wine", "cat", f"{space}dog"]}
    split_files(tmp_path / "in", {"test.parquet": [0, 1, 2]}, {"image": {"_type": "Image"}, "label": label})
    run_import(tmp_path / "in", tmp_path / "out")
    assert class_texts.read_lines(Storage(), f"{tmp_path}/out/classnames.txt") == ["red wine", "cat", "dog"]


def test_answers_when_one_holds_a_line_separator_match_their_candidates(tmp_path: Path) -> None:
    source = ORIGINALS["vqav2"](tmp_path / "in")
    annotations = next((tmp_path / "in").glob("*annotations.json"))
    annotations.write_text(annotations.read_text().replace('"red"', r'"dark\u2028red"').replace('"blue"', '" "'))
    run_import(source, tmp_path / "out")
    candidates = class_texts.read_lines(Storage(), f"{tmp_path}/out/classnames.txt")
    assert "dark red" in candidates
    assert all(candidates)
    said = [question.answers for sample in samples_of(tmp_path / "out") for question in questions_of(sample)]
    assert sum(answer_score("dark red", answers) for answers in said) == 4


def test_import_when_a_box_was_corrected_since_needs_replace(tmp_path: Path) -> None:
    source = DOWNLOADS["VOC2007"].build(tmp_path / "in")
    run_import(source, tmp_path / "out")
    path = source / "VOC2007/Annotations/000006.xml"
    path.write_text(path.read_text().replace("<xmax>30<", "<xmax>31<"))
    with pytest.raises(UserError, match="its files have changed"):
        run_import(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "ignored", "bad"),
    [
        ({"candidates": None}, {"row_without_candidates": 1}, {}),
        ({"candidates": ["b0", None, "b2"]}, {"row_without_candidates": 1}, {}),
        ({"associations": None}, {"row_without_associations": 1}, {}),
        ({"associations": []}, {"row_without_associations": 1}, {}),
        ({"associations": ["b0", "other"]}, {"association_without_candidate": 1}, {}),
        ({"cue": None}, {"row_without_cue": 1}, {}),
        ({"cue": " "}, {"row_without_cue": 1}, {}),
        ({"candidate_images": None}, {}, {"images_unlike_candidates": 3}),
        ({"candidate_images": 2}, {}, {"images_unlike_candidates": 3}),
    ],
)
def test_import_when_a_row_of_winogavil_lacks_something_counts_it_by_reason(
    tmp_path: Path, changed: dict[str, Any], ignored: dict[str, int], bad: dict[str, int]
) -> None:
    images = [{"bytes": png(row), "path": None} for row in range(3)]
    rows: list[dict[str, Any]] = [
        {
            "candidates": [f"{row}{n}" for n in range(3)],
            "associations": [f"{row}0"],
            "cue": row,
            "candidate_images": images,
        }
        for row in "ab"
    ]
    rows[1] |= {**changed, "candidate_images": images[: changed.get("candidate_images", 3) or 0] or None}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    run_import(tmp_path / "test.parquet", tmp_path / "out")
    marker = json.loads((tmp_path / "out/COMMITTED.json").read_text())
    assert {reason: each["count"] for reason, each in marker["seen"]["ignored"].items()} == ignored
    assert {reason: each["count"] for reason, each in marker["bad"].items()} == bad
    assert [sample.uid for sample in samples_of(tmp_path / "out")] == ["a0", "a1", "a2"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["image_folder", "mnist", "coco", "parquet", "parquet_winogavil"])
def test_import_when_made_twice_has_the_same_bytes(tmp_path: Path, name: str) -> None:
    source = ORIGINALS[name](tmp_path / name)
    for output in ("one", "two"):
        assert main(["benchmarks", "import", str(source), str(tmp_path / output), "--shard-size", "9"]) == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def run_import(source: Path, output: Path, advance: Callable[[], object] = lambda: None) -> list[tuple[int, int]]:
    """Import without the command; what it said of total and done."""
    said: list[tuple[int, int]] = []
    order = BenchmarkImport(str(output), per_shard=8)
    import_benchmark(
        open_benchmark(source, None, ReaderOptions()),
        order,
        Storage(),
        lambda total, done: said.append((total, done)),
        advance,
    )
    return said


def test_import_when_interrupted_continues_with_the_next_shard_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    source = ORIGINALS["image_folder"](tmp_path / "in")
    run_import(source, tmp_path / "whole")
    left = iter(range(13))

    def advance() -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_import(source, tmp_path / "broken", advance)
    assert sorted(path.name for path in (tmp_path / "broken/test").iterdir()) == ["0.tar", "nshards.txt"]
    assert not (tmp_path / "broken/COMMITTED.json").exists()
    written = (tmp_path / "broken/test/0.tar").stat().st_mtime_ns
    assert run_import(source, tmp_path / "broken") == [(24, 8)]
    assert (tmp_path / "broken/test/0.tar").stat().st_mtime_ns == written
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")


def test_import_when_done_reads_no_image_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ORIGINALS["image_folder"](tmp_path / "in")
    run_import(source, tmp_path / "out")
    monkeypatch.setattr(resumable_import, "write_shard", lambda *_, **__: pytest.fail("written again"))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert run_import(source, tmp_path / "out") == [(24, 24)]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == written


def test_import_when_a_shard_was_cut_writes_it_again(tmp_path: Path) -> None:
    source = ORIGINALS["image_folder"](tmp_path / "in")
    run_import(source, tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out/COMMITTED.json").unlink()
    (tmp_path / "out/test/1.tar").write_bytes(before["test/1.tar"][:100])
    assert run_import(source, tmp_path / "out") == [(24, 16)]
    assert tree(tmp_path / "out") == before


def test_import_when_interrupted_is_listed_as_not_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ORIGINALS["image_folder"](tmp_path / "in")
    run_import(source, tmp_path / "root/wds_mine")
    assert main(["benchmarks", str(tmp_path / "root")]) == 0
    assert "Also here, in no list: wds_mine, Classification, 3 shards." in capsys.readouterr().out
    (tmp_path / "root/wds_mine/test/2.tar").unlink()
    assert main(["benchmarks", str(tmp_path / "root")]) == 0
    assert "wds_mine, Classification, not whole: nshards.txt says 3 shards." in capsys.readouterr().out


def test_import_when_the_output_holds_another_import_needs_replace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ORIGINALS["image_folder"](tmp_path / "one"), ORIGINALS["coco"](tmp_path / "two")
    output = tmp_path / "out"
    assert main(["benchmarks", "import", str(first), str(output), "--shard-size", "5"]) == 0
    (output / "NOTES.md").write_text("mine")
    assert main(["benchmarks", "import", str(second), str(output)]) == 64
    assert "holds another import (" in capsys.readouterr().err
    assert main(["benchmarks", "import", str(second), str(output), "--replace"]) == 0
    assert sorted(path.name for path in output.rglob("*") if path.is_file()) == [
        "0.json",
        "0.tar",
        "COMMITTED.json",
        "NOTES.md",
        "dataset_type.txt",
        "nshards.txt",
        "started.json",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "image_folder",
        "coco",
        "karpathy",
        "flickr",
        "vqav2",
        "snli_ve",
        "sugar_crepe",
        "winoground",
        "camelyon17",
        "VOC2007",
        "VOC2007, whole images",
        "ImageNet, devkit and flat val",
    ],
)
def test_import_when_an_image_was_repaired_since_needs_replace(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    download = DOWNLOADS.get(name)
    source = ORIGINALS[name](tmp_path / "in") if download is None else download.build(tmp_path / "in")
    images = sorted(path for path in (tmp_path / "in").rglob("*") if path.suffix in (".jpg", ".png", ".JPEG"))
    image = images[len(images) // 2]  # the first and last ones may be of other splits
    sound = image.read_bytes()
    image.write_bytes(b"broken")
    command = ["benchmarks", "import", str(source), str(tmp_path / "out"), *(download.options if download else ())]
    assert main(command) == 0
    assert main(command) == 0
    image.write_bytes(sound)
    capsys.readouterr()
    assert main(command) == 64
    assert (
        "(of another SOURCE, or its files have changed): choose another OUTPUT, or add --replace"
        in capsys.readouterr().err
    )
    assert main([*command, "--replace"]) == 0
    assert json.loads((tmp_path / "out/COMMITTED.json").read_text())["bad"] == {}


def test_import_when_the_output_holds_foreign_shards_leaves_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ORIGINALS["image_folder"](tmp_path / "in")
    write_samples(Storage(), f"{tmp_path}/out/test/0.tar", [("a", {"txt": b"mine"})])
    for options in ([], ["--replace"]):
        assert main(["benchmarks", "import", str(source), str(tmp_path / "out"), *options]) == 64
        assert "were not imported by diht: choose another OUTPUT" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["0.tar"]


def test_import_when_images_are_bad_counts_them_by_reason_with_an_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ORIGINALS["coco"](tmp_path / "in")
    images = tmp_path / "in/val2014"
    (images / f"COCO_val2014_{3:012d}.jpg").unlink()
    (images / f"COCO_val2014_{5:012d}.jpg").write_bytes(b"")
    for row in (7, 8):
        path = images / f"COCO_val2014_{row:012d}.jpg"
        path.write_bytes(path.read_bytes()[:200])
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "out: 20 images in 1 shard" in said
    for part in ("1 picture_missing, for example", "1 picture_empty", "2 picture_unreadable, for example", "007.jpg"):
        assert part in said
    assert [sample.key for sample in samples_of(tmp_path / "out")][2:5] == ["s0000002", "s0000004", "s0000006"]


def latin_tokens(folder: Path) -> Path:
    for row in range(3):
        originals.save(folder / f"{row}.jpg", row)
    lines = ["0.jpg#0\ta dog", "1.jpg#0\ta caf\xe9", "1.jpg#1\ta table", "2.jpg#0\ta cat"]
    (folder / "results_20130124.token").write_text("\n".join(lines), encoding="latin-1")
    return folder / "results_20130124.token"


def with_half_an_emoji(name: str, text: str) -> Callable[[Path], Path]:
    """An annotation file in which half of a surrogate pair stands at the end of some texts."""

    def make(folder: Path) -> Path:
        source = ORIGINALS[name](folder)
        source.write_text(source.read_text().replace(text, f"{text}\\ud83d"))
        return source

    return make


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (latin_tokens, {"caption_not_utf8": 1}),
        (with_half_an_emoji("coco", "a red thing, number 6"), {"caption_not_utf8": 1}),
        (with_half_an_emoji("vqav2", "colour is it? (2)"), {"json_unreadable": 1}),
        (parquet_winoground_without_a_caption, {"caption_no_text": 1}),
    ],
    ids=["Latin-1", "half an emoji in a caption", "half an emoji in a question", "no caption"],
)
def test_import_when_no_text_can_hold_a_caption_counts_its_image(
    tmp_path: Path, make: Callable[[Path], Path], bad: dict[str, int]
) -> None:
    source = make(tmp_path / "in")
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out")]) == 0
    marker = json.loads((tmp_path / "out/COMMITTED.json").read_text())
    assert {reason: each["count"] for reason, each in marker["bad"].items()} == bad
    assert len(samples_of(tmp_path / "out")) == marker["images"] > 1


@pytest.mark.parametrize(
    "change",
    [lambda text: text.replace("0 over 1", "0\u2028over\x851"), lambda text: f"\ufeff{text}"],
    ids=["line separators in a text", "byte-order mark"],
)
def test_import_when_json_lines_hold_marks_of_unicode_reads_each_object(
    tmp_path: Path, change: Callable[[str], str]
) -> None:
    source = ORIGINALS["winoground"](tmp_path / "in")
    assert run_import(source, tmp_path / "plain")
    source.write_text(change(source.read_text()))
    assert run_import(source, tmp_path / "marked")
    plain, marked = ([sample.members for sample in samples_of(tmp_path / name)] for name in ("plain", "marked"))
    assert marked == plain


def test_import_when_answers_are_numbers_keeps_them_for_the_evaluation(tmp_path: Path) -> None:
    source = parquet_counts(tmp_path / "in")
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out")]) == 0
    answers = [question.answers for sample in samples_of(tmp_path / "out") for question in questions_of(sample)]
    assert answers == [("0",), ("1",), ("2",), ("3",)]


def test_import_when_a_folder_holds_other_files_and_links_accounts_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ORIGINALS["image_folder"](tmp_path / "in")
    root = source / "test"
    (root / "README.md").write_text("mine")
    (root / "cover.jpg").write_bytes(b"")
    first = sorted(path for path in root.iterdir() if path.is_dir())[0]
    (tmp_path / "elsewhere").mkdir()
    first.rename(tmp_path / "elsewhere/class")
    first.symlink_to(tmp_path / "elsewhere/class")
    for output, options, stored in (("out", (), 20), ("all", ("--allow-links", str(tmp_path / "elsewhere")), 24)):
        assert main(["benchmarks", "import", str(source), str(tmp_path / output), *options]) == 0
        marker = json.loads((tmp_path / output / "COMMITTED.json").read_text())
        ignored = {reason: each["count"] for reason, each in marker["seen"]["ignored"].items()}
        assert (marker["images"], marker["seen"]["count"]) == (stored, stored + sum(ignored.values()))
        outside = {} if options else {"outside_of_source": 1}
        assert ignored == {".md": 1, "image_in_no_class": 1, **outside}
    said = capsys.readouterr().out
    assert "23 files seen: 20 images stored, 0 bad, 3 ignored" in said
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.rename(tmp_path / "elsewhere" / path.name)
            path.mkdir()
            (path / "a.jpg").symlink_to(tmp_path / "elsewhere/class")
            (path / "b.jpg").symlink_to(next((tmp_path / "elsewhere/class").iterdir()))
    assert main(["benchmarks", "import", str(source), str(tmp_path / "none")]) == 65
    assert "name where links and paths may lead by --allow-links DIR" in capsys.readouterr().err


def test_import_when_no_image_of_a_shard_can_be_used_is_an_error_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ORIGINALS["sugar_crepe"](tmp_path / "in")
    for path in list((tmp_path / "in/val2017").iterdir())[:]:
        path.write_bytes(b"no image")
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out")]) == 65
    assert "none of the images 0 to 23 can be used (picture_unreadable, for example" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_texts_when_files_are_given_are_those(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "names.txt").write_text("".join(f"word {n}\n" for n in range(6)), encoding)
    (tmp_path / "templates.txt").write_text("a {c}\nthe {}\n", encoding)
    output, marker = imported(
        tmp_path, "pets", "--class-names", f"{tmp_path}/names.txt", "--templates", f"{tmp_path}/templates.txt"
    )
    assert (output / "classnames.txt").read_text().splitlines() == [f"word {n}" for n in range(6)]
    assert (output / "zeroshot_classification_templates.txt").read_text() == "a {c}\nthe {c}\n"
    assert (marker["class_names_from"], marker["templates_from"]) == (
        f"{tmp_path}/names.txt",
        f"{tmp_path}/templates.txt",
    )


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("numbered_folders", [0, *range(3, 11), 1, 2]),
        ("numbered_texts", [0, *range(3, 11), 1, 2]),
        ("numbered_labels", [0, *range(3, 11), 1, 2]),
    ],
)
def test_class_names_when_classes_are_numbered_are_taken_in_the_order_of_the_numbers(
    tmp_path: Path, name: str, numbers: list[int]
) -> None:
    (tmp_path / "names.txt").write_text("".join(f"flower {row}\n" for row in range(11)))
    output, _ = imported(tmp_path, name, "--class-names", f"{tmp_path}/names.txt")
    names = (output / "classnames.txt").read_text().splitlines()
    by_row = {drawn_row(sample): int(sample.members["cls"]) for sample in samples_of(output)}
    assert [by_row[row] for row in range(11)] == numbers
    assert [names[by_row[row]] for row in range(11)] == [f"flower {row}" for row in range(11)]
