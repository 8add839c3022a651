from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import pytest
import torch
from safetensors.torch import load_file

from diht_k8s.api.errors import DataError, RetryableError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.data.feature_files import FeatureFile, hash64, read_columns
from diht_k8s.data.shards.samples import Sample, read_samples
from diht_k8s.data.shards.shard_index import index_of
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.label.features import TeacherFeatures, write_features
from diht_k8s.stages.label.soft_labels import read_labels
from diht_k8s.stages.train.data import collate, dataset
from diht_k8s.stages.train.data.augment import drawn_caption
from diht_k8s.stages.train.data.batch import Batch, BatchTargets, HeadTargets, merged
from diht_k8s.stages.train.data.collate import ImageSizes
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.loader import Loader
from diht_k8s.stages.train.data.sampler import sampler_over
from diht_k8s.stages.train.features.rows import FeatureTables
from tests.folders import flat
from tests.recipe.train.small_run import LABEL, SHARDS, Indexed, make_data, write_teacher

STORAGE = Storage()
SIDES = ImageSizes(32)
BATCH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    make_data(folder)
    return folder


ORDERS = ["lanes", "lanes in sequence"]
"""Ranges of indexed shards, and packed ones."""


def loader_over(
    folder: Path,
    *,
    rank: int = 0,
    world: int = 1,
    batch: int = BATCH,
    workers: int = 0,
    weights: Sequence[float] = (),
    order: str = "lanes",
    draw: bool = False,
    features: Sequence[FeatureTables] = (),
    sides: ImageSizes = SIDES,
    **sizes: int,
) -> Loader:
    layout = flat(f"{folder}/made")
    shards = [Shard(f"drawn-{i}", layout.kept(f"drawn-{i}"), "drawn", samples=n) for i, n in enumerate(SHARDS)]
    indexes = Indexed({shard.name: index_of(STORAGE, shard.uri) for shard in shards})
    files = [FeatureFile(layout.embeddings(each.name), sha256_of(LABEL), "the teacher", "make them") for each in shards]
    limit = dataset.LABEL_CACHE_BYTES  # a small one has the tables read by ranges, and forgotten
    embeddings = FeatureTables(
        STORAGE, files, torch.zeros(read_columns(STORAGE, files[0])["features"].width), pairs=sum(SHARDS), limit=limit
    )
    labels = [layout.labels(shard.name) for shard in shards]
    reads = ShardDataset(STORAGE, shards, labels, indexes=indexes, embeddings=embeddings, features=features)
    sequential = frozenset(range(len(SHARDS))) if order == "lanes in sequence" else frozenset[int]()
    sizes = {"block": 8, "window": 64, **sizes}
    sampler = sampler_over(SHARDS, batch, 0, weights=weights, sequential=sequential, **sizes)
    settings = {"batch_size": batch, "image_sizes": sides, "context_length": 12}
    return Loader(reads, sampler, **settings, seed=0, rank=rank, world=world, workers=workers, draw_captions=draw)


def batches(folder: Path, number: int, *, position: int = 0, **settings: Any) -> list[Batch]:
    made = loader_over(folder, **settings).batches(position)
    try:
        return list(itertools.islice(made, number))
    finally:
        made.close()


@pytest.mark.parametrize("order", ORDERS)
def test_epoch_when_read_then_every_pair_once_with_all_that_is_its_own(folder: Path, order: str) -> None:
    layout = flat(f"{folder}/made")
    samples = {s.uid: s for i in range(len(SHARDS)) for s in read_samples(STORAGE, layout.kept(f"drawn-{i}"))}
    labels = [read_labels(STORAGE, layout.labels(f"drawn-{i}")) for i in range(len(SHARDS))]
    stored = [load_file(layout.embeddings(f"drawn-{i}"))["features"] for i in range(len(SHARDS))]
    assert sum(SHARDS) % 24 == 0
    seen = batches(folder, sum(SHARDS) // 24, batch=24, order=order)
    assert Counter(uid for batch in seen for uid in batch.uids) == dict.fromkeys(samples, 1)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=12)
    for batch in seen:
        assert torch.equal(batch.tokens_BT, tokenizer([samples[uid].caption for uid in batch.uids]))
        assert batch.targets is not None
        assert batch.teacher_B2E is not None
        for row, uid in enumerate(batch.uids):
            shard, index = map(int, uid.split("-"))
            assert bool(batch.targets.mask_B[row]) == bool(labels[shard].has_label_N[index])
            assert batch.targets.objects.ids_BK[row].tolist() == labels[shard].objects.ids_NK[index].tolist()
            assert torch.equal(batch.teacher_B2E[row].flatten(), stored[shard][index])
            assert bool(batch.teacher_B2E[row, 0].any()) == (index % 7 != 0)
    assert {bool(flag) for batch in seen for flag in batch.targets.mask_B} == {True, False}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("position", [0, sum(SHARDS) + 24])
def test_views_when_there_are_several_then_each_epoch_sees_the_next(
    folder: Path, tmp_path: Path, order: str, position: int
) -> None:
    assert sum(SHARDS) % 24 == 0
    views = [view_of(folder, tmp_path, view) for view in range(3)]
    number = 4 * sum(SHARDS) // 24 - position // 24
    seen = batches(folder, number, position=position, batch=24, order=order, features=views)
    epochs = [(position + 24 * step) // sum(SHARDS) for step in range(number)]
    assert [set(batch.seen_B.flatten().tolist()) for batch in seen] == [{float(epoch % 3)} for epoch in epochs]


def test_features_when_their_shard_was_damaged_and_is_whole_again_then_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"0-1\.safetensors is of .*drawn-1\.tar as far as .* lacks sample 3\d: make it"
    ):
        batches(folder, sum(SHARDS) // 24, batch=24, features=[view_of(folder, tmp_path, 0, missing=11)])


def view_of(folder: Path, place: Path, view: int, missing: int = 0) -> FeatureTables:
    """Stored features that say of which view they are; those of the second shard may lack some at the end."""
    layout, files = flat(f"{folder}/made"), list[FeatureFile]()
    for number, size in enumerate(SHARDS):
        rows = size - missing if number == 1 else size
        uids = torch.tensor([hash64(sample.uid) for sample in read_samples(STORAGE, layout.kept(f"drawn-{number}"))])[
            :rows
        ]
        usable_N = torch.ones(rows, dtype=torch.bool)
        found = TeacherFeatures(torch.full((rows, 2), view, dtype=torch.float16), uids, uids.clone(), usable_N, {})
        uri = f"{place}/{view}-{number}.safetensors"
        write_features(STORAGE, uri, found, {"config_sha256": "a" * 64})
        files.append(FeatureFile(uri, "a" * 64, "a view", "make it"))
    return FeatureTables(STORAGE, files, torch.full((2,), 9.0), pairs=sum(SHARDS), limit=1 << 20)


@pytest.mark.parametrize("cache_bytes", [1 << 20, 1], ids=["held", "by ranges"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"uids": [f"1-{number + 1}" for number in range(SHARDS[1])]},
            "do not match .*drawn-1.tar at sample .*: make them",
        ),
        ({"config_sha256": "o" * 64}, "holds features of another configuration, not of the teacher: make them"),
    ],
    ids=["other pairs", "another configuration"],
)
def test_embeddings_when_they_are_of_something_else_then_the_error_names_the_file(
    tmp_path: Path, change: dict[str, Any], says: str, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "LABEL_CACHE_BYTES", cache_bytes)
    make_data(tmp_path)
    uri = flat(f"{tmp_path}/made").embeddings("drawn-1")
    write_teacher(STORAGE, uri, **{"uids": [f"1-{number}" for number in range(SHARDS[1])], **change})
    with pytest.raises(DataError, match=f"{uri} {says}"):
        batches(tmp_path, sum(SHARDS) // BATCH)


def same(ours: Batch, theirs: Batch) -> bool:
    assert ours.teacher_B2E is not None
    assert theirs.teacher_B2E is not None
    tensors = ((ours.images_BCHW, theirs.images_BCHW), (ours.teacher_B2E, theirs.teacher_B2E))
    return ours.uids == theirs.uids and all(torch.equal(a, b) for a, b in tensors)


SMALL_CACHES = {
    "as they are": [],
    "no image kept": [(collate, "IMAGE_CACHE_BYTES")],
    "nothing kept": [
        (dataset, "SHARD_CACHE_BYTES"),
        (dataset, "LABEL_CACHE_BYTES"),
        (dataset, "INDEX_CACHE_SAMPLES"),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("workers", "caches"),
    [(0, "as they are"), (0, "no image kept"), (0, "nothing kept"), (2, "as they are"), (2, "nothing kept")],
)
def test_batches_when_begun_in_the_middle_or_with_small_caches_then_the_same(
    folder: Path, caches: str, workers: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(folder, 14, order=order)
    for module, name in SMALL_CACHES[caches]:
        monkeypatch.setattr(module, name, 1)
    again = batches(folder, 4, position=10 * BATCH, workers=workers, order=order)
    assert all(same(a, b) for a, b in zip(again, whole[10:], strict=True))


def test_captions_when_drawn_then_by_epoch_and_the_same_on_any_worker_from_any_position(folder: Path) -> None:
    layout, tokenizer = flat(f"{folder}/made"), open_clip.tokenizer.SimpleTokenizer(context_length=12)
    samples = {s.uid: s for i in range(len(SHARDS)) for s in read_samples(STORAGE, layout.kept(f"drawn-{i}"))}
    epoch = sum(SHARDS) // 24
    whole = batches(folder, 2 * epoch, batch=24, draw=True)
    for number, batch in enumerate(whole):
        said = [drawn_caption(samples[uid], seed=0, epoch=number // epoch) for uid in batch.uids]
        assert torch.equal(batch.tokens_BT, tokenizer(said))
        ids = batch.caption_ids_B.tolist()
        assert [ids.index(id_) for id_ in ids] == [said.index(caption) for caption in said]
    again = batches(folder, 4, batch=24, draw=True, workers=2, position=24 * (epoch - 2))
    assert all(torch.equal(a.tokens_BT, b.tokens_BT) for a, b in zip(again, whole[epoch - 2 :], strict=False))
    plain = batches(folder, epoch, batch=24)
    assert not any(torch.equal(a.tokens_BT, b.tokens_BT) for a, b in zip(plain, whole, strict=False))


def test_crop_when_a_pair_returns_in_the_next_epoch_then_another_one(folder: Path) -> None:
    pixels: dict[str, list[torch.Tensor]] = {}
    for batch in batches(folder, 2 * sum(SHARDS) // BATCH):
        for uid, image_CHW in zip(batch.uids, batch.images_BCHW, strict=True):
            pixels.setdefault(uid, []).append(image_CHW)
    pairs = [seen for seen in pixels.values() if len(seen) == 2]
    assert len(pairs) > sum(SHARDS) // 2
    assert sum(torch.equal(*seen) for seen in pairs) <= len(pairs) // 4  # small images have few crops


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cache_bytes", [dataset.SHARD_CACHE_BYTES, 1], ids=["kept whole", "read piece by piece"])
def test_epoch_when_a_shard_has_a_larger_weight_then_it_is_read_again(
    folder: Path, cache_bytes: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SHARD_CACHE_BYTES", cache_bytes)
    weights = [1.0, 3.0, 1.0]
    total = sum(int(size * weight) for size, weight in zip(SHARDS, weights, strict=True))
    assert total % 25 == 0
    made = batches(folder, total // 25, batch=25, weights=weights, order=order)
    times = Counter(uid for batch in made for uid in batch.uids)
    assert Counter(times.values()) == {1: SHARDS[0] + SHARDS[2], 3: SHARDS[1]}
    assert all(uid.startswith("1-") for uid, number in times.items() if number == 3)


READERS = [
    (2, 0, "lanes"),
    (2, 2, "lanes"),
    (3, 2, "lanes"),
    (8, 0, "lanes"),  # more than shards
    (7, 2, "lanes"),  # workers have unequal parts, the last rank has no pair and the one before it one
    (5, 0, "lanes in sequence"),
]


@pytest.mark.parametrize(("world", "workers", "order"), READERS)
def test_batches_when_cut_among_ranks_and_workers_then_together_the_same(
    folder: Path, world: int, workers: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "SHARD_CACHE_BYTES", 1)
    size = BATCH
    lanes = 4 if world == 8 else 1024  # eight readers share four
    whole = batches(folder, 8, batch=size, order=order, lanes=lanes)
    ranks = [
        batches(folder, 8, rank=rank, world=world, batch=size, workers=workers, order=order, lanes=lanes)
        for rank in range(world)
    ]
    rows = -(-size // world)
    for step, batch in enumerate(whole):
        assert all(len(rank[step].seen_B) == len(rank[step].tokens_BT) == rows for rank in ranks)
        together = up_to(merged([rank[step] for rank in ranks]), size)
        assert same(together, batch)
        assert torch.equal(together.tokens_BT, batch.tokens_BT)
        assert torch.equal(together.caption_ids_B, batch.caption_ids_B)
        assert batch.targets is not None
        assert together.targets is not None
        assert torch.equal(together.targets.mask_B, batch.targets.mask_B)
        assert torch.equal(together.targets.attributes.probabilities_BK, batch.targets.attributes.probabilities_BK)


def up_to(batch: Batch, rows: int) -> Batch:
    """The first rows of a batch, whose uids and counts are of these alone."""
    assert batch.targets is not None
    assert batch.teacher_B2E is not None
    heads = [
        HeadTargets(*(part[:rows] for part in vars(head).values()))
        for head in (batch.targets.objects, batch.targets.attributes)
    ]
    return replace(
        batch,
        seen_B=batch.seen_B[:rows],
        tokens_BT=batch.tokens_BT[:rows],
        caption_ids_B=batch.caption_ids_B[:rows],
        targets=BatchTargets(*heads, batch.targets.mask_B[:rows]),
        teacher_B2E=batch.teacher_B2E[:rows],
    )


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("rank", [5, 6])
def test_rows_without_a_pair_are_grey_without_caption_label_and_embedding(
    folder: Path, tmp_path: Path, rank: int, stored: bool
) -> None:
    features = [view_of(folder, tmp_path, 0)] if stored else []
    [batch] = batches(folder, 1, rank=rank, world=7, features=features)
    pairs = 1 if rank == 5 else 0
    assert len(batch.uids) == pairs
    assert len(batch.seen_B) == 3
    assert not batch.bad
    assert batch.targets is not None
    assert batch.teacher_B2E is not None
    assert not batch.targets.mask_B[pairs:].any()
    assert not batch.teacher_B2E[pairs:].any()
    assert (batch.caption_ids_B[pairs:] == -1).all()
    assert batch.tokens_BT[pairs:].argmax(dim=1).tolist() == [1] * (3 - pairs)  # the end follows the beginning
    if stored:
        assert (batch.seen_B[pairs:] == 9).all()
    else:
        assert batch.images_BCHW[pairs:].abs().max() < 0.01
    kinds = [
        (each.dtype, each.shape[1:]) for each in (batch.seen_B, batch.tokens_BT, batch.caption_ids_B, batch.teacher_B2E)
    ]
    [full] = batches(folder, 1, rank=0, world=7, features=features)
    assert full.teacher_B2E is not None
    assert kinds == [
        (each.dtype, each.shape[1:]) for each in (full.seen_B, full.tokens_BT, full.caption_ids_B, full.teacher_B2E)
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("rank", [0, 5, 6])
def test_sides_when_the_resolution_has_stages_then_by_position_wherever_reading_begins(
    folder: Path, rank: int, workers: int
) -> None:
    sides = ImageSizes(32, ((BATCH, 16), (2 * BATCH + 1, 24)))
    settings: Any = {"rank": rank, "world": 7, "workers": workers, "sides": sides}
    whole = batches(folder, 5, **settings)
    assert [batch.seen_B.shape[1:] for batch in whole] == [(side, side, 3) for side in (16, 24, 24, 32, 32)]
    assert all(len(batch.seen_B) == 3 for batch in whole)
    begun = batches(folder, 3, position=2 * BATCH, **settings)
    assert all(same(ours, theirs) for ours, theirs in zip(begun, whole[2:], strict=True))
    other = batches(folder, 5, rank=rank, world=7)
    assert [batch.uids for batch in other] == [batch.uids for batch in whole]


def test_bad_sample_when_read_then_grey_and_counted_by_reason(tmp_path: Path) -> None:
    make_data(tmp_path)
    uri = flat(f"{tmp_path}/made").kept("drawn-1")
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
    uri = flat(f"{tmp_path}/made").kept("drawn-2")
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
        batches(tmp_path, sum(SHARDS) // BATCH, order="lanes in sequence")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("touched", "changed", "says"),
    [
        (
            range(3),
            (),
            r"^3 of 3 shards have the sizes that their index names, .*drawn-0\.tar is the first.* cp -a or rsync -t",
        ),
        ((1, 2), (), r"^2 of 3 shards .*drawn-1\.tar is the first"),
        ((0, 1), (2,), r"drawn-\d\.tar was replaced .*: leave input alone during a run$"),
    ],
    ids=["all copied", "some copied", "one changed"],
)
def test_shards_when_copied_without_their_times_then_one_line_says_so_and_what_to_do(
    tmp_path: Path, touched: Sequence[int], changed: Sequence[int], says: str, workers: int
) -> None:
    make_data(tmp_path)
    loader = loader_over(tmp_path, workers=workers)
    for shard in (*touched, *changed):
        path = Path(flat(f"{tmp_path}/made").kept(f"drawn-{shard}"))
        if shard in changed:
            path.write_bytes(path.read_bytes() + bytes(512))
        os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=says), contextlib.closing(loader.batches(0)) as made:
        list(itertools.islice(made, sum(SHARDS) // BATCH))


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
    uri = flat(f"{tmp_path}/made").kept("drawn-2")
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
    taught = [(uid, bool(row.any())) for batch in seen for uid, row in zip(batch.uids, batch.teacher_B2E, strict=True)]
    assert not any(has for uid, has in taught if uid.startswith("drawn-2-"))
    assert any(has for uid, has in taught if uid.startswith("2-"))


def test_worker_when_it_meets_wrong_labels_then_its_line_comes_through(tmp_path: Path) -> None:
    make_data(tmp_path)
    labels = tmp_path / "made" / "label" / "labels"
    (labels / "drawn-0.parquet").write_bytes((labels / "drawn-1.parquet").read_bytes())
    with pytest.raises(DataError, match=r"^the labels of drawn-0 do not match .* run the stage label again$"):
        batches(tmp_path, sum(SHARDS) // BATCH, workers=2)


@pytest.fixture
def no_handler() -> Iterator[None]:
    """No handler of SIGCHLD: a trainer that an earlier test runs in this process leaves torch's, which raises
    anywhere."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


def _wait_until_idle(processes: Collection[psutil.Process]) -> None:
    """Until all have slept for a moment: they have prefetched what they may."""
    spent = None
    while spent != (spent := [process.cpu_times()[:2] for process in processes]) or not _all_sleep(processes):
        time.sleep(0.2)


def _all_sleep(processes: Collection[psutil.Process]) -> bool:
    return all(process.status() == psutil.STATUS_SLEEPING for process in processes)  # one in want of a CPU does not


@pytest.mark.usefixtures("no_handler")
def test_worker_when_killed_then_retryable(folder: Path) -> None:
    loader = loader_over(folder, workers=2)
    others = set(psutil.Process().children())  # of earlier tests: servers of object stores, which later tests ask
    made = loader.batches(0)
    next(made)
    workers = set(psutil.Process().children()) - others
    _wait_until_idle(workers)  # one killed within torch's own lock leaves that locked: the watchdog ends such a wait
    for worker in workers:
        worker.kill()
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
