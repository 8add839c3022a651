from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.recipe.concepts.soft_labels import read_labels
from diht_k8s.recipe.shards.samples import read_samples, write_samples
from diht_k8s.recipe.shards.sets import Shard
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.training import loader
from diht_k8s.recipe.training.loader import Batch, Loader, Source
from diht_k8s.recipe.training.order import Order
from tests.recipe.training.small_run import SHARDS, make_data

STORAGE = Storage()
BATCH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    make_data(folder)
    return folder


def batches(folder: Path, number: int, *, position: int = 0, rank: int = 0, world: int = 1) -> list[Batch]:
    layout = Layout(f"{folder}/out")
    shards = [Shard(f"drawn-{i}", layout.kept(f"drawn-{i}"), "drawn", samples=n) for i, n in enumerate(SHARDS)]
    source = Source(STORAGE, shards, [layout.labels(shard.name) for shard in shards])
    order = Order.of(SHARDS, BATCH, seed=0)
    made = Loader(
        source, order, batch_size=BATCH, image_size=32, context_length=12, seed=0, rank=rank, world=world
    ).batches(position)
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
    tokenizer = loader.open_clip.tokenizer.SimpleTokenizer(context_length=12)
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


@pytest.mark.parametrize("change", [{}, {"PICTURE_CACHE_BYTES": 1}, {"SHARD_CACHE_BYTES": 1}], ids=str)
def test_batches_when_begun_in_the_middle_or_with_small_caches_then_the_same(
    folder: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(folder, 14)
    for name, value in change.items():
        monkeypatch.setattr(loader, name, value)
    assert all(same(a, b) for a, b in zip(batches(folder, 4, position=10 * BATCH), whole[10:], strict=True))


def test_batches_when_cut_among_ranks_then_together_the_same(folder: Path) -> None:
    whole = batches(folder, 6)
    ranks = [batches(folder, 6, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert [
            uid for pair in zip(ranks[0][step].uids, ranks[1][step].uids, strict=True) for uid in pair
        ] == batch.uids
        images = torch.stack([rank[step].images_BCHW for rank in ranks], dim=1).flatten(0, 1)
        assert torch.equal(images, batch.images_BCHW)


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
    assert grey.abs().max() < 0.02


def test_shard_when_shorter_than_committed_then_the_error_names_it(tmp_path: Path) -> None:
    make_data(tmp_path)
    uri = Layout(f"{tmp_path}/out").kept("drawn-2")
    write_samples(STORAGE, uri, [(s.key, s.members) for s in read_samples(STORAGE, uri)][:-5])
    with pytest.raises(DataError, match="holds fewer samples than the filter committed: run the stage filter again"):
        batches(tmp_path, sum(SHARDS) // BATCH)
