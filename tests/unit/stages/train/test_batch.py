"""Rows of a batch by rank: all pairs once, in order, the surplus behind them, for any number of ranks and readers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.bad_shards import LOST, Damage
from diht_k8s.stages.train.data.batch import BadSamples, Batch, BatchShare
from diht_k8s.stages.train.data.dataset import ShardDataset


def shares(batch_size: int, world: int) -> list[BatchShare]:
    return [BatchShare(batch_size, rank, world) for rank in range(world)]


@pytest.mark.parametrize(
    ("batch_size", "world", "rows", "pairs"),
    [
        (16, 1, 16, [16]),
        (16, 2, 8, [8, 8]),
        (16, 3, 6, [6, 6, 4]),
        (16, 5, 4, [4, 4, 4, 4, 0]),
        (16, 7, 3, [3, 3, 3, 3, 3, 1, 0]),
        (4, 4, 1, [1, 1, 1, 1]),
        (10, 7, 2, [2, 2, 2, 2, 2, 0, 0]),
        (32768, 504, 66, [66] * 496 + [32] + [0] * 7),
    ],
)
def test_pairs_are_the_first_rows_of_all_ranks(batch_size: int, world: int, rows: int, pairs: list[int]) -> None:
    found = shares(batch_size, world)
    assert {share.rows for share in found} == {rows}
    assert [share.pairs for share in found] == pairs
    assert [share.first for share in found] == [rank * rows for rank in range(world)]
    assert all(share.pairs + share.surplus == rows for share in found)


@pytest.mark.parametrize("batch_size", [2, 7, 16, 97])
def test_readers_of_all_ranks_have_each_pair_once_in_its_order(batch_size: int) -> None:
    for world, workers in itertools.product(range(1, batch_size + 1), range(1, 5)):
        parts = [
            [share.part(number, min(workers, share.pairs)) for number in range(min(workers, share.pairs))]
            for share in shares(batch_size, world)
        ]
        assert all(len(part) for each in parts for part in each), "a reader has pairs"
        assert all(max(map(len, each)) - min(map(len, each)) <= 1 for each in parts if each)
        assert [row for each in parts for part in each for row in part] == list(range(batch_size))


DAMAGE = Damage("cut", 512, 3)


def batch(bad: dict[str, int], damaged: dict[str, Damage]) -> Batch:
    return Batch(torch.empty(0), torch.empty(0), torch.empty(0), None, [], bad, damaged)


@pytest.fixture
def shards(tmp_path: Path) -> list[Shard]:
    """Two shards of ten samples, the second cut within the seventh; no filter has counted them."""
    for name in "ab":
        samples = [(f"{name}{number}", {"txt": b"a dog", "png": b"x"}) for number in range(10)]
        write_samples(Storage(), f"{tmp_path}/{name}.tar", samples)
    cut = tmp_path / "b.tar"
    cut.write_bytes(cut.read_bytes()[: 6 * 2048 + 300])
    return [Shard(name, f"{tmp_path}/{name}.tar", "web") for name in "ab"]


def test_stop_request_ends_the_reading_within_a_shard(shards: list[Shard]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    dataset = ShardDataset(Storage(), shards)
    dataset.check = stop
    with pytest.raises(KeyboardInterrupt):
        list(dataset.sequence(0, 0))


def test_known_damaged_shards_beyond_the_limit_stop_before_the_first_step() -> None:
    with pytest.raises(DataError, match=r"s3://b/1\.tar is damaged after 3 samples .*spec\.data\.maxBadShards \(0;"):
        BadSamples(0, 10, {"s3://b/1.tar": DAMAGE})


def test_damaged_shards_of_batches_count_once_towards_the_limit() -> None:
    bad = BadSamples("10%", 10, {})
    for _ in range(3):
        bad.add(batch({LOST: 50}, {"1.tar": DAMAGE}))  # lost samples have the limit of their shard
    assert bad.metrics({}) == {"bad_shards": 1}
    assert bad.metrics({"held-out.tar": DAMAGE, "1.tar": DAMAGE}) == {"bad_shards": 2}
    assert bad.summary({"held-out.tar": DAMAGE}) == {
        "damaged_shards": [{"name": name, **DAMAGE.to_json()} for name in ("1.tar", "held-out.tar")]
    }
    with pytest.raises(DataError, match="maxBadShards"):
        bad.add(batch({}, {"2.tar": DAMAGE}))


def test_bad_samples_beyond_a_hundredth_stop_the_training() -> None:
    bad = BadSamples(0, 10, {})
    bad.add(batch({"picture_unreadable": 2}, {}))
    bad.check(bad.unusable, 200)  # one of two ranks' pairs, all of which count
    assert bad.metrics({}) == {}
    assert bad.summary({}) == {}
    with pytest.raises(DataError) as raised:
        bad.check(bad.unusable + 9, 1000)
    says = "more than 1% of the pairs cannot be used (11 of 1,000; on this rank {'picture_unreadable': 2})"
    assert str(raised.value).startswith(says)
