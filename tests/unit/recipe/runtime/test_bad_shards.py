from __future__ import annotations

from collections.abc import Iterator

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.runtime.bad_shards import BadShards, Damage, allowed
from diht_k8s.recipe.shards.samples import DamagedShardError, Sample, make_sample
from diht_k8s.recipe.shards.tar_reader import TarDamageError


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
    found, shards = list[Damage](), BadShards("50%", 4)
    assert [len(list(shards.salvage(damaged(count), found.append))) for count in (2, 0)] == [2, 0]
    assert found == [Damage("the end mark is missing", 1024, 2), Damage("the end mark is missing", 1024, 0)]
    with pytest.raises(DataError, match=r"maxBadShards \(50%; damaged so far: 3 of 4 shards\)"):
        list(shards.salvage(damaged(1), found.append))


def test_first_damaged_shard_stops_by_default_and_the_field_is_named() -> None:
    with pytest.raises(DataError, match=r"s\.tar is damaged after 5 samples .*or raise spec\.data\.maxBadShards \(0;"):
        list(BadShards(0, 100_000).salvage(damaged(5), print))
