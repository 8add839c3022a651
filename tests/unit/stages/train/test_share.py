"""Rows of a batch by rank: all pairs once, in order, the surplus behind them, for any number of ranks and readers."""

from __future__ import annotations

import itertools

import pytest

from diht_k8s.stages.train.data.batch import BatchShare


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
