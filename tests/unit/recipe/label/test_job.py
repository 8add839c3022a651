"""Which images train the heads, and waiting for other workers."""

from __future__ import annotations

from itertools import count

import pytest

from diht_k8s.api.errors import RetryableError, StopRequested
from diht_k8s.recipe.label.job import PATIENCE_SECONDS, choose_training, wait_until
from diht_k8s.recipe.label.report import EXAMPLES, example_shards
from diht_k8s.recipe.shards.sources import Shard

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


def test_wait_when_others_make_progress_then_goes_on_until_done() -> None:
    looks = iter([(False, 0), (False, 1), (False, 2), (True, 3)])
    hours = count(0, PATIENCE_SECONDS * 0.9)
    wait_until(lambda: next(looks), "x", lambda: None, clock=lambda: next(hours), sleep=lambda seconds: None)
    assert next(looks, None) is None


def test_wait_when_nothing_changes_then_gives_up_and_says_what_for() -> None:
    seconds = count(0, PATIENCE_SECONDS / 3)
    with pytest.raises(RetryableError, match="waited 6 h without progress for the heads"):
        wait_until(lambda: (False, 0), "the heads", lambda: None, clock=lambda: next(seconds), sleep=lambda s: None)


def test_wait_when_a_stop_is_requested_then_stops() -> None:
    def stop() -> None:
        raise StopRequested("stopped")

    with pytest.raises(StopRequested):
        wait_until(lambda: (False, 0), "x", stop, sleep=lambda seconds: None)


@pytest.mark.parametrize("shards", [1, 3, 16, 40])
def test_example_shards_when_chosen_then_spread_evenly(shards: int) -> None:
    chosen = example_shards(SHARDS[:shards])
    assert sum(chosen.values()) == EXAMPLES
    assert len(chosen) == min(shards, EXAMPLES)
    assert max(chosen.values()) - min(chosen.values()) <= 1
