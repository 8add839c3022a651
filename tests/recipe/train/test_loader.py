from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import pytest
import torch

from diht_k8s.api.errors import DataError, RetryableError
from diht_k8s.api.layout import Layout
from diht_k8s.recipe.label.soft_labels import read_labels
from diht_k8s.recipe.shards.samples import Sample, read_samples, write_samples
from diht_k8s.recipe.shards.sources import Shard
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.train.data import collate, dataset
from diht_k8s.recipe.train.data import sampler as order_module
from diht_k8s.recipe.train.data.batch import Batch
from diht_k8s.recipe.train.data.dataset import ShardDataset
from diht_k8s.recipe.train.data.loader import Loader
from diht_k8s.recipe.train.data.sampler import GlobalSampler
from tests.recipe.train.small_run import SHARDS, make_data

STORAGE = Storage()
BATCH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    make_data(folder)
    return folder


def loader_over(
    folder: Path, *, rank: int = 0, world: int = 1, batch: int = BATCH, workers: int = 0, weights: Sequence[float] = ()
) -> Loader:
    layout = Layout(f"{folder}/out")
    shards = [Shard(f"drawn-{i}", layout.kept(f"drawn-{i}"), "drawn", samples=n) for i, n in enumerate(SHARDS)]
    reads = ShardDataset(STORAGE, shards, [layout.labels(shard.name) for shard in shards])
    order = GlobalSampler.of(SHARDS, BATCH, seed=0, weights=weights)
    sizes = {"batch_size": batch, "image_size": 32, "context_length": 12}
    return Loader(reads, order, **sizes, seed=0, rank=rank, world=world, workers=workers)


def batches(folder: Path, number: int, *, position: int = 0, **settings: Any) -> list[Batch]:
    made = loader_over(folder, **settings).batches(position)
    try:
        return list(itertools.islice(made, number))
    finally:
        made.close()


def test_epoch_when_read_then_every_pair_once_with_its_own_caption_and_labels(folder: Path) -> None:
    layout = Layout(f"{folder}/out")
    samples = {s.uid: s for i in range(len(SHARDS)) for s in read_samples(STORAGE, layout.kept(f"drawn-{i}"))}
    labels = [read_labels(STORAGE, layout.labels(f"drawn-{i}")) for i in range(len(SHARDS))]
    assert sum(SHARDS) % BATCH == 8
    seen = batches(folder, sum(SHARDS) // BATCH + 1)
    uids = [uid for batch in seen for uid in batch.uids][: sum(SHARDS)]
    assert sorted(uids) == sorted(samples)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=12)
    for batch in seen:
        assert torch.equal(batch.tokens_BT, tokenizer([samples[uid].caption for uid in batch.uids]))
        assert batch.targets is not None
        for row, uid in enumerate(batch.uids):
            shard, index = map(int, uid.split("-"))
            assert bool(batch.targets.mask_B[row]) == bool(labels[shard].has_label_N[index])
            assert batch.targets.objects.ids_BK[row].tolist() == labels[shard].objects.ids_NK[index].tolist()
    assert {bool(flag) for batch in seen for flag in batch.targets.mask_B} == {True, False}


def same(ours: Batch, theirs: Batch) -> bool:
    return ours.uids == theirs.uids and torch.equal(ours.images_BCHW, theirs.images_BCHW)


SMALL_CACHES = {
    "as they are": [],
    "no image kept": [(collate, "IMAGE_CACHE_BYTES")],
    "no shard kept": [(dataset, "SHARD_CACHE_BYTES")],
}


@pytest.mark.parametrize("caches", SMALL_CACHES.values(), ids=SMALL_CACHES)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_when_begun_in_the_middle_or_with_small_caches_then_the_same(
    folder: Path, caches: list[tuple[Any, str]], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(folder, 14)
    for module, name in caches:
        monkeypatch.setattr(module, name, 1)
    again = batches(folder, 4, position=10 * BATCH, workers=workers)
    assert all(same(a, b) for a, b in zip(again, whole[10:], strict=True))


def test_crop_when_a_pair_returns_in_the_next_epoch_then_another_one(folder: Path) -> None:
    pixels: dict[str, list[torch.Tensor]] = {}
    for batch in batches(folder, 2 * sum(SHARDS) // BATCH):
        for uid, image_CHW in zip(batch.uids, batch.images_BCHW, strict=True):
            pixels.setdefault(uid, []).append(image_CHW)
    pairs = [seen for seen in pixels.values() if len(seen) == 2]
    assert len(pairs) > sum(SHARDS) // 2
    assert sum(torch.equal(*seen) for seen in pairs) <= len(pairs) // 4  # small images have few crops


@pytest.mark.parametrize("cache_bytes", [dataset.SHARD_CACHE_BYTES, 1], ids=["kept whole", "read piece by piece"])
def test_epoch_when_a_shard_has_a_larger_weight_then_it_is_read_again(
    folder: Path, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SHARD_CACHE_BYTES", cache_bytes)
    monkeypatch.setattr(order_module, "WINDOW_SAMPLES", 64)
    weights = [1.0, 3.0, 1.0]
    total = sum(int(size * weight) for size, weight in zip(SHARDS, weights, strict=True))
    seen = [uid for batch in batches(folder, total // BATCH + 1, weights=weights) for uid in batch.uids][:total]
    times = Counter(Counter(seen).values())
    assert times == {1: SHARDS[0] + SHARDS[2], 3: SHARDS[1]}
    assert all(uid.startswith("1-") for uid, number in Counter(seen).items() if number == 3)


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (2, 2), (3, 2), (8, 0)])  # 8 are more than shards
def test_batches_when_cut_among_ranks_and_workers_then_together_the_same(
    folder: Path, world: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SHARD_CACHE_BYTES", 1)
    size = 24 if world == 3 else BATCH  # three ranks share their streams
    whole = batches(folder, 8, batch=size)
    ranks = [batches(folder, 8, rank=rank, world=world, batch=size, workers=workers) for rank in range(world)]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert [uid for row in zip(*(part.uids for part in parts), strict=True) for uid in row] == batch.uids
        images = torch.stack([part.images_BCHW for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(images, batch.images_BCHW)
        masks = [part.targets.mask_B for part in parts if part.targets is not None]
        assert batch.targets is not None
        assert torch.equal(torch.stack(masks, dim=1).flatten(), batch.targets.mask_B)


def test_bad_sample_when_read_then_grey_and_counted_by_reason(tmp_path: Path) -> None:
    make_data(tmp_path)
    uri = Layout(f"{tmp_path}/out").kept("drawn-1")
    samples = list(read_samples(STORAGE, uri))
    spoilt = [(s.key, {**s.members, **({"png": b"no"} if i == 3 else {})}) for i, s in enumerate(samples)]
    write_samples(STORAGE, uri, spoilt)
    seen = batches(tmp_path, sum(SHARDS) // BATCH)
    assert sum((np.array(list(batch.bad.values())).sum() for batch in seen), 0) == 1
    batch = next(batch for batch in seen if batch.bad)
    assert batch.bad == {"picture_unreadable": 1}
    grey = batch.images_BCHW[batch.uids.index("1-3")]
    assert grey.abs().max() < 0.01  # the mean itself, rounded


def test_shard_when_shorter_than_committed_then_the_error_names_it(tmp_path: Path) -> None:
    make_data(tmp_path)
    uri = Layout(f"{tmp_path}/out").kept("drawn-2")
    write_samples(STORAGE, uri, [(s.key, s.members) for s in read_samples(STORAGE, uri)][:-5])
    with pytest.raises(DataError, match="holds fewer samples than the filter committed: run the stage filter again"):
        batches(tmp_path, sum(SHARDS) // BATCH)


def test_shard_when_replaced_while_it_is_read_then_an_error_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path)
    read = dataset.read_pairs

    def replaced(storage: Storage, shard: Shard, **options: Any) -> Iterator[Sample]:
        yield from itertools.islice(read(storage, shard, **options), 20)
        raise DataError(f"{shard.uri} was replaced while it was read")

    monkeypatch.setattr(dataset, "read_pairs", replaced)
    with pytest.raises(DataError, match="was replaced while it was read"):
        batches(tmp_path, sum(SHARDS) // BATCH)


def cut(uri: str, share: float) -> None:
    path = Path(uri)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("cache_bytes", [dataset.SHARD_CACHE_BYTES, 1], ids=["kept whole", "read piece by piece"])
def test_shard_when_cut_off_then_what_is_missing_counts_as_bad_and_the_rest_is_used(
    tmp_path: Path, folder: Path, cache_bytes: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dataset, "SHARD_CACHE_BYTES", cache_bytes)
    make_data(tmp_path)
    uri = Layout(f"{tmp_path}/out").kept("drawn-2")
    cut(uri, 0.6)
    steps = sum(SHARDS) // BATCH
    whole, seen = batches(folder, steps), batches(tmp_path, steps)
    bad = sum(batch.bad.get("shard_damaged", 0) for batch in seen)
    assert 10 < bad < 35
    assert sum(sum(batch.bad.values()) for batch in seen) == bad
    uids = [pair for ours, theirs in zip(seen, whole, strict=True) for pair in zip(ours.uids, theirs.uids, strict=True)]
    replaced = [theirs for ours, theirs in uids if ours != theirs]
    assert len(replaced) == bad
    (damage,) = {found for batch in seen for found in batch.damaged.values()}
    assert bad <= SHARDS[2] - damage.salvaged < bad + BATCH  # the last samples make no whole batch
    assert all(uid.startswith("2-") and int(uid[2:]) > 20 for uid in replaced)
    assert f"{uri} is damaged after" in caplog.text


def test_worker_when_it_meets_wrong_labels_then_its_line_comes_through(tmp_path: Path) -> None:
    make_data(tmp_path)
    labels = tmp_path / "out" / "label" / "labels"
    (labels / "drawn-0.parquet").write_bytes((labels / "drawn-1.parquet").read_bytes())
    with pytest.raises(DataError, match=r"^the labels of drawn-0 do not match .* run the stage label again$"):
        batches(tmp_path, sum(SHARDS) // BATCH, workers=2)


def test_worker_when_killed_then_retryable(folder: Path) -> None:
    reads = ShardDataset(STORAGE, [Shard("drawn-0", Layout(f"{folder}/out").kept("drawn-0"), "drawn", samples=70)])
    loader = Loader(
        reads,
        GlobalSampler.of([70], 16, 0),
        batch_size=16,
        image_size=32,
        context_length=12,
        seed=0,
        rank=0,
        world=1,
        workers=2,
    )
    made = loader.batches(0)
    next(made)
    for child in psutil.Process().children():
        child.kill()
    with pytest.raises(RetryableError, match="rank 0 lost a loader worker"):
        list(itertools.islice(made, 100))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), RetryableError),
        (EOFError(), RetryableError),
        (ConnectionResetError(104, "Connection reset by peer"), RetryableError),
        (RuntimeError("of another kind"), RuntimeError),
        (EOFError("Caught EOFError in DataLoader worker process 0."), EOFError),
    ],
)
def test_worker_when_lost_while_its_part_is_fetched_then_retryable_unlike_what_it_raised_itself(
    folder: Path, error: Exception, expected: type[Exception]
) -> None:
    def parts() -> Iterator[Batch]:
        raise error
        yield

    with pytest.raises(expected):
        next(loader_over(folder, workers=1)._merged(parts()))


PROGRAM = """
import sys
from pathlib import Path
from tests.recipe.train.test_loader import loader_over

made = loader_over(Path(sys.argv[1]), workers=2).batches(0)
next(made)
sys.exit(75)
"""


def test_program_when_it_ends_in_the_middle_then_with_its_own_exit_code(folder: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (75, "")
