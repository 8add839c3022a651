"""Damaged shards and bad samples of a training: counts agree with what is delivered, and limits hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.bad_shards import LOST, Damage
from diht_k8s.stages.train.bad_samples import BadSamples
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.data.dataset import ShardDataset

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
