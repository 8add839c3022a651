"""Memory of gradients while they are summed: the estimate's arithmetic against cases worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diht_k8s.stages.train.estimate.reduction import (
    Copies,
    Moment,
    bucketed_peak,
    overlapped_copies,
    own_gradients,
)

JOINED, VIEWS = Copies(full=1.0, alone=1.0), Copies(full=1.0, alone=0.0)
TWO_FULL = [Moment(100, 0), Moment(50, 40), Moment(10, 80)]
LARGE_FIRST = [Moment(0, 0), Moment(20, 100), Moment(10, 110)]


@pytest.mark.parametrize(
    ("moments", "copies", "partition", "accumulated", "expected"),
    [
        pytest.param(TWO_FULL, JOINED, 30, 0, (100, 0, 0), id="before any gradient"),
        pytest.param(TWO_FULL, JOINED, 70, 0, (10, 70, 40), id="a full bucket leaves the partition"),
        pytest.param(TWO_FULL[:2], VIEWS, 0, 0, (100, 0, 0), id="a last bucket that is not full"),
        pytest.param(LARGE_FIRST, JOINED, 30, 0, (10, 110, 100), id="a large one waits and is copied"),
        pytest.param(LARGE_FIRST, VIEWS, 30, 0, (10, 140, 0), id="a large one waits and is not copied"),
        pytest.param([Moment(5, 0), Moment(5, 40), Moment(5, 80)], JOINED, 60, 80, (5, 60, 40), id="micro-batches"),
    ],
)
def test_bucketed_peak_when_buckets_hold_40_bytes_then_the_worst_moment(
    moments: list[Moment], copies: Copies, partition: int, accumulated: int, expected: tuple[int, int, int]
) -> None:
    peak = bucketed_peak(moments, bucket=40, partition=partition, copies=copies, accumulated=accumulated)
    assert (peak.activations, peak.gradients, peak.copies) == expected


@pytest.mark.parametrize(
    ("sizes", "lowered", "expected"),
    [
        pytest.param([4, 4, 4, 10], False, 4 * (10 + 8), id="the large one travels alone and a full bucket fills"),
        pytest.param([4, 4, 4, 10], True, 2 * 10 + 4 * 8, id="bf16, parts and joined"),
        pytest.param([4], False, 16, id="a single bucket"),
        pytest.param([], False, 0, id="nothing is trained"),
    ],
)
def test_overlapped_copies_when_buckets_hold_8_then_the_largest_two_in_turn(
    sizes: Sequence[int], lowered: bool, expected: int
) -> None:
    assert overlapped_copies(sizes, elements=8, lowered=lowered) == expected


@pytest.mark.parametrize(
    ("groups", "ranks", "expected"),
    [
        ([(4, 4)], 2, 4),
        pytest.param([(2, 6)], 2, 8, id="the first rank keeps all of what it shares"),
        pytest.param([(2, 6), (1, 1)], 2, 9, id="groups are divided one by one"),
        pytest.param([(2, 6)], 1, 8, id="one rank"),
        pytest.param([(1,)], 4, 1, id="more ranks than elements"),
    ],
)
def test_own_gradients_when_divided_then_whole_ones_count(
    groups: list[tuple[int, ...]], ranks: int, expected: int
) -> None:
    assert own_gradients(groups, ranks) == expected
