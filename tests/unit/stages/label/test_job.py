"""Which images train the heads, and which shards the examples come from."""

from __future__ import annotations

import pytest

from diht_k8s.data.shards.sources import Shard
from diht_k8s.stages.label.job import choose_training
from diht_k8s.stages.label.report import EXAMPLES, example_shards

SHARDS = [Shard(f"s-{number:03}", f"{number}.tar", "s", samples=10) for number in range(40)]


@pytest.mark.parametrize(
    ("most", "shards", "rows"), [(1000, 40, 400), (400, 40, 400), (95, 10, 95), (10, 1, 10), (3, 1, 3)]
)
def test_choose_training_when_there_is_a_limit_then_whole_shards_but_the_last(
    most: int, shards: int, rows: int
) -> None:
    chosen = choose_training(SHARDS, most, seed=0)
    assert (len(chosen), sum(chosen.values())) == (shards, rows)
    assert list(chosen) == sorted(chosen)
    assert sorted(chosen.values())[1:] == [10] * (shards - 1)


def test_choose_training_when_the_seed_differs_then_other_shards_and_the_same_for_every_worker() -> None:
    assert choose_training(SHARDS, 100, seed=0) == choose_training(list(SHARDS), 100, seed=0)
    assert choose_training(SHARDS, 100, seed=0) != choose_training(SHARDS, 100, seed=1)


@pytest.mark.parametrize("shards", [1, 3, 16, 40])
def test_example_shards_when_chosen_then_spread_evenly(shards: int) -> None:
    chosen = example_shards(SHARDS[:shards])
    assert sum(chosen.values()) == EXAMPLES
    assert len(chosen) == min(shards, EXAMPLES)
    assert max(chosen.values()) - min(chosen.values()) <= 1
