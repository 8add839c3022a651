"""Bad input of `diht benchmarks import`: one line that names the file and the cure, and nothing written."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from diht_k8s.api.documents import load
from diht_k8s.api.run import Stage
from diht_k8s.cli.main import main
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.stage import run_stage
from diht_k8s.stages.evaluate import class_texts
from diht_k8s.stages.evaluate import stage as program
from diht_k8s.stages.evaluate.benchmark_images import captions_of
from tests.recipe.evaluate.imports import originals
from tests.recipe.evaluate.imports.downloads import DOWNLOADS
from tests.recipe.evaluate.imports.drawings import IMAGES, two_captions
from tests.recipe.evaluate.imports.original_tables import few_rows, split_files
from tests.recipe.evaluate.imports.originals import ORIGINALS
from tests.recipe.evaluate.small_run import export_model


def empty(folder: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")


def only_train(folder: Path) -> str:
    originals.image_folder(folder / "in")
    (folder / "in/test").rename(folder / "in/train")
    return str(folder / "in")


def images_in(*paths: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        for row, path in enumerate(paths):
            originals.save(folder / "in" / path, row)
        return str(folder / "in")

    return make


def flat(folder: Path) -> str:
    originals.save(folder / "flat/a.jpg", 0)
    return str(folder / "flat")


def without_images(folder: Path) -> str:
    source = originals.coco(folder / "in")
    shutil.rmtree(folder / "in/val2014")
    return str(source)


def without_answers(folder: Path) -> str:
    source = originals.vqav2(folder / "in")
    (folder / "in/v2_mscoco_val2014_annotations.json").unlink()
    return str(source)


def damaged_parquet(folder: Path) -> str:
    originals.parquet(folder / "in")
    path = folder / "in/data/test-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:300])
    return str(folder / "in")


BUSES: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["bus", "car"]}}


def several_configs(other: dict[str, Any]) -> Callable[[Path], str]:
    """A Hugging Face repository: animals beside what has other columns or classes."""

    def make(folder: Path) -> str:
        animals = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
        for name, features in (("animals", animals), ("vehicles", other)):
            (folder / "in" / name).mkdir(parents=True)
            pq.write_table(few_rows(features), folder / "in" / name / "test-0.parquet")
        return str(folder / "in")

    return make


def several_labels(folder: Path) -> str:
    source = folder / "in/test.parquet"
    source.parent.mkdir()
    animals = {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}
    pq.write_table(few_rows({"image": {"_type": "Image"}, "animal": animals, "pet": animals}), source)
    return str(source)


def without_cues(folder: Path) -> str:
    path = originals.ORIGINALS["parquet_winogavil"](folder / "in") / "test.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index("cue"), "cue", [[""] * len(table)]), path)
    return str(path)


def unnamed_class(folder: Path) -> str:
    label = {"_type": "ClassLabel", "names": ["cat", " "]}
    return str(split_files(folder / "in", {"test.parquet": [0, 1]}, {"image": {"_type": "Image"}, "label": label}))


def splits(*paths: str) -> Callable[[Path], str]:
    return lambda folder: str(split_files(folder / "in", {path: [0, 1] for path in paths}))


def damaged_json(folder: Path) -> str:
    source = originals.coco(folder / "in")
    source.write_text(source.read_text()[:50])
    return str(source)


def missing_batch(folder: Path) -> str:
    originals.cifar10(folder / "in")
    (folder / "in/cifar-10-batches-py/test_batch").unlink()
    return str(folder / "in")


def without_labels(folder: Path) -> str:
    source = originals.fer2013(folder / "in") / "fer2013"
    lines = (source / "fer2013.csv").read_text().splitlines()
    (source / "test.csv").write_text("\n".join(["pixels", *(line.split(",")[1] for line in lines[1:])]))
    (source / "fer2013.csv").unlink()
    return str(folder / "in")


def without_h5py(folder: Path) -> str:
    (folder / "in/pcam").mkdir(parents=True)
    return str(folder / "in")


def folder_of(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        source = ORIGINALS[name](folder / "in")
        return str(source.parent if source.is_file() else source)

    return make


def vqa_changed(file: str, change: Callable[[Any], Any]) -> Callable[[Path], str]:
    """VQAv2 with another content of one of its files."""

    def make(folder: Path) -> str:
        source = originals.vqav2(folder / "in")
        path = next((folder / "in").glob(f"*{file}.json"))
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        return str(source)

    return make


def entry_changed(listed: str, **fields: Any) -> Callable[[Any], Any]:
    """Another last entry of a list; a field that is None is gone."""

    def change(document: Any) -> Any:
        entry = {**document[listed][-1], **fields}
        document[listed][-1] = {name: value for name, value in entry.items() if value is not None}
        return document

    return change


def other_file(folder: Path) -> str:
    (folder / "a.json").write_text('{"a": 1}')
    return str(folder / "a.json")


LONG = "A man in a blue shirt stands on a ladder, cleaning a window.jpg," * 6


def flickr_table(folder: Path) -> str:
    """As Hugging Face has it: longer lines than a file's name may be."""
    lines = ["raw,sentids,split,filename,img_id"]
    for row, split in enumerate(("train", "test", "test")):
        originals.save(folder / f"images/{row}.jpg", row)
        raw = json.dumps([f"{LONG} {row}", 'He says "hello".'])
        quoted = raw.replace('"', '""')
        lines.append(f'"{quoted}","[{2 * row}, {2 * row + 1}]",{split},{row}.jpg,{row}')
    (folder / "flickr_annotations_30k.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "flickr_annotations_30k.csv")


def kaggle_folder(folder: Path) -> str:
    """As its archive unpacks: the captions beside the folder of the images."""
    return str(DOWNLOADS["Flickr30k, Kaggle"].build(folder).parent)


def other_table(folder: Path) -> str:
    (folder / "prices.csv").write_text("name,price\nball,3\n")
    return str(folder / "prices.csv")


def photos_and_lists(folder: Path) -> str:
    """An archive with a folder of images and one of annotations."""
    originals.save(folder / "set/images/a/1.jpg", 1)
    originals.save(folder / "set/more/2.jpg", 2)
    (folder / "set/annotations").mkdir()
    (folder / "set/annotations/list.txt").write_text("1 2")
    return str(folder / "set")


def one_folder(folder: Path) -> str:
    originals.save(folder / "set/photos/1.jpg", 1)
    return str(folder / "set")


def several(*names: str) -> Callable[[Path], str]:
    """A root into which torchvision has put several sets."""

    def make(folder: Path) -> str:
        for name in names:
            source = ORIGINALS[name](folder / name)
            for path in source.iterdir():
                (folder / "root").mkdir(exist_ok=True)
                path.rename(folder / "root" / path.name)
        return str(folder / "root")

    return make


def fashion(folder: Path) -> str:
    return str(DOWNLOADS["fashion-mnist"].build(folder))


def cut_idx(folder: Path) -> str:
    source = DOWNLOADS["mnist"].build(folder)
    path = source / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-200])
    return str(source)


def cut_unpacked_idx(folder: Path) -> str:
    source = DOWNLOADS["mnist, unpacked"].build(folder)
    path = source / "MNIST/raw/t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-784])
    return str(source)


def short_idx(folder: Path) -> str:
    """Images of another set than the labels."""
    source = DOWNLOADS["mnist"].build(folder)
    pixels = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 7])
    (source / "t10k-images-idx3-ubyte.gz").unlink()
    (source / "t10k-images-idx3-ubyte").write_bytes(pixels)
    return str(source)


def overflowing_idx(folder: Path) -> str:
    """Sizes whose product is 0 in 64 bits, as the file's length says."""
    source = DOWNLOADS["mnist"].build(folder)
    (source / "t10k-images-idx3-ubyte.gz").unlink()
    sizes = b"".join(size.to_bytes(4, "big") for size in (1 << 31, 1 << 31, 4))
    (source / "t10k-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + sizes)
    return str(source)


def flat_idx(folder: Path) -> str:
    """As many images as labels, without a line of pixels."""
    source = DOWNLOADS["mnist"].build(folder)
    (source / "t10k-images-idx3-ubyte.gz").unlink()
    sizes = b"".join(size.to_bytes(4, "big") for size in (IMAGES, 0, 28))
    (source / "t10k-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + sizes)
    return str(source)


def cut_flickr_table(folder: Path) -> str:
    source = Path(flickr_table(folder))
    source.write_text(source.read_text()[:-80])
    return str(source)


def cut_meta(folder: Path) -> str:
    source = DOWNLOADS["ImageNet, devkit and flat val"].build(folder)
    path = source / "ILSVRC2012_devkit_t12/data/meta.mat"
    path.write_bytes(path.read_bytes()[:100])
    return str(source)


def without_devkit(folder: Path) -> str:
    source = DOWNLOADS["ImageNet, devkit and flat val"].build(folder)
    shutil.rmtree(source / "ILSVRC2012_devkit_t12")
    return str(source)


def damaged_devkit(folder: Path) -> str:
    source = DOWNLOADS["ImageNet, devkit and flat val"].build(folder)
    (source / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt").write_text("7\n")
    return str(source)


def cut_archive(name: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        source = DOWNLOADS[name].build(folder)
        (path,) = source.glob("*_img_*.tar")
        path.write_bytes(path.read_bytes()[:-20_000])
        return str(source)

    return make


def two_years(folder: Path) -> str:
    source = DOWNLOADS["VOC2007"].build(folder)
    shutil.copytree(source / "VOC2007", source / "VOC2012")
    return str(source)


def voc(folder: Path) -> str:
    return str(DOWNLOADS["VOC2007"].build(folder))


def damaged_voc(folder: Path) -> str:
    source = DOWNLOADS["VOC2007"].build(folder)
    (source / "VOC2007/Annotations/000007.xml").write_text("<annotation><object><name>cow</name></object></annotation>")
    return str(source)


def infinite_voc(folder: Path) -> str:
    source = DOWNLOADS["VOC2007"].build(folder)
    path = source / "VOC2007/Annotations/000007.xml"
    path.write_text(path.read_text().replace("<xmax>30<", "<xmax>inf<"))
    return str(source)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ("<xmax>1000000000<", "box_outside_of_picture"),
        ("<xmax>49<", "box_outside_of_picture"),
        ("<xmax>0<", "box_outside_of_picture"),
        ("<xmax>1<", "box_outside_of_picture"),
    ],
    ids=["far outside", "one pixel outside", "backwards", "without width"],
)
def test_a_box_that_leaves_its_image_is_counted_and_cuts_nothing(tmp_path: Path, box: str, reason: str) -> None:
    source = DOWNLOADS["VOC2007"].build(tmp_path / "in")
    path = source / "VOC2007/Annotations/000006.xml"
    path.write_text(path.read_text().replace("<xmax>30<", box))
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out")]) == 0
    marker = json.loads((tmp_path / "out/COMMITTED.json").read_text())
    assert {why: found["count"] for why, found in marker["bad"].items()} == {reason: 1}


def test_validation_images_that_are_missing_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = DOWNLOADS["ImageNet, devkit and flat val"].build(tmp_path / "in")
    (source / "val/ILSVRC2012_val_00000003.JPEG").unlink()
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert f"{IMAGES - 1} of the {IMAGES} validation images are here" in said.out + said.err


def test_captions_without_a_header_keep_the_first(tmp_path: Path) -> None:
    originals.save(tmp_path / "images/0.jpg", 0)
    (tmp_path / "captions.csv").write_text("0.jpg,a first caption\n0.jpg,a second one\n")
    assert main(["benchmarks", "import", str(tmp_path / "captions.csv"), str(tmp_path / "out")]) == 0
    (shard,) = tmp_path.glob("out/**/*.tar")
    assert [captions_of(each) for each in read_samples(Storage(), str(shard))] == [("a first caption", "a second one")]


def test_a_class_whose_archive_stands_twice_keeps_the_account(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = DOWNLOADS["ImageNet, archive of archives"].build(tmp_path / "in")
    path = source / "ILSVRC2012_img_train.tar"
    with tarfile.open(path) as tar:
        twice = tar.getmembers()[0]
        content = tar.extractfile(twice).read()  # type: ignore[union-attr]
    with tarfile.open(path, "a") as tar:
        tar.addfile(twice, io.BytesIO(content))
    command = ["benchmarks", "import", str(source), str(tmp_path / "out"), "--split", "train"]
    assert main(command) == 0
    assert json.loads((tmp_path / "out/COMMITTED.json").read_text())["images"] == IMAGES + IMAGES // 4


@pytest.mark.parametrize(("command", "rows"), [(["benchmarks", "import"], [1, 2]), (["import"], [0])])
def test_flickrs_table_of_hugging_face_is_read_by_its_own_splits(
    tmp_path: Path, command: list[str], rows: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, flickr_table(tmp_path), str(tmp_path / "out")]) == 0, capsys.readouterr().err
    (shard,) = tmp_path.glob("out/**/*.tar")
    said = [caption for sample in read_samples(Storage(), str(shard)) for caption in captions_of(sample)]
    assert said == [caption for row in rows for caption in (f"{LONG} {row}", 'He says "hello".')]


@pytest.mark.parametrize("name", ["Flickr30k, Kaggle", "Flickr30k, original"])
def test_flickrs_captions_are_read_as_pairs_too(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = DOWNLOADS[name].build(tmp_path)
    assert main(["import", str(source), str(tmp_path / "out")]) == 0, capsys.readouterr().err
    said = [sample.caption for path in tmp_path.glob("out/**/*.tar") for sample in read_samples(Storage(), str(path))]
    assert sorted(said) == sorted(caption for row in range(IMAGES) for caption in two_captions(row))


@pytest.mark.parametrize("make", [photos_and_lists, one_folder])
def test_folders_that_are_named_as_classes_are_read_as_classes(tmp_path: Path, make: Callable[[Path], str]) -> None:
    assert main(["benchmarks", "import", make(tmp_path), str(tmp_path / "out"), "--format", "image-folder"]) == 0


@pytest.mark.parametrize(("kind", "classes"), [("cifar100", 100), ("mnist", 10), ("fashion-mnist", 10)])
def test_one_of_several_sets_is_read_by_its_name(
    tmp_path: Path, kind: str, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals.trust_files(monkeypatch)
    source = several("mnist", "cifar10", "cifar100", "fashion_mnist")(tmp_path)
    if kind != "mnist":
        (Path(source) / "MNIST/raw/t10k-images-idx3-ubyte").unlink()  # nobody looks there
    assert main(["benchmarks", "import", source, str(tmp_path / "out"), "--format", kind]) == 0
    marker = json.loads((tmp_path / "out/COMMITTED.json").read_text())
    assert (marker["kind"], marker["classes"]) == (kind, classes)


def test_class_names_that_are_numbers_are_warned_of_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("0", "17", "cat"):
        originals.save(tmp_path / "in" / name / "a.png", 1)
    (tmp_path / "names.txt").write_text("none\nseventeen\ncat\n")
    command = ["benchmarks", "import", str(tmp_path / "in"), str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "diht: warning: 2 of 3 class names are numbers, for example '0'" in said
    assert main([*command, "--replace", "--class-names", str(tmp_path / "names.txt")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_sets_without_class_names_are_warned_of_on_stderr_and_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    originals.trust_files(monkeypatch)
    monkeypatch.setattr(class_texts, "_read", lambda file: {})  # as where clip-benchmark is not installed
    benchmarks, said = list[dict[str, Any]](), dict[str, str]()
    for name, classes in (("flowers", 102), ("gtsrb", 43), ("pcam", 2)):
        source = originals.ORIGINALS[name](tmp_path / name)
        assert main(["benchmarks", "import", str(source), f"{tmp_path}/sets/{name}"]) == 0
        said[name] = f"{classes} of {classes} class names are numbers"
        assert f"diht: warning: {said[name]}" in capsys.readouterr().err
        benchmarks.append({"name": name, "type": "Classification", "shards": [f"{tmp_path}/sets/{name}/test/0.tar"]})
    export_model(tmp_path / "model")
    spec = {"data": {"output": f"{tmp_path}/out"}, "evaluate": {"model": f"{tmp_path}/model", "benchmarks": benchmarks}}
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "numbers"}, "spec": spec}
    run_stage(program, load(json.dumps(document), name="run.yaml"), Stage.EVALUATE)
    page = (tmp_path / "out/runs/latest/evaluate/report.html").read_text()
    card = (tmp_path / "out/runs/latest/evaluate/README.md").read_text()
    for name, note in said.items():
        assert f"{name}: {note}" in page
        assert f"{name}: {note}" in card


@pytest.mark.parametrize(
    ("make", "options", "code", "message"),
    [
        (lambda folder: str(folder / "nothing"), [], 64, "nothing does not exist: name the folder"),
        (empty, [], 64, "empty is empty: name the folder into which"),
        (only_train, [], 64, "has no split test: choose one by --split (train)"),
        (
            images_in("train/a/0.jpg", "train/b/1.jpg", "more/2.jpg"),
            [],
            64,
            "has no split test: choose one by --split (train)",
        ),
        (images_in("train/0.jpg"), [], 64, "has no split test: choose one by --split (train)"),
        (
            images_in("train/a/0.jpg", "train/b/1.jpg", "test/2.jpg"),
            [],
            64,
            "in/test has no folders: an ImageFolder has one",
        ),
        (images_in("bus/0.jpg", "car/1.jpg", "test/2.jpg"), [], 64, "in/test has no folders: an ImageFolder has one"),
        (
            images_in("train/0.jpg", "val/1.jpg", "more/2.jpg"),
            [],
            64,
            "has no split test: choose one by --split (train, val)",
        ),
        (flat, [], 64, "flat has no folders: an ImageFolder has one for each class"),
        (without_images, [], 64, "name the folder of the images by --images"),
        (without_answers, [], 64, "name their file by --annotations"),
        (
            vqa_changed("annotations", lambda document: document["annotations"]),
            [],
            64,
            "annotations.json has no list annotations",
        ),
        (
            vqa_changed("annotations", lambda document: {"annotations": {}}),
            [],
            64,
            "annotations.json has no list annotations",
        ),
        (
            vqa_changed("annotations", lambda document: {"annotations": ["red"]}),
            [],
            64,
            "annotations.json: an entry of annotations is no object",
        ),
        (
            vqa_changed("annotations", entry_changed("annotations", question_id=None)),
            [],
            64,
            "annotations.json: an entry of annotations has no question_id",
        ),
        (
            vqa_changed("annotations", entry_changed("annotations", question_id=[1])),
            [],
            64,
            "annotations.json: an entry of annotations has no question_id",
        ),
        (
            vqa_changed("annotations", entry_changed("annotations", answers="red")),
            [],
            64,
            "annotations.json: an entry of annotations has no list answers",
        ),
        (
            vqa_changed("questions", entry_changed("questions", question_id=None)),
            [],
            64,
            "questions.json: an entry of questions has no question_id",
        ),
        (
            vqa_changed("questions", entry_changed("questions", image_id="abc")),
            [],
            64,
            "questions.json: an entry of questions has no whole number image_id",
        ),
        (
            vqa_changed("annotations", entry_changed("annotations", answers=["red"])),
            [],
            65,
            "an entry has no text answer ('red')",
        ),
        (
            vqa_changed("questions", lambda document: {"questions": [5]}),
            [],
            64,
            "is not a file of coco-captions, karpathy, vqav2",
        ),
        (damaged_parquet, [], 65, "test-00000-of-00002.parquet cannot be read ("),
        (
            several_configs(BUSES),
            [],
            64,
            "in/vehicles are several data sets (they differ in the features of label): name one of them",
        ),
        (
            several_configs({"image": {}, "plate": {}}),
            [],
            64,
            "in/vehicles are several data sets (they differ in the columns label, plate): name one of them",
        ),
        (
            splits("data/test_seen-00000-of-00001.parquet", "data/test_new-00000-of-00001.parquet"),
            [],
            64,
            "has several splits that begin with test: choose one by --split (test_new, test_seen)",
        ),
        (
            splits("test_seen.parquet", "test_new_0.parquet", "test_new_1.parquet"),
            [],
            64,
            "begin with test: choose one by --split (test_new, test_seen)",
        ),
        (
            splits("data/test_seen-00000-of-00001.parquet"),
            ["--split", "test_new"],
            64,
            "has no split test_new: choose one by --split (test_seen)",
        ),
        (
            several_labels,
            [],
            64,
            "test.parquet has several columns of classes (animal, pet): rename the one to evaluate to label",
        ),
        (without_cues, [], 65, "test.parquet has no usable row (left out: 10 row_without_cue, for example"),
        (damaged_json, [], 65, "is not JSON ("),
        (missing_batch, [], 65, "cannot be read as cifar10, split test"),
        (without_labels, ["--format", "fer2013"], 64, "this split of the original has no labels: fetch its file"),
        (without_h5py, [], 64, "pcam needs the package h5py: pip install h5py"),
        (folder_of("coco"), [], 64, "holds annotations (coco_test_karpathy.json): name one of these files"),
        (folder_of("cifar10"), ["--split", "val"], 64, "cifar10 has no split val: choose one by --split (train, test)"),
        (folder_of("parquet"), ["--split", "val"], 64, "has no split val: choose one by --split (test, train)"),
        (folder_of("iwildcam"), ["--split", "val"], 64, "choose one by --split (id_test, test)"),
        (
            folder_of("image_folder"),
            ["--format", "imagefolder"],
            64,
            "imagefolder is no layout: did you mean image-folder",
        ),
        (folder_of("image_folder"), ["--format", "karpathy"], 64, "karpathy is read from its annotation file"),
        (folder_of("image_folder"), ["--format", "mnist"], 64, "holds no IDX files, as mnist has"),
        (folder_of("image_folder"), ["--format", "dtd"], 64, "cannot be read as dtd: it holds none of dtd"),
        (folder_of("image_folder"), ["--format", "wilds-fmow"], 64, "holds no metadata of wilds-fmow"),
        (folder_of("image_folder"), ["--shard-size", "0"], 64, "--shard-size must be 1 or more"),
        (flickr_table, ["--split", "dev"], 64, "has no split dev: choose one by --split (test, train)"),
        (kaggle_folder, [], 64, "holds annotations (results.csv): name one of these files"),
        (other_table, [], 64, "prices.csv is no caption file of Flickr30k: expected lines IMAGE.jpg,CAPTION"),
        (photos_and_lists, [], 64, "is no folder of classes: annotations holds files and no image"),
        (one_folder, [], 64, "has one folder alone, photos, which is no choice between classes"),
        (
            several("cifar10", "cifar100"),
            [],
            64,
            "holds several data sets (cifar10, cifar100): say which one by --format",
        ),
        (several("mnist", "stl10"), [], 64, "holds several data sets (IDX files, a set of torchvision)"),
        (several("mnist", "fashion_mnist"), [], 64, "holds several data sets (mnist, fashion-mnist)"),
        (fashion, [], 64, "names MNIST, Fashion-MNIST and KMNIST share: say which it is by --format"),
        (cut_idx, [], 65, "t10k-images-idx3-ubyte.gz is no whole IDX file of 3 dimensions"),
        (
            cut_unpacked_idx,
            [],
            65,
            "t10k-images-idx3-ubyte is no whole IDX file of 3 dimensions (its sizes are [24, 28, 28])",
        ),
        (short_idx, [], 65, "t10k-images-idx3-ubyte has 2 images, and t10k-labels-idx1-ubyte.gz 24 labels"),
        (overflowing_idx, [], 65, "t10k-images-idx3-ubyte is no whole IDX file of 3 dimensions"),
        (flat_idx, [], 65, "t10k-images-idx3-ubyte is no whole IDX file of 3 dimensions"),
        (cut_flickr_table, [], 65, "flickr_annotations_30k.csv is no whole table (unexpected end of data)"),
        (cut_meta, [], 65, "the devkit of ImageNet cannot be read"),
        (infinite_voc, [], 65, "000007.xml is no annotation of Pascal VOC"),
        (without_devkit, [], 64, "but not what says their classes: put ILSVRC2012_devkit_t12.tar.gz beside them"),
        (damaged_devkit, [], 65, "the devkit of ImageNet cannot be read"),
        (cut_archive("ImageNet, archives"), [], 65, "ILSVRC2012_img_val.tar"),
        (cut_archive("ImageNet, archive of archives"), ["--split", "train"], 65, "ILSVRC2012_img_train.tar"),
        (voc, ["--split", "val"], 64, "VOC2007 has no split val: choose one by --split (test, train)"),
        (two_years, [], 64, "holds 2 folders of Pascal VOC (VOC2007, VOC2012): name one that holds Annotations"),
        (damaged_voc, [], 65, "000007.xml is no annotation of Pascal VOC"),
        (other_file, [], 64, "is not a file of coco-captions, karpathy, vqav2, sugar-crepe"),
    ],
)
def test_import_when_the_input_is_wrong_names_it_and_the_cure(
    tmp_path: Path,
    make: Callable[[Path], str],
    options: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    originals.trust_files(monkeypatch)
    if make is without_h5py:
        monkeypatch.setitem(sys.modules, "h5py", None)  # as if it were not installed
    assert main(["benchmarks", "import", make(tmp_path), str(tmp_path / "out"), *options]) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_class_names_when_they_are_too_few_say_how_many_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = originals.image_folder(tmp_path / "in")
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    names = ["--class-names", str(tmp_path / "names.txt")]
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out"), *names]) == 64
    assert "has 2 names, but the data set has 6 classes" in capsys.readouterr().err


def test_class_names_when_a_folder_has_one_in_latin_1_ask_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmarks", "import", images_in("caf\udce9/0.jpg", "pub/1.jpg")(tmp_path), str(tmp_path / "out")]
    assert main(command) == 64
    assert "class 0 of the data set has a name that is no UTF-8 ('caf\\udce9'): give names" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("café\npub\n")
    assert main([*command, "--class-names", str(tmp_path / "names.txt")]) == 0


def test_class_names_when_one_is_empty_ask_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmarks", "import", unnamed_class(tmp_path), str(tmp_path / "out")]) == 64
    assert "class 1 of the data set has an empty name: give names by --class-names" in capsys.readouterr().err


@pytest.mark.parametrize("lines", ["", "a photo\n", "a {c}\na photo\n", "a photo\na {}\n"])
def test_templates_when_a_line_has_no_place_for_the_name_are_refused(
    tmp_path: Path, lines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = originals.image_folder(tmp_path / "in")
    (tmp_path / "templates.txt").write_text(lines)
    templates = ["--templates", str(tmp_path / "templates.txt")]
    assert main(["benchmarks", "import", str(source), str(tmp_path / "out"), *templates]) == 64
    assert "needs one template a line, each with {c} for the class name" in capsys.readouterr().err
