"""Intervals by resampling: the middle of the draws, whatever the size of a block."""

from __future__ import annotations

import numpy as np
import pytest

from diht_k8s.stages.evaluate import bootstrap
from diht_k8s.stages.evaluate.bootstrap import interval, rate_interval, rate_intervals

HITS, COUNTS = np.random.default_rng(1).random((3, 40)), np.ones(40)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_interval_is_the_middle_95_percent_of_the_draws() -> None:
    assert tuple(interval(np.random.default_rng(0).permutation(np.arange(1001.0)))) == pytest.approx((25, 975))


@pytest.mark.parametrize("values", [1, 40, 280, 1 << 22], ids=["less than a draw", "one draw", "seven draws", "all"])
def test_draws_when_made_in_blocks_are_the_same_and_as_many(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    whole, drawn = rate_intervals(HITS, COUNTS, rng(), 200), list[int]()
    monkeypatch.setattr(bootstrap, "_BLOCK_VALUES", values)
    monkeypatch.setattr(bootstrap, "interval", lambda values_R: drawn.append(len(values_R)) or interval(values_R))
    assert np.array(rate_intervals(HITS, COUNTS, rng(), 200)) == pytest.approx(np.array(whole), abs=1e-12)
    assert drawn == [200] * 3


def test_draws_when_nobody_says_how_many_are_a_thousand() -> None:
    assert rate_interval(HITS[0], COUNTS, rng()) == rate_interval(HITS[0], COUNTS, rng(), 1000)


def test_intervals_when_hits_are_of_several_kinds_are_those_of_each_alone() -> None:
    together = rate_intervals(HITS, COUNTS, rng())
    assert together == [rate_interval(hits_G, COUNTS, rng()) for hits_G in HITS]


def test_interval_of_few_groups_is_that_of_as_many_draws_as_there_are_groups() -> None:
    hits = np.repeat([0.0, 1.0], 10)
    found = rate_interval(hits, np.ones(20), np.random.default_rng(0), resamples=20_000)
    assert tuple(found) == pytest.approx((6 / 20, 14 / 20))  # 2.5 and 97.5 % of 20 tosses of a coin
