"""Benchmarks are found under the folder names that the public download tools give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from diht_k8s.cli.main import main
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.evaluate.catalogue import catalogue, folder_names, plain_name
from diht_k8s.stages.evaluate.catalogue.discovery import candidate_folders, find_benchmark, find_unlisted

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
CLIP_BENCHMARK = [
    *(
        set(DATACOMP)
        - {"cifar10", "food101", "vtab/cifar10"}
        - {each for each in DATACOMP if each.startswith(("wilds", "fair"))}
    ),
    *("mscoco_captions", "flickr30k", "vtab/cifar10"),
]
"""LAION-AI/CLIP_benchmark, benchmark/webdatasets.txt (commit c475e1c): DataComp's among them, without `wds/`."""

VTAB = [
    "caltech101",
    "cifar10",
    "cifar100",
    "clevr_count_all",
    "clevr_closest_object_distance",
    "diabetic_retinopathy",
    "dmlab",
    "dsprites_label_orientation",
    "dsprites_label_x_position",
    "dsprites_label_y_position",
    "dtd",
    "eurosat",
    "flowers",
    "kitti_closest_vehicle_distance",
    "pcam",
    "pets",
    "resisc45",
    "smallnorb_label_azimuth",
    "smallnorb_label_elevation",
    "svhn",
]
"""The same file's `wds/vtab/*`; clip-benchmark has no shards of VTAB's sun397."""
DATACOMP_IMAGES = 692_806
"""The sum of `size` in tasklist.yml, without Flickr30k's, which is that of all splits, and WinoGAViL's, which counts
cues.
"""


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
    all_entries = [find_benchmark(entry, str(root), Storage()) for entry in catalogue("datacomp38").benchmarks]
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


def test_presence_when_a_benchmark_lies_there_twice_takes_the_plainest_name(tmp_path: Path) -> None:
    for folder in ("wds_vtab-cifar10", "wds_cifar10_test", "cifar10"):
        lay_out(tmp_path, folder)
    (tmp_path / "mnist").mkdir()  # without shards, so the next name counts
    lay_out(tmp_path, "wds_mnist_test")
    assert found(tmp_path) == {"cifar10": "cifar10", "mnist": "wds_mnist_test"}


def test_presence_when_a_name_only_resembles_one_does_not_find_it(tmp_path: Path) -> None:
    for folder in ("cifar10_train", "my_cifar10", "wds-cifar10", "cifar100_test_old"):
        lay_out(tmp_path, folder)
    assert found(tmp_path) == {}


def test_presence_when_found_counts_the_shards_of_that_folder(tmp_path: Path) -> None:
    folder = tmp_path / "wds_vtab-pcam_test"
    for shard in range(3):
        write_samples(Storage(), f"{folder}/test/{shard}.tar", [("0", {"jpg": b"x", "cls": b"0"})])
    (folder / "classnames.txt").write_text("a\nb\n")
    whole = find_benchmark(catalogue("datacomp38").entry("pcam"), str(tmp_path), Storage())
    assert (whole.shards, whole.whole) == (3, True)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("wds_vtab-dtd_test", "dtd"),
        ("wds/vtab/dtd", "dtd"),
        ("wds_dtd", "dtd"),
        ("wds_wilds-fmow_test", "fmow"),
        ("fairness-geode", "geode"),
        ("mscoco_2014_5k_test_image_text_retrieval", "mscoco_captions"),
        ("flickr_1k_test_image_text_retrieval", "flickr30k"),
        ("my_set", "my_set"),
        ("wds_", "wds_"),
    ],
)
def test_plain_name_when_a_tool_spelled_the_folder_is_that_of_the_set(folder: str, name: str) -> None:
    assert plain_name(folder) == name


def test_plain_name_when_folders_are_spelled_from_a_name_leads_back_to_it() -> None:
    for name in list(catalogue("datacomp38").benchmarks) + list(catalogue("vtab").benchmarks):
        for folder in folder_names(name.name):
            assert plain_name(folder) == name.name


def test_list_when_vtabs_folders_are_clip_benchmarks_is_found_whole(tmp_path: Path) -> None:
    for task in VTAB:
        lay_out(tmp_path, clip_benchmark_folder(f"vtab/{task}"))
    listed = catalogue("vtab").benchmarks
    assert [entry.name for entry in listed] == VTAB
    assert all(find_benchmark(entry, str(tmp_path), Storage()).folder is not None for entry in listed)


def test_list_when_datacomp_counts_the_same_set_has_its_numbers() -> None:
    datacomp = {entry.name: entry for entry in catalogue("datacomp38").benchmarks}
    for entry in catalogue("vtab").benchmarks:
        if entry.name in datacomp:
            other = datacomp[entry.name]
            assert (entry.classes, entry.images, entry.metric) == (other.classes, other.images, other.metric)
        else:
            assert not entry.verified
    assert sum(entry.images or 0 for entry in catalogue("datacomp38").benchmarks) == DATACOMP_IMAGES


def test_others_when_folders_are_in_no_list_are_listed_as_they_are(tmp_path: Path) -> None:
    lay_out(tmp_path, "wds_my_birds_test")
    (tmp_path / "wds_my_birds_test" / "classnames.txt").write_text("robin\nwren\n")
    lay_out(tmp_path, "pairs")
    (tmp_path / "pairs" / "dataset_type.txt").write_text("retrieval\n")
    lay_out(tmp_path, "nameless")
    lay_out(tmp_path, "wds/vtab/pcam")
    lay_out(tmp_path, "cifar10")
    (tmp_path / "no_shards" / "test").mkdir(parents=True)
    found = find_unlisted(str(tmp_path), Storage(), candidate_folders(str(tmp_path), Storage()), {"pcam", "cifar10"})
    assert [(each.entry.name, each.entry.type, each.shards, each.problem) for each in found] == [
        ("nameless", "Classification", 1, "classnames.txt is missing"),
        ("pairs", "Retrieval", 1, None),
        ("my_birds", "Classification", 1, None),
    ]


def test_command_when_an_unlisted_folder_is_named_prints_its_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lay_out(tmp_path, "wds_my_birds")
    (tmp_path / "wds_my_birds" / "classnames.txt").write_text("robin\nwren\n")
    lay_out(tmp_path, "wds_objectnet")
    for name in ("my_birds", "wds_my_birds"):
        assert main(["benchmarks", str(tmp_path), "--yaml", "--only", name]) == 0
        (part,) = yaml.safe_load(capsys.readouterr().out)["evaluate"]["benchmarks"]
        assert (part["name"], part["classNames"]) == ("my_birds", f"{tmp_path}/wds_my_birds/classnames.txt")
    assert main(["benchmarks", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Also here: objectnet, Classification, not whole (see --list datacomp38)." in said
    assert "Also here, in no list: wds_my_birds, Classification, 1 shards." in said
