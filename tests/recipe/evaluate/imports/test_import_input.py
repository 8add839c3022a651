"""Bad input of `diht benchmarks import`: one line that names the file and the cure, and nothing written."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diht_k8s.cli.main import main
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate import class_texts
from diht_k8s.stages.evaluate.benchmark_images import captions_of
from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.imports.originals import IMAGES, few_rows, split_files, two_captions
from tests.recipe.evaluate.small_run import evaluate_alone

Make = Callable[[Path], Path]


def images_in(*paths: str) -> Make:
    def make(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        for row, path in enumerate(paths):
            originals.save(folder / path, row)
        return folder

    return make


def without(build: Make, name: str) -> Make:
    """An original of which a file or folder is gone."""

    def make(folder: Path) -> Path:
        source = build(folder)
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return source

    return make


def cut(build: Make, name: str, size: int) -> Make:
    """An original of which a file ends early."""

    def make(folder: Path) -> Path:
        source = build(folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:size])
        return source

    return make


def voc_with(kind: str) -> Make:
    def make(folder: Path) -> Path:
        source = originals.voc2007(folder)
        path = folder / "VOCdevkit/VOC2007/Annotations/000007.xml"
        path.write_text(path.read_text().replace("diningtable", kind))
        return source

    return make


def several_configs(other: dict[str, Any]) -> Make:
    """A Hugging Face repository: animals beside what has other columns or classes."""

    def make(folder: Path) -> Path:
        animals = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
        for name, features in (("animals", animals), ("vehicles", other)):
            (folder / name).mkdir(parents=True)
            pq.write_table(few_rows(features), folder / name / "test-0.parquet")
        return folder

    return make


def several_labels(folder: Path) -> Path:
    folder.mkdir()
    animals = {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}
    pq.write_table(few_rows({"image": {"_type": "Image"}, "animal": animals, "pet": animals}), folder / "test.parquet")
    return folder / "test.parquet"


def without_cues(folder: Path) -> Path:
    path = originals.parquet_winogavil(folder) / "test.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("cue"), "cue", [[""] * len(table)]), path)
    return path


def unnamed_class(folder: Path) -> Path:
    label = {"_type": "ClassLabel", "names": ["cat", " "]}
    return split_files(folder, {"test.parquet": [0, 1]}, {"image": {"_type": "Image"}, "label": label})


def splits(*paths: str) -> Make:
    return lambda folder: split_files(folder, {path: [0, 1] for path in paths})


def text_file(name: str, text: str) -> Make:
    def make(folder: Path) -> Path:
        folder.mkdir()
        (folder / name).write_text(text)
        return folder / name

    return make


def parent_of(build: Make) -> Make:
    return lambda folder: build(folder).parent


def photos_and_lists(folder: Path) -> Path:
    """An archive with a folder of images and one of annotations."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations/list.txt").write_text("1 2")
    return images_in("images/a/1.jpg", "more/2.jpg")(folder)


LONG = "A man in a blue shirt stands on a ladder, cleaning a window.jpg," * 6


def flickr_table(folder: Path) -> Path:
    """As Hugging Face has it: longer lines than a file's name may be."""
    lines = ["raw,sentids,split,filename,img_id"]
    for row, split in enumerate(("train", "test", "test")):
        originals.save(folder / f"images/{row}.jpg", row)
        quoted = json.dumps([f"{LONG} {row}", 'He says "hello".']).replace('"', '""')
        lines.append(f'"{quoted}","[{2 * row}, {2 * row + 1}]",{split},{row}.jpg,{row}')
    (folder / "flickr_annotations_30k.csv").write_text("\n".join(lines) + "\n")
    return folder / "flickr_annotations_30k.csv"


def no_h5py(folder: Path) -> Path:
    """PCAM where the package that reads it is not installed."""
    sys.modules["h5py"] = None  # type: ignore[assignment] # taken back by the fixture of `trust_files`
    return originals.pcam(folder)


BUSES: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["bus", "car"]}}
FOLDER = originals.image_folder
WRONG: dict[str, tuple[Make, tuple[str, ...], int, str]] = {
    "nothing": (lambda folder: folder, (), 64, "in does not exist: name the folder"),
    "empty": (images_in(), (), 64, "in is empty: name the folder into which"),
    "only train": (
        images_in("train/a/0.jpg", "train/b/1.jpg", "more/2.jpg"),
        (),
        64,
        "has no split test: choose one by --split (train)",
    ),
    "no classes in train": (images_in("train/0.jpg"), (), 64, "has no split test: choose one by --split (train)"),
    "no classes in test": (
        images_in("train/a/0.jpg", "train/b/1.jpg", "test/2.jpg"),
        (),
        64,
        "in/test has no folders: an ImageFolder has one",
    ),
    "loose splits": (
        images_in("train/0.jpg", "val/1.jpg", "more/2.jpg"),
        (),
        64,
        "has no split test: choose one by --split (train, val)",
    ),
    "flat": (images_in("a.jpg"), (), 64, "in has no folders: an ImageFolder has one for each class"),
    "photos and lists": (photos_and_lists, (), 64, "is no folder of classes: annotations holds files and no image"),
    "one folder": (images_in("photos/1.jpg"), (), 64, "has one folder alone, photos, which is no choice"),
    "no images of COCO": (without(originals.coco, "val2014"), (), 64, "name the folder of the images by --images"),
    "folder of COCO": (
        parent_of(originals.coco),
        (),
        64,
        "holds annotations (coco_test_karpathy.json): name one of these files",
    ),
    "folder of Kaggle's": (parent_of(originals.kaggle), (), 64, "holds annotations (results.csv): name one of these"),
    "damaged JSON": (cut(originals.coco, "coco_test_karpathy.json", 50), (), 65, "is not JSON ("),
    "other JSON": (text_file("a.json", '{"a": 1}'), (), 64, "is not a file of coco-captions, karpathy: check the file"),
    "other file": (text_file("a.zip", ""), (), 64, "a.zip is no annotation file that can be read: expected .json"),
    "other table": (text_file("prices.csv", "name,price\n"), (), 64, "prices.csv is no caption file of Flickr30k"),
    "other split of a table": (
        flickr_table,
        ("--split", "dev"),
        64,
        "has no split dev: choose one by --split (test, train)",
    ),
    "cut table": (
        cut(flickr_table, "flickr_annotations_30k.csv", 900),
        (),
        65,
        "flickr_annotations_30k.csv is no whole table (unexpected end of data)",
    ),
    "damaged Parquet": (
        cut(originals.parquet, "data/test-00000-of-00002.parquet", 300),
        (),
        65,
        "test-00000-of-00002.parquet cannot be read (",
    ),
    "other classes": (
        several_configs(BUSES),
        (),
        64,
        "in/vehicles are several data sets (they differ in the features of label): name one of them",
    ),
    "other columns": (
        several_configs({"image": {}, "plate": {}}),
        (),
        64,
        "in/vehicles are several data sets (they differ in the columns label, plate): name one of them",
    ),
    "alike splits": (
        splits("test_seen.parquet", "test_new_0.parquet", "test_new_1.parquet"),
        (),
        64,
        "has several splits that begin with test: choose one by --split (test_new, test_seen)",
    ),
    "no such split": (
        splits("data/test_seen-00000-of-00001.parquet"),
        ("--split", "test_new"),
        64,
        "has no split test_new: choose one by --split (test_seen)",
    ),
    "several labels": (
        several_labels,
        (),
        64,
        "test.parquet has several columns of classes (animal, pet): rename the one to evaluate to label",
    ),
    "no cues": (without_cues, (), 65, "test.parquet has no usable row (left out: 10 row_without_cue, for example"),
    "unknown layout": (FOLDER, ("--format", "imagefolder"), 64, "imagefolder is no layout: did you mean image-folder"),
    "not of a folder": (FOLDER, ("--format", "karpathy"), 64, "karpathy is read from its annotation file"),
    "no size": (FOLDER, ("--shard-size", "0"), 64, "--shard-size must be 1 or more"),
    "not there": (FOLDER, ("--format", "dtd"), 65, "cannot be read as dtd, split test (Dataset not found): fetch"),
    "a file is missing": (
        without(originals.cifar10, "cifar-10-batches-py/test_batch"),
        ("--format", "cifar10"),
        65,
        "cannot be read as cifar10, split test (",
    ),
    "cut pixels": (
        cut(originals.mnist, "MNIST/raw/t10k-images-idx3-ubyte", 5000),
        ("--format", "mnist"),
        65,
        "cannot be read as mnist",
    ),
    "train or test": (
        originals.cifar10,
        ("--format", "cifar10", "--split", "val"),
        64,
        "cifar10 has no split val: choose one by --split (train, test)",
    ),
    "no splits": (originals.eurosat, ("--format", "eurosat", "--split", "train"), 64, "one by --split (test)"),
    "torchvision's splits": (
        originals.pets,
        ("--format", "pets", "--split", "val"),
        64,
        "Valid values are {'trainval', 'test'}",
    ),
    "a package is missing": (no_h5py, ("--format", "pcam"), 64, "pcam needs the package h5py: pip install h5py"),
    "another object": (
        voc_with("unicorn"),
        ("--format", "voc2007_multilabel"),
        65,
        "cannot be read as voc2007_multilabel, split test ('unicorn')",
    ),
    "broken XML": (voc_with("<"), ("--format", "voc2007_multilabel"), 65, "split test (not well-formed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_import_when_the_input_is_wrong_names_it_and_the_cure(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    originals.trust_files(monkeypatch)
    make, options, code, message = WRONG[case]
    assert main(["benchmarks", "import", str(make(tmp_path / "in")), f"{tmp_path}/out", *options]) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def captions_in(output: Path) -> list[str]:
    shards = sorted(output.rglob("*.tar"))
    return [said for path in shards for sample in read_samples(Storage(), str(path)) for said in captions_of(sample)]


@pytest.mark.parametrize(("command", "rows"), [(["benchmarks", "import"], [1, 2]), (["import"], [0])])
def test_flickrs_table_of_hugging_face_is_read_by_its_own_splits(
    tmp_path: Path, command: list[str], rows: list[int]
) -> None:
    assert main([*command, str(flickr_table(tmp_path)), f"{tmp_path}/out"]) == 0
    expected = [caption for row in rows for caption in (f"{LONG} {row}", 'He says "hello".')]
    assert captions_in(tmp_path / "out") == expected


def test_captions_without_a_header_keep_the_first(tmp_path: Path) -> None:
    originals.save(tmp_path / "images/0.jpg", 0)
    (tmp_path / "captions.csv").write_text("0.jpg,a first caption\n0.jpg,a second one\n")
    assert main(["benchmarks", "import", f"{tmp_path}/captions.csv", f"{tmp_path}/out"]) == 0
    assert captions_in(tmp_path / "out") == ["a first caption", "a second one"]


def test_kaggles_captions_are_read_as_pairs_too(tmp_path: Path) -> None:
    assert main(["import", str(originals.kaggle(tmp_path / "in")), f"{tmp_path}/out"]) == 0
    assert captions_in(tmp_path / "out") == [caption for row in range(IMAGES) for caption in two_captions(row)]


@pytest.mark.parametrize("make", [photos_and_lists, images_in("photos/1.jpg")])
def test_folders_that_are_named_as_classes_are_read_as_classes(tmp_path: Path, make: Make) -> None:
    source = str(make(tmp_path / "in"))
    assert main(["benchmarks", "import", source, f"{tmp_path}/out", "--format", "image-folder"]) == 0


def test_class_names_that_are_numbers_are_warned_of_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names.txt").write_text("none\nseventeen\ncat\n")
    source = images_in("0/a.png", "17/a.png", "cat/a.png")(tmp_path / "in")
    command = ["benchmarks", "import", str(source), str(tmp_path / "out")]
    assert main(command) == 0
    assert "diht: warning: 2 of 3 class names are numbers, for example '0'" in capsys.readouterr().err
    assert main([*command, "--replace", "--class-names", str(tmp_path / "names.txt")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_set_without_class_names_is_warned_of_on_the_page_and_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals.trust_files(monkeypatch)
    monkeypatch.setattr(class_texts, "_read", lambda file: {})  # as where clip-benchmark is not installed
    source = originals.gtsrb(tmp_path / "in")
    assert main(["benchmarks", "import", str(source), f"{tmp_path}/sets/gtsrb", "--format", "gtsrb"]) == 0
    benchmark = {"name": "gtsrb", "type": "Classification", "shards": [f"{tmp_path}/sets/gtsrb/test/0.tar"]}
    stage = evaluate_alone(tmp_path, [benchmark])
    for name in ("report.html", "README.md"):
        assert "gtsrb: 43 of 43 class names are numbers" in (stage / name).read_text()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (images_in("caf\udce9/0.jpg", "pub/1.jpg"), {}, "class 0 of the data set has a name that is no UTF-8"),
        (unnamed_class, {}, "class 1 of the data set has an empty name: give names by --class-names"),
        (FOLDER, {"--class-names": "one\ntwo\n"}, "has 2 names, but the data set has 6 classes"),
        (FOLDER, {"--templates": ""}, "needs one template a line, each with {c} for the class name"),
        (FOLDER, {"--templates": "a {c}\na photo\n"}, "needs one template a line, each with {c} for the class name"),
    ],
)
def test_texts_that_fit_no_class_are_refused(
    tmp_path: Path, make: Make, options: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in options.items():
        (tmp_path / name).write_text(text)
    given = [part for name in options for part in (name, str(tmp_path / name))]
    assert main(["benchmarks", "import", str(make(tmp_path / "in")), f"{tmp_path}/out", *given]) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
