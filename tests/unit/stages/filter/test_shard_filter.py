"""Batches of samples: limited by number for the parser and by bytes for memory."""

from __future__ import annotations

import pytest

from diht_k8s.data.shards.samples import Sample
from diht_k8s.stages.filter import shard_filter


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 1, 1, 1], [[1, 1, 1], [1]]),
        ([1, 1, 1], [[1, 1, 1]]),
        ([6, 6, 1], [[6, 6], [1]]),
        ([99, 1, 1], [[99], [1, 1]]),
    ],
    ids=["none", "the rest", "a whole number", "by bytes", "one that is too large alone"],
)
def test_batches_end_by_number_or_by_bytes(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], expected: list[list[int]]
) -> None:
    monkeypatch.setattr(shard_filter, "BATCH_BYTES", 10)
    samples = [Sample("k", {"png": b"x" * (size - 1), "txt": b"y"}, "u", "a dog") for size in sizes]
    found = [
        [sum(map(len, sample.members.values())) for sample in batch] for batch in shard_filter.batches_of(samples, 3)
    ]
    assert found == expected
