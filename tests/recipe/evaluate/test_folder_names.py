"""Benchmarks are found under the folder names that the public download tools give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diht_k8s.recipe.evaluate.catalogue import catalogue
from diht_k8s.recipe.evaluate.catalogue.presence import presence
from diht_k8s.recipe.evaluate.folder_names import folder_names
from diht_k8s.recipe.shards.samples import write_samples
from diht_k8s.recipe.shards.storage import Storage

DATACOMP = [
    "imagenet1k",
    "cifar10",
    "country211",
    "fgvc_aircraft",
    "food101",
    "gtsrb",
    "imagenet_sketch",
    "imagenetv2",
    "imagenet-a",
    "imagenet-o",
    "imagenet-r",
    "mnist",
    "objectnet",
    "voc2007",
    "renderedsst2",
    "cars",
    "stl10",
    "sun397",
    "vtab/caltech101",
    "vtab/cifar100",
    "vtab/clevr_count_all",
    "vtab/clevr_closest_object_distance",
    "vtab/dtd",
    "vtab/eurosat",
    "vtab/kitti_closest_vehicle_distance",
    "vtab/flowers",
    "vtab/pets",
    "vtab/pcam",
    "vtab/resisc45",
    "vtab/svhn",
    "wilds/iwildcam",
    "wilds/camelyon17",
    "wilds/fmow",
    "fairness/dollar_street",
    "fairness/geode",
]
"""mlfoundations/datacomp, tasklist.yml (commit 2d7bde7): tasks that download_evalsets.py (274dbee) gets in shards."""
NOT_SHARDS = {"flickr30k", "mscoco_captions", "winogavil"}
"""Tasks `retrieval/` and `misc/`: download_evalsets.py loads them into a cache of Hugging Face datasets."""
CLIP_BENCHMARK = [
    "mscoco_captions",
    "flickr30k",
    "imagenet1k",
    "imagenetv2",
    "imagenet_sketch",
    "imagenet-a",
    "imagenet-r",
    "imagenet-o",
    "objectnet",
    "voc2007",
    "sun397",
    "cars",
    "fgvc_aircraft",
    "mnist",
    "stl10",
    "gtsrb",
    "country211",
    "renderedsst2",
    "vtab/caltech101",
    "vtab/cifar10",
    "vtab/cifar100",
    "vtab/clevr_count_all",
    "vtab/clevr_closest_object_distance",
    "vtab/dtd",
    "vtab/eurosat",
    "vtab/kitti_closest_vehicle_distance",
    "vtab/flowers",
    "vtab/pets",
    "vtab/pcam",
    "vtab/resisc45",
    "vtab/svhn",
]
"""LAION-AI/CLIP_benchmark, benchmark/webdatasets.txt (commit c475e1c): DataComp's among them, without `wds/`."""


def datacomp_folder(task: str) -> str:
    """As in download_evalsets.py."""
    return f"wds_{task.removeprefix('fairness/').replace('/', '-')}_test"


def clip_benchmark_folder(task: str) -> str:
    """The Hugging Face repository of a task: its cli.py fills `wds_{dataset_cleaned}` so."""
    return f"wds_{task.replace('/', '-')}"


def clip_benchmark_name(task: str) -> str:
    return f"wds/{task}"


def lay_out(root: Path, folder: str) -> None:
    (root / folder / "test").mkdir(parents=True)
    (root / folder / "test" / "0.tar").touch()


def found(root: Path) -> dict[str, str]:
    """Entry -> folder below the root."""
    all_entries = [presence(entry, str(root), Storage()) for entry in catalogue("datacomp38").benchmarks]
    return {each.entry.name: each.folder.removeprefix(f"{root}/") for each in all_entries if each.folder is not None}


@pytest.mark.parametrize(
    ("tasks", "folder_of"),
    [
        (DATACOMP, datacomp_folder),
        (CLIP_BENCHMARK, clip_benchmark_folder),
        (CLIP_BENCHMARK, clip_benchmark_name),
        (DATACOMP, lambda task: task),
    ],
    ids=["datacomp", "clip-benchmark", "clip-benchmark's names", "task names"],
)
def test_presence_when_folders_have_a_tools_names_finds_every_one(
    tmp_path: Path, tasks: list[str], folder_of: Callable[[str], str]
) -> None:
    for task in tasks:
        lay_out(tmp_path, folder_of(task))
    expected = {task.rpartition("/")[2]: folder_of(task) for task in tasks}
    assert found(tmp_path) == expected


def test_presence_when_datacomp_downloaded_misses_only_what_is_not_in_shards(tmp_path: Path) -> None:
    for task in DATACOMP:
        lay_out(tmp_path, datacomp_folder(task))
    names = {entry.name for entry in catalogue("datacomp38").benchmarks}
    assert names - found(tmp_path).keys() == NOT_SHARDS
    assert len(found(tmp_path)) == 35


def test_presence_when_a_benchmark_lies_there_twice_takes_the_plainest_name(tmp_path: Path) -> None:
    for folder in ("wds_vtab-cifar10", "wds_cifar10_test", "cifar10"):
        lay_out(tmp_path, folder)
    assert found(tmp_path) == {"cifar10": "cifar10"}


def test_presence_when_the_plainest_folder_has_no_shards_takes_the_next(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    lay_out(tmp_path, "wds_cifar10_test")
    assert found(tmp_path) == {"cifar10": "wds_cifar10_test"}


def test_presence_when_a_name_only_resembles_one_does_not_find_it(tmp_path: Path) -> None:
    for folder in ("cifar10_train", "my_cifar10", "wds-cifar10", "cifar100_test_old"):
        lay_out(tmp_path, folder)
    assert found(tmp_path) == {}


def test_folder_names_when_listed_are_distinct_across_the_catalogue() -> None:
    names = [name for entry in catalogue("datacomp38").benchmarks for name in folder_names(entry.name)]
    assert len(names) == len(set(names))


def test_presence_when_found_counts_the_shards_of_that_folder(tmp_path: Path) -> None:
    folder = tmp_path / "wds_vtab-pcam_test"
    for shard in range(3):
        write_samples(Storage(), f"{folder}/test/{shard}.tar", [("0", {"jpg": b"x", "cls": b"0"})])
    (folder / "classnames.txt").write_text("a\nb\n")
    whole = presence(catalogue("datacomp38").entry("pcam"), str(tmp_path), Storage())
    assert (whole.shards, whole.whole) == (3, True)
