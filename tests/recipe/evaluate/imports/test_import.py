"""`diht benchmarks import`: every layout into shards, resumed, refused, and what is left out counted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diht_k8s.api.errors import UserError
from diht_k8s.cli.main import main
from diht_k8s.data.imports.layouts import open_benchmark
from diht_k8s.data.imports.records import ReaderOptions
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.evaluate import class_texts
from diht_k8s.stages.evaluate.answer_ranking import answer_score
from diht_k8s.stages.evaluate.benchmark_images import questions_of
from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.imports.originals import (
    IMAGES,
    cells,
    drawing,
    few_rows,
    options_of,
    parquet_of,
    split_files,
    two_captions,
)
from tests.recipe.evaluate.small_run import COLOURS

ALPHABET = sorted(COLOURS)


def by_name(row: int) -> int:
    """Classes in the order of their names."""
    return ALPHABET.index(COLOURS[row % 6])


def by_number(classes: int) -> Callable[[int], int]:
    return lambda row: row % classes


LABELS: dict[Callable[[Path], Path], Callable[[int], int]] = {
    originals.image_folder: by_name,
    originals.cifar10: by_number(10),
    originals.mnist: by_number(10),
    originals.svhn: by_number(10),
    originals.pcam: by_number(2),
    originals.gtsrb: by_number(43),
    originals.food101: by_name,
    originals.pets: by_number(6),
    originals.eurosat: by_name,
    originals.caltech101: by_name,
    originals.imagenet1k: by_number(IMAGES),
    originals.parquet: by_number(6),
    originals.arrow: by_number(6),
    originals.yes_or_no: by_number(2),
}
"""Builder of an original -> class of the image that was drawn as number `row`."""
CAPTIONED = (
    originals.coco,
    originals.karpathy,
    originals.flickr,
    originals.flickr_tokens,
    originals.kaggle,
    originals.parquet_captions,
)


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    originals.trust_files(monkeypatch)
    monkeypatch.setattr(class_texts, "_read", lambda file: {})  # as where clip-benchmark is not installed


def imported(folder: Path, source: Path, *options: str) -> tuple[list[Sample], dict[str, Any]]:
    """Import by the command to FOLDER/out; its samples and its marker."""
    assert main(["benchmarks", "import", str(source), f"{folder}/out", *options]) == 0
    return samples_of(folder / "out"), json.loads((folder / "out/COMMITTED.json").read_text())


def samples_of(output: Path) -> list[Sample]:
    names = sorted((output / "test").glob("*.tar"), key=lambda path: int(path.stem))
    return [sample for path in names for sample in read_samples(Storage(), str(path))]


def counts(tally: dict[str, Any]) -> dict[str, int]:
    return {reason: each["count"] for reason, each in tally.items()}


def names_in(folder: Path) -> list[str]:
    return (folder / "out/classnames.txt").read_text().splitlines()


def drawn_row(sample: Sample) -> int:
    """Which of the drawings a sample's image is, also after JPEG."""
    image = Image.open(io.BytesIO(sample.image)).convert("RGB")
    seen = np.asarray(image, dtype=np.int64)
    grey = len(set(image.getpixel((0, 0)))) == 1 and np.ptp(seen, axis=2).max() == 0
    drawn = (drawing(row, image.size[0], mode="L" if grey else "RGB").convert("RGB") for row in range(IMAGES))
    return int(np.argmin([np.abs(np.asarray(each, dtype=np.int64) - seen).mean() for each in drawn]))


@pytest.mark.parametrize("build", LABELS, ids=lambda build: build.__name__)
def test_import_when_images_have_classes_keeps_each_with_its_own(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    source = build(tmp_path / "in")
    samples, marker = imported(tmp_path, source, *options_of(build), "--shard-size", "7")
    assert (marker["schema_version"], marker["type"], marker["samples"], marker["bad"]) == (
        *(1, "Classification"),
        *(IMAGES, {}),
    )
    rows = [drawn_row(sample) for sample in samples]
    assert sorted(rows) == list(range(IMAGES))
    assert [int(sample.members["cls"]) for sample in samples] == [LABELS[build](row) for row in rows]
    assert len(names_in(tmp_path)) == marker["classes"] > max(map(LABELS[build], rows))
    assert (tmp_path / "out/test/nshards.txt").read_text() == "4\n"
    files = {path.read_bytes() for path in source.rglob("*.[jJ][pP]*")}
    assert build is originals.caltech101 or files <= {sample.image for sample in samples}


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (originals.cifar10, [f"kind {n}" for n in range(10)]),
        (originals.imagenet1k, [f"thing {n}" for n in range(IMAGES)]),
        (originals.gtsrb, [str(n) for n in range(43)]),
        (originals.caltech101, [f"{colour} toy" for colour in ALPHABET]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_class_names_of_torchvisions_sets_are_its_own_or_numbers(
    tmp_path: Path, build: Callable[[Path], Path], names: list[str]
) -> None:
    imported(tmp_path, build(tmp_path / "in"), *options_of(build))
    assert names_in(tmp_path) == names


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["bus/0.jpg", "car/1.jpg", "train/2.jpg"], ("bus", "car", "train")),
        (["test/bus/0.jpg", "test/train/1.jpg", "train/bus/2.jpg"], ("bus", "train")),
    ],
    ids=["a class named train", "splits with such a class"],
)
def test_import_when_a_class_is_named_as_a_split_reads_all_classes(
    tmp_path: Path, paths: list[str], classes: tuple[str, ...]
) -> None:
    for row, path in enumerate(paths):
        originals.save(tmp_path / path, row)
    source = open_benchmark(tmp_path, None, ReaderOptions())
    found = (source.kind, source.class_names, {record.label for record in source.read(0, source.total)})
    assert found == ("image-folder", classes, {*range(len(classes))})


@pytest.mark.parametrize("build", CAPTIONED)
def test_import_when_images_have_captions_keeps_all_of_them(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    samples, marker = imported(tmp_path, build(tmp_path / "in"))
    rows = [drawn_row(sample) for sample in samples]
    assert sorted(rows) == [row for row in range(IMAGES) if build is not originals.karpathy or row % 4 != 3]
    assert [sample.members["txt"].decode().split("\n") for sample in samples] == [two_captions(row) for row in rows]
    assert (marker["type"], (tmp_path / "out/dataset_type.txt").read_text()) == ("Retrieval", "retrieval\n")


def test_import_when_the_set_is_winoground_keeps_pairs_together(tmp_path: Path) -> None:
    samples, marker = imported(tmp_path, originals.parquet_winoground(tmp_path / "in"), "--shard-size", "5")
    assert [drawn_row(sample) for sample in samples] == list(range(IMAGES))
    assert [sample.meta["group"] for sample in samples] == [row // 2 for row in range(IMAGES)]
    captions = [sample.members["txt"].decode() for sample in samples[:2]]
    assert captions == [f"{COLOURS[0]} 0 over 1", f"{COLOURS[0]} 1 over 0"]
    assert len({sample.uid for sample in samples}) == IMAGES
    assert marker["type"] == "PairMatching"


def test_import_when_the_set_is_winogavil_stores_each_image_once_with_all_its_cues(tmp_path: Path) -> None:
    samples, marker = imported(tmp_path, originals.parquet_winogavil(tmp_path / "in"), "--shard-size", "5")
    cues = {sample.uid: sample.meta["cues"] for sample in samples}
    assert {sample.uid: drawn_row(sample) for sample in samples} == {f"image{row}": row for row in range(IMAGES)}
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


@pytest.mark.parametrize(
    ("changed", "ignored", "bad"),
    [
        ({"candidates": None}, {"row_without_candidates": 1}, {}),
        ({"associations": []}, {"row_without_associations": 1}, {}),
        ({"cue": " "}, {"row_without_cue": 1}, {}),
        ({"associations": ["x"]}, {"association_without_candidate": 1}, {}),
        ({"candidate_images": 2}, {}, {"images_unlike_candidates": 3}),
    ],
)
def test_import_when_a_row_of_winogavil_gives_no_cue_counts_it(
    tmp_path: Path, changed: dict[str, Any], ignored: dict[str, int], bad: dict[str, int]
) -> None:
    rows: list[dict[str, Any]] = [
        {"candidates": [f"{row}{n}" for n in range(3)], "associations": [f"{row}0"], "cue": row} for row in "ab"
    ]
    rows[1] |= changed
    for row in rows:
        row["candidate_images"] = cells(range(row.get("candidate_images", 3)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    samples, marker = imported(tmp_path, tmp_path / "test.parquet")
    assert (counts(marker["seen"]["ignored"]), counts(marker["bad"])) == (ignored, bad)
    assert [sample.uid for sample in samples] == ["a0", "a1", "a2"]


@pytest.mark.parametrize(
    ("paths", "split", "taken"),
    [
        (["data/test-00000-of-00001", "data/test_mini-00000-of-00001"], "test", [0]),
        (["data/test_seen-00000-of-00002", "data/test_seen-00001-of-00002", "data/test_new-0"], "test_seen", [0, 1]),
        (["data/test_seen-00000-of-00001", "data/train-00000-of-00001"], "test", [0]),
        (["data/test-00000-of-00002-0a1b2c", "data/test-00001-of-00002-3d4e5f"], "test", [0, 1]),
        (["data/query-00000-of-00001", "data/gallery-00000-of-00001"], "query", [0]),
        (["test_mini/0", "test/0", "test/1"], "test", [1, 2]),
        (["test_000", "test_001", "train_000"], "test", [0, 1]),
        (["test-part1", "test-part2"], "test", [0, 1]),
        (["test_00000_of_00002.snappy", "test_00001_of_00002.snappy", "test_new.snappy"], "test", [0, 1]),
        (["0000", "0001"], "test", [0, 1]),
    ],
)
def test_import_when_names_of_splits_begin_alike_takes_the_files_of_one(
    tmp_path: Path, paths: list[str], split: str, taken: list[int]
) -> None:
    split_files(tmp_path / "in", {f"{path}.parquet": [number] for number, path in enumerate(paths)})
    samples, _ = imported(tmp_path, tmp_path / "in", "--split", split)
    assert [int(sample.members["cls"]) for sample in samples] == taken


MORE = "{} of the {} classes are in other splits alone, such as {}"
ALONE = "the 2 classes are those of split test alone: if other splits hold more, put them beside it and name the folder"


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
        ({"test": ["cat", "dog"]}, 2, [ALONE]),
        (
            {"test": ["cat", "dog"], "train": None},
            2,
            ["train.parquet cannot be read: classes that it alone holds are not known", ALONE],
        ),
    ],
    ids=["texts", "numbers", "another set beside", "hidden texts", "hidden numbers", "one split", "a pointer of LFS"],
)
def test_import_when_classes_have_no_names_takes_those_of_all_splits(
    tmp_path: Path, files: dict[str, list[Any] | None], classes: int, notes: list[str]
) -> None:
    split_files(tmp_path / "in", {f"{name}.parquet": labels for name, labels in files.items() if labels}, {})
    for name in (name for name, labels in files.items() if not labels):
        (tmp_path / f"in/{name}.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    samples, marker = imported(tmp_path, tmp_path / "in")
    assert marker["classes"] == classes
    assert [note for note in marker["notes"] if "numbers" not in note] == notes
    (labels,) = (labels for name, labels in files.items() if labels and "test" in name)
    assert [names_in(tmp_path)[int(sample.members["cls"])] for sample in samples] == list(map(str, labels))


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
    _, marker = imported(tmp_path, tmp_path / "test.parquet")
    assert names_in(tmp_path) == (
        [f"{taken.replace('_', ' ')} {n}" for n in range(3)] if taken in typed else ["0", "1", "2"]
    )
    assert [note for note in marker["notes"] if "column" in note] == (
        [f"classes are from the column {taken} (also there: {others})"] if others else []
    )


@pytest.mark.parametrize("space", ["\u2028", "\n", " \t "])
def test_class_names_when_one_holds_a_line_separator_keep_their_classes(tmp_path: Path, space: str) -> None:
    label = {"_type": "ClassLabel", "names": [f"red{space}wine", "cat", f"{space}dog"]}
    split_files(tmp_path / "in", {"test.parquet": [0, 1, 2]}, {"image": {"_type": "Image"}, "label": label})
    imported(tmp_path, tmp_path / "in")
    assert class_texts.read_lines(Storage(), f"{tmp_path}/out/classnames.txt") == ["red wine", "cat", "dog"]


@pytest.mark.parametrize(("answers", "kept"), [([0, 1], ["0", "1"]), (["dark\u2028red", "x"], ["dark red", "x"])])
def test_answers_of_any_kind_are_kept_for_the_evaluation(tmp_path: Path, answers: list[Any], kept: list[str]) -> None:
    columns = {"image": cells(range(2)), "question": ["what?"] * 2, "answer": answers}
    samples, marker = imported(tmp_path, parquet_of(tmp_path / "in", columns))
    asked = [question for sample in samples for question in questions_of(sample)]
    assert marker["type"] == "AnswerRanking"
    assert [answer_score(answer, question.answers) for answer, question in zip(kept, asked, strict=True)] == [1, 1]


def test_import_when_the_output_holds_another_import_needs_replace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, originals.image_folder(tmp_path / "one"), "--shard-size", "5")
    (tmp_path / "out/NOTES.md").write_text("mine")
    second = originals.coco(tmp_path / "two")
    assert main(["benchmarks", "import", str(second), f"{tmp_path}/out"]) == UserError.exit_code
    assert "holds another import (" in capsys.readouterr().err
    imported(tmp_path, second, "--replace")
    left = {"0.json", "0.tar", "COMMITTED.json", "NOTES.md", "STARTED.json", "dataset_type.txt", "nshards.txt"}
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == left


@pytest.mark.parametrize(
    "build",
    [
        *(originals.image_folder, originals.gtsrb, originals.cifar10),
        *(originals.coco, originals.karpathy, originals.flickr),
    ],
)
def test_import_when_a_file_changed_since_needs_replace(
    tmp_path: Path, build: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, options = build(tmp_path / "in"), options_of(build)
    imported(tmp_path, source, *options)
    imported(tmp_path, source, *options)
    suffixes = (".jpg", ".png", ".ppm", ".meta")
    images = sorted(path for path in (tmp_path / "in").rglob("*") if path.suffix in suffixes)
    image = images[len(images) // 2]  # the first and last ones may be of other splits
    image.write_bytes(image.read_bytes() + b"\0")
    assert main(["benchmarks", "import", str(source), f"{tmp_path}/out", *options]) == UserError.exit_code
    assert "(of another SOURCE, or its files have changed)" in capsys.readouterr().err
    imported(tmp_path, source, *options, "--replace")


def test_import_when_the_output_holds_foreign_shards_leaves_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = originals.image_folder(tmp_path / "in")
    write_samples(Storage(), f"{tmp_path}/out/test/0.tar", [("a", {"txt": b"mine"})])
    assert main(["benchmarks", "import", str(source), f"{tmp_path}/out", "--replace"]) == UserError.exit_code
    assert "were not imported by diht: choose another OUTPUT" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["0.tar"]


def latin_tokens(folder: Path) -> Path:
    source = originals.flickr_tokens(folder)
    source.write_bytes(source.read_bytes().replace(b"purple thing", b"caf\xe9"))
    return source


def without_a_caption(folder: Path) -> Path:
    table = pq.read_table(originals.parquet_winoground(folder) / "test.parquet").to_pydict()
    return parquet_of(folder, {**table, "caption_1": [None, *table["caption_1"][1:]]})


@pytest.mark.parametrize(
    ("make", "bad"), [(latin_tokens, {"caption_not_utf8": 4}), (without_a_caption, {"caption_no_text": 1})]
)
def test_import_when_no_text_can_hold_a_caption_counts_its_image(
    tmp_path: Path, make: Callable[[Path], Path], bad: dict[str, int]
) -> None:
    samples, marker = imported(tmp_path, make(tmp_path / "in"))
    assert counts(marker["bad"]) == bad
    assert len(samples) == marker["images"] == IMAGES - sum(bad.values())


def test_import_when_a_folder_holds_other_files_and_links_accounts_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = originals.image_folder(tmp_path / "in")
    root = source / "test"
    (root / "README.md").write_text("mine")
    (root / "cover.jpg").write_bytes(b"")
    first, outside = sorted(path for path in root.iterdir() if path.is_dir())[0], tmp_path / "elsewhere"
    outside.mkdir()
    first.rename(outside / "class")
    first.symlink_to(outside / "class")
    for options, stored in (((), 20), (("--allow-links", str(outside), "--replace"), 24)):
        _, marker = imported(tmp_path, source, *options)
        ignored = counts(marker["seen"]["ignored"])
        assert (marker["images"], marker["seen"]["count"]) == (stored, stored + sum(ignored.values()))
        assert ignored == {".md": 1, "image_in_no_class": 1, **({} if options else {"outside_of_source": 1})}
    assert "23 files seen: 20 images stored, 0 bad, 3 ignored" in capsys.readouterr().out


@pytest.mark.parametrize("links", [False, True])
def test_import_when_no_image_of_a_shard_can_be_used_is_an_error_of_the_data(
    tmp_path: Path, links: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source = originals.coco(tmp_path / "in")
    (tmp_path / "image").write_bytes(b"no image")
    for path in (tmp_path / "in/val2014").iterdir():
        path.unlink()
        path.symlink_to(tmp_path / "image") if links else path.write_bytes(b"no image")
    assert main(["benchmarks", "import", str(source), f"{tmp_path}/out"]) == 65
    said = capsys.readouterr().err
    assert f"images 0 to 23 can be used (picture_{'outside_of_source' if links else 'unreadable'}, for example" in said
    assert ("by --allow-links DIR" in said) == links
    assert not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_texts_when_files_are_given_are_those(tmp_path: Path, encoding: str) -> None:
    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("".join(f"word {n}\n" for n in range(6)), encoding)
    templates.write_text("a {c}\nthe {}\n", encoding)
    source = originals.image_folder(tmp_path / "in")
    _, marker = imported(tmp_path, source, "--class-names", str(names), "--templates", str(templates))
    assert names_in(tmp_path) == [f"word {n}" for n in range(6)]
    assert (tmp_path / "out/zeroshot_classification_templates.txt").read_text() == "a {c}\nthe {c}\n"
    assert (marker["class_names_from"], marker["templates_from"]) == (str(names), str(templates))


def numbered_folders(root: Path) -> Path:
    for row in range(11):
        originals.save(root / "test" / str(row + 1) / "a.png", row)
    return root


def numbered_texts(root: Path) -> Path:
    return parquet_of(root, {"image": cells(range(11)), "label": [str(row + 1) for row in range(11)]})


def numbered_labels(root: Path) -> Path:
    """As `datasets` makes them of folders: in the order of the texts."""
    names = sorted(str(row + 1) for row in range(11))
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return split_files(root, {"test.parquet": [names.index(str(row + 1)) for row in range(11)]}, features)


@pytest.mark.parametrize("build", [numbered_folders, numbered_texts, numbered_labels])
def test_class_names_when_classes_are_numbered_are_taken_in_the_order_of_the_numbers(
    tmp_path: Path, build: Callable[[Path], Path]
) -> None:
    (tmp_path / "names.txt").write_text("".join(f"flower {row}\n" for row in range(11)))
    samples, _ = imported(tmp_path, build(tmp_path / "in"), "--class-names", f"{tmp_path}/names.txt")
    by_row = {drawn_row(sample): int(sample.members["cls"]) for sample in samples}
    assert [by_row[row] for row in range(11)] == [0, *range(3, 11), 1, 2]
    assert [names_in(tmp_path)[by_row[row]] for row in range(11)] == [f"flower {row}" for row in range(11)]
