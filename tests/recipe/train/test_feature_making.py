"""Who makes the features that are missing: each shard once, whatever the processes do meanwhile."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.data.feature_files import FeatureFile, hash64
from diht_k8s.data.lease import Owner
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import Claims
from diht_k8s.stages.label.features import read_teacher_features
from diht_k8s.stages.train.data.normalisation import CLIPS
from diht_k8s.stages.train.features.rows import FeatureTables
from diht_k8s.stages.train.features.stored import FeatureMaker, FeatureSet, feature_width, preprocess_of
from diht_k8s.stages.train.model.student import LockedTower
from tests.folders import flat
from tests.recipe.train.small_run import SHARDS, make_data

STORAGE, SIZE = Storage(), 16


class Means(nn.Module):
    """Mean of each channel; counts its images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.images = 0

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.images += len(images_BCHW)
        return images_BCHW.mean(dim=(2, 3)) * self.scale


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


class Bench:
    def __init__(self, data: Path, output: Path) -> None:
        self.features = FeatureSet("t" * 64, "timm/NAME", SIZE, CLIPS)
        self.layout, kept = Layout(str(output)), flat(f"{data}/made")
        self.shards = [
            Shard(f"drawn-{number}", kept.kept(f"drawn-{number}"), "drawn", samples=size)
            for number, size in enumerate(SHARDS)
        ]
        self.files = [self.features.file(self.layout, shard.name, "pairs") for shard in self.shards]
        self.folder = Path(self.files[0].uri).parent

    def maker(self, worker: int = 0, owner: str = "one", check: Any = lambda: None) -> tuple[FeatureMaker, Means]:
        module = Means()
        claims = Claims(STORAGE, str(self.folder), Owner(owner), worker)
        tower = LockedTower(module, "clip.visual.")
        return FeatureMaker(STORAGE, self.features, tower, claims, torch.device("cpu"), check=check), module

    def make(self, maker: FeatureMaker, rank: int = 0, world: int = 1, **options: Any) -> None:
        maker.make(list(zip(self.shards, self.files, strict=True)), rank=rank, world=world, **options)


def test_features_when_two_processes_make_them_then_each_shard_once_in_the_labels_format(
    data: Path, tmp_path: Path
) -> None:
    bench = Bench(data, tmp_path)
    makers = [bench.maker(rank) for rank in range(2)]
    left: list[int] = []
    threads = [
        threading.Thread(target=bench.make, args=(maker, rank, 2), kwargs={"missing_left": left.append})
        for rank, (maker, _) in enumerate(makers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    probes = len(SHARDS)  # one image of zeros tells the width
    assert sum(module.images for _, module in makers) == sum(SHARDS) + probes
    assert left[-1] == 0
    assert not list((bench.folder / "claims").glob("*"))
    for shard, file in zip(bench.shards, bench.files, strict=True):
        found = read_teacher_features(STORAGE, file.uri, bench.features.config_sha256)
        assert found.uid_hash_N.tolist() == [hash64(sample.uid) for sample in read_pairs(STORAGE, shard)]
        assert found.usable_N.all()
    about = json.loads((bench.folder / "features.json").read_text())
    assert about["source"] == "timm/NAME"
    assert about["preprocessing"]["size"] == SIZE


def test_view_when_it_is_no_evaluations_then_a_crop_that_image_and_number_decide() -> None:
    views = [FeatureSet("t" * 64, "timm/NAME", SIZE, CLIPS, view) for view in range(3)]
    assert len({view.config_sha256 for view in views}) == 3
    shown = {(view.view, seed): preprocess_of(view)(noise(seed)) for view, seed in itertools.product(views, range(2))}
    assert all(torch.equal(preprocess_of(views[view])(noise(seed)), found) for (view, seed), found in shown.items())
    assert {tuple(found.shape) for found in shown.values()} == {(3, SIZE, SIZE)}
    for one, other in itertools.combinations(shown, 2):
        assert not torch.equal(shown[one], shown[other])
    whole, crop = shown[0, 0], shown[1, 0]
    assert abs(float(whole.mean() - crop.mean())) < 0.2, "both are normalised"


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("dead", [True, False])
def test_shard_that_another_process_has_claimed_is_left_to_it_while_it_lives(
    data: Path, tmp_path: Path, dead: bool
) -> None:
    bench = Bench(data, tmp_path)
    (maker, module), name = bench.maker(), Path(bench.files[1].uri).stem
    owner = "process nowhere 1 1" if not dead else _ended()
    Claims(STORAGE, str(bench.folder), Owner(owner), 5).take(name)
    naps = Counter[str]()

    def sleep(seconds: float) -> None:
        naps["all"] += 1
        if naps["all"] == 2:  # the other one is done
            Path(bench.files[1].uri).write_bytes(b"theirs")

    bench.make(maker, sleep=sleep)
    theirs = Path(bench.files[1].uri).read_bytes() == b"theirs"
    assert (theirs, naps["all"]) == ((False, 0) if dead else (True, 2))
    assert module.images == sum(SHARDS) + len(SHARDS) - (0 if dead else SHARDS[1] + 1)


def _ended() -> str:
    from diht_k8s.data.lease import this_process

    kind, place, _, _ = this_process().split(" ")
    return f"{kind} {place} 4194305 1"  # no process has this number


def test_pass_that_is_stopped_goes_on_at_its_shard(data: Path, tmp_path: Path) -> None:
    bench, calls = Bench(data, tmp_path), Counter[str]()

    def check() -> None:
        calls["all"] += 1
        if Path(bench.files[0].uri).exists():
            raise UserError("stopped")

    with pytest.raises(UserError, match="stopped"):
        bench.make(bench.maker(check=check)[0])
    assert [Path(file.uri).exists() for file in bench.files] == [True, False, False]
    assert not list((bench.folder / "claims").glob("*"))
    maker, module = bench.maker()
    bench.make(maker)
    assert module.images == sum(SHARDS[1:]) + 2


def test_shard_with_other_pairs_than_were_counted_is_refused(data: Path, tmp_path: Path) -> None:
    bench = Bench(data, tmp_path)
    bench.shards[1] = Shard("drawn-1", bench.shards[1].uri, "drawn", samples=SHARDS[1] + 1)
    with pytest.raises(DataError, match=r"drawn-1\.tar: 42 pairs has the shard, but 41 passed the tower"):
        bench.make(bench.maker()[0])


def test_tower_that_gives_maps_is_refused() -> None:
    tower = LockedTower(nn.Conv2d(3, 4, 3), "clip.visual.trunk.")
    with pytest.raises(UserError, match=r"the image tower gives a map of \(4, 14, 14\) .*: set timm_pool avg"):
        feature_width(tower, SIZE, torch.device("cpu"))


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["by ranges", "held"])
def test_rows_are_those_of_the_file_however_they_are_read(data: Path, tmp_path: Path, limit: int) -> None:
    bench = Bench(data, tmp_path)
    bench.make(bench.maker()[0])
    tables = FeatureTables(STORAGE, bench.files, torch.zeros(3), pairs=sum(SHARDS), limit=limit)
    for number, size in enumerate(SHARDS):
        whole = read_teacher_features(STORAGE, bench.files[number].uri, bench.features.config_sha256)
        for first, count in ((0, 1), (3, 20), (size - 5, 64), (size, 3)):
            rows, last = tables.rows(number, first, count), min(first + count, size)
            assert torch.equal(rows.features_BW, whole.features_ND[first:last])
            assert rows.uid_hash_B == whole.uid_hash_N[first:last].tolist()
            assert rows.usable_B == [True] * (last - first)


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["by ranges", "held"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:100], "is damaged"),
        (lambda data: data[:-70], "is damaged|is cut"),
        (lambda data: b"x" * len(data), "is damaged"),
    ],
)
def test_file_that_is_damaged_is_named(data: Path, tmp_path: Path, limit: int, change: Any, said: str) -> None:
    bench = Bench(data, tmp_path)
    bench.make(bench.maker()[0])
    place = Path(bench.files[0].uri)
    place.write_bytes(change(place.read_bytes()))
    tables = FeatureTables(STORAGE, bench.files, torch.zeros(3), pairs=sum(SHARDS), limit=limit)
    with pytest.raises(DataError, match=rf"{place.name} ({said})"):
        tables.rows(0, 0, SHARDS[0])


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["by ranges", "held"])
def test_file_of_another_set_or_width_is_named(data: Path, tmp_path: Path, limit: int) -> None:
    bench = Bench(data, tmp_path)
    bench.make(bench.maker()[0])
    other = [FeatureFile(file.uri, "o" * 64, "the image tower of another file") for file in bench.files]
    tables = FeatureTables(STORAGE, other, torch.zeros(3), pairs=sum(SHARDS), limit=limit)
    with pytest.raises(
        DataError,
        match="holds features of the image tower tttttttttttt of timm/NAME, not of the image tower of another",
    ):
        tables.rows(0, 0, 1)
    tables = FeatureTables(STORAGE, bench.files, torch.zeros(4), pairs=sum(SHARDS), limit=limit)
    with pytest.raises(DataError, match="holds 3 numbers for a pair"):
        tables.rows(0, 0, 1)


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["by ranges", "held"])
@pytest.mark.parametrize("content", [b"", b"no tar" * 1000], ids=["empty", "damaged"])
def test_shard_without_a_readable_pair_has_no_rows(data: Path, tmp_path: Path, limit: int, content: bytes) -> None:
    bench = Bench(data, tmp_path)
    place = tmp_path / "drawn-1.tar"
    place.write_bytes(content or bytes(10240))
    bench.shards[1] = Shard("drawn-1", str(place), "drawn", samples=SHARDS[1] if content else 0)
    bench.make(bench.maker()[0])
    tables = FeatureTables(STORAGE, bench.files, torch.zeros(3), pairs=sum(SHARDS), limit=limit)
    rows = tables.rows(1, 0, 3)
    assert (rows.features_BW.shape, rows.uid_hash_B, rows.usable_B) == ((0, 3), [], [])
