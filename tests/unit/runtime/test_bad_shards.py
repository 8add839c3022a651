from __future__ import annotations

from collections.abc import Iterator

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.samples import DamagedShardError, Sample, make_sample
from diht_k8s.data.shards.tar_reader import TarDamageError
from diht_k8s.runtime.bad_shards import BadShards, Damage, allowed, damage_summary


def damaged(samples: int) -> Iterator[Sample]:
    for number in range(samples):
        yield make_sample(str(number), {"txt": b"a dog"})
    raise DamagedShardError.of("s.tar", TarDamageError("the end mark is missing", 1024), samples, "k")


@pytest.mark.parametrize(
    ("limit", "shards", "expected"),
    [(0, 100, 0), (3, 100, 3), ("1%", 99, 0), ("1%", 250, 2), ("0.5%", 1000, 5), ("100%", 7, 7)],
)
def test_limit_is_a_count_or_a_percentage_of_all_shards(limit: int | str, shards: int, expected: int) -> None:
    assert allowed(limit, shards) == expected


def test_damaged_shards_within_the_limit_are_used_up_to_the_damage_and_reported() -> None:
    shards = BadShards("50%", 4)
    assert [len(list(shards.salvage(name, damaged(count)))) for name, count in (("b", 2), ("a", 0))] == [2, 0]
    assert shards.found["b"] == Damage("the end mark is missing", 1024, 2)
    assert [item["name"] for item in damage_summary(shards.found)["damaged_shards"]] == ["a", "b"]
    with pytest.raises(DataError, match=r"maxBadShards \(50%; damaged so far: 3 of 4 shards\)"):
        list(shards.salvage("c", damaged(1)))


def test_a_damaged_shard_that_is_read_again_counts_once() -> None:
    shards = BadShards(1, 4)
    for _ in range(3):
        assert len(list(shards.salvage("a", damaged(2)))) == 2


def test_damaged_shards_that_others_found_count_towards_the_limit() -> None:
    shards = BadShards(1, 4)
    shards.add_all({"a": Damage("cut", 512, 1)})
    with pytest.raises(DataError, match=r"b is damaged after 3 samples \(cut, at byte 0\).*maxBadShards \(1;"):
        shards.add("b", Damage("cut", 0, 3))


def test_nothing_is_listed_where_no_shard_is_damaged() -> None:
    assert damage_summary({}) == {}


def test_first_damaged_shard_stops_by_default_and_the_field_is_named() -> None:
    with pytest.raises(DataError, match=r"s\.tar is damaged after 5 samples .*or raise spec\.data\.maxBadShards \(0;"):
        list(BadShards(0, 100_000).salvage("s", damaged(5)))
