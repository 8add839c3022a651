"""Fuzzed stories of a run: each ends Complete, or Failed for a cause that was injected; never do two attempts run at
once.
"""

from __future__ import annotations

from collections import Counter

import pytest

from diht_k8s.pipeline.run_status import RunState
from tests.fuzz.stories import Story

FEW, MANY, PARTS = 16, 10_000, 10
ELASTIC = range(2, 102, 4)
"""Stories of a training that may shrink."""
QUEUED = range(6, 246, 16)
"""Of those, some that have quota for the fewest nodes and for the others in two Workloads."""
IN_PLACE = range(4, 124, 8)
"""Stories of one that shrinks and grows in its living pods."""


def broken_in(seeds: range) -> tuple[dict[int, list[str]], Counter[str], Counter[str]]:
    """Broken rules by seed, the ends, and how many stories had each fault."""
    broken: dict[int, list[str]] = {}
    ends, faults = Counter[str](), Counter[str]()
    for seed in seeds:
        ended = Story(seed).play()
        ends[str(ended.reason or ended.state)] += 1
        faults.update(ended.faults.keys())
        if ended.broken:
            broken[seed] = ended.broken[:3]
    return broken, ends, faults


def test_run_ends_well_or_for_a_cause_and_never_has_two_attempts() -> None:
    broken, ends, faults = broken_in(range(FEW))
    assert broken == {}
    assert ends[RunState.COMPLETE] > FEW / 4
    assert {"crash", "disrupted", "node", "job deleted", "dead", "clock", "suspend", "another run"} <= faults.keys()


def test_training_that_may_shrink_ends_for_a_cause_and_never_has_two_gangs() -> None:
    broken, ends, faults = broken_in(ELASTIC)
    assert broken == {}
    assert ends[RunState.COMPLETE] > len(ELASTIC) / 4
    assert faults["shrunk"] >= 3
    assert faults["faulty"] >= 3
    assert faults["lowered"] >= 1


def test_training_with_quota_for_extra_nodes_never_has_more_than_that_and_leaves_none() -> None:
    broken, ends, faults = broken_in(QUEUED)
    assert broken == {}
    assert ends[RunState.COMPLETE] > len(QUEUED) / 4
    assert faults["resized for quota"] >= 3
    assert faults["grown"] >= 1


def test_training_that_resizes_in_its_pods_ends_for_a_cause_and_never_has_two_gangs() -> None:
    broken, ends, faults = broken_in(IN_PLACE)
    assert broken == {}
    assert ends[RunState.COMPLETE] > len(IN_PLACE) / 4
    assert faults["shrunk in place"] >= 3
    assert faults["grown in place"] >= 3


@pytest.mark.parametrize("seed", [5925, 6593], ids=["Job that no operator saw is orphaned", "all workers are lost"])
def test_story_in_which_two_attempts_ran_at_once(seed: int) -> None:
    assert Story(seed).play().broken == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_run_ends_well_or_for_a_cause_in_many_stories(part: int) -> None:
    first = FEW + part * MANY // PARTS
    broken, ends, _ = broken_in(range(first, first + MANY // PARTS))
    print(dict(ends))
    assert broken == {}
