"""An order that leaves a sample out, or batches with other rows than their steps, are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime import indexing
from diht_k8s.stages.train.bad_samples import Consumption
from diht_k8s.stages.train.checkpoint import resume
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.data.collate import LaneReader
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.sampler import Blocks, LaneSampler, sampler_over
from diht_k8s.stages.train.setup import epoch_samples, training_data

SIZES = (30, 7, 50)


def shards_of(sizes: Sequence[int], folder: Path = Path("x")) -> list[Shard]:
    return [Shard(f"a-{number}", f"{folder}/{number}.tar", "a", samples=size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("weights", [(), (1, 1, 1), (1, 2.5, 1), (3, 1, 1.25), (0.2, 0.3, 0.1)])
def test_samples_of_an_epoch_are_the_documented_sum(weights: Sequence[float]) -> None:
    sampler = sampler_over(SIZES, 8, 0, weights=weights)
    assert epoch_samples(shards_of(SIZES), weights or (1.0,) * 3) == sampler.total


def a_sample_less(blocks: Blocks) -> Blocks:
    counts = blocks.counts.copy()
    counts[-1] -= 1
    return replace(blocks, counts=counts)


def a_block_twice(blocks: Blocks) -> Blocks:
    return Blocks(*(list_[[0, *range(len(list_))]] for list_ in (blocks.shards, blocks.firsts, blocks.counts)))


@pytest.mark.parametrize("spoil", [a_sample_less, a_block_twice])
def test_lane_whose_blocks_hold_other_samples_than_its_positions_is_refused(
    spoil: Callable[[Blocks], Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, sampler = LaneSampler.blocks, sampler_over(SIZES, 8, 0, lanes=1, block=8)
    held = int(spoil(blocks(sampler, 0, 0)).counts.sum())
    monkeypatch.setattr(LaneSampler, "blocks", lambda *arguments: spoil(blocks(*arguments)))
    with pytest.raises(DataError, match=f"lane 0 of epoch 0: 87 positions has the lane, but {held} samples"):
        LaneReader(cast("ShardDataset", SimpleNamespace()), sampler, 0, 0, 0)


def test_order_with_a_sample_less_than_there_are_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, size in enumerate(SIZES):
        pairs = [(f"{number}{pair}", {"jpg": b"x", "txt": b"a dog"}) for pair in range(size)]
        write_samples(Storage(), f"{tmp_path}/{number}.tar", pairs)
    body = {"model": "ViT-B-32", "samples": 64, "batchSize": 2, "distillation": {"mode": "Disabled"}}
    data = {"sources": [{"name": "a", "shards": [f"{tmp_path}/*.tar"]}], "output": f"{tmp_path}/out"}
    document = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "a"}}
    run = DihtRun.model_validate({**document, "spec": {"data": data, "train": body}})
    where: dict[str, Any] = {"rank": 0, "world": 1}
    assert training_data(run, Storage(), Layout(f"{tmp_path}/out"), None, **where).sampler.total == sum(SIZES)
    made = resume.sampler_over

    def skipping(sizes: Sequence[int], *arguments: Any, **options: Any) -> LaneSampler:
        return made([sizes[0] - 1, *sizes[1:]], *arguments, **options)

    monkeypatch.setattr(resume, "sampler_over", skipping)
    with pytest.raises(DataError, match="87 samples by counts and weights, but 86 samples in the order of an epoch"):
        training_data(run, Storage(), Layout(f"{tmp_path}/out"), None, **where)


def test_index_with_other_counts_than_the_filter_is_refused() -> None:
    row = indexing.IndexRow("a-0", "", 29)
    with pytest.raises(DataError, match="30 pairs were kept by the filter, but 29 are in its index"):
        list(indexing._counted(shards_of(SIZES[:1]), [row], {}))
    damaged = row._replace(reason="cut")  # after the filter: within data.maxBadShards its rest counts as bad
    assert next(indexing._counted(shards_of(SIZES[:1]), [damaged], {})).samples == 30


@pytest.mark.parametrize(
    ("rows", "position", "said"),
    [
        (31, 48, "32 samples belong to the steps of this attempt, but 31 rows had their batches"),
        (33, 48, "32 samples belong to the steps of this attempt, but 33 rows had their batches"),
        (16, 32, "48 samples were planned, but 32 are done"),
    ],
)
def test_batches_with_other_rows_than_their_steps_are_refused(rows: int, position: int, said: str) -> None:
    consumption = Consumption(16)
    consumption.add(cast("Batch", SimpleNamespace(uids=["u"] * rows)))
    with pytest.raises(DataError, match=said):
        consumption.check(position, 48)


def test_batches_of_all_steps_are_accepted() -> None:
    consumption = Consumption(16)
    consumption.add(cast("Batch", SimpleNamespace(uids=["u"] * 32)))
    consumption.check(48, 48)
