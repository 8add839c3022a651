from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.tar_writer import DistinctKeys, fits_tar


def sample(key: str) -> Sample:
    return Sample(key, {"jpg": b""}, "uid", "")


def distinct(keys: list[str]) -> list[str]:
    names = DistinctKeys()
    return [names.named(sample(key)).key for key in keys]


@given(st.lists(st.sampled_from(["a", "b", "a-2", "a-3", "a-2-2", "x/a"]), max_size=12))
@example(["a", "a", "a-2", "a", "a-2", "a-2-2"])
def test_keys_are_distinct_and_change_only_where_they_were_not(keys: list[str]) -> None:
    found = distinct(keys)
    assert len(set(found)) == len(keys)
    assert all(new.startswith(old) for old, new in zip(keys, found, strict=True))
    assert (found == keys) == (len(set(keys)) == len(keys))
    assert distinct(found) == found


@pytest.mark.parametrize("key", ["k" * 96, "é" * 48, "x/" * 77 + "k" * 96, "k" * 94 + "é"])
def test_a_repeat_of_a_key_that_just_fits_a_tar_fits_it(key: str) -> None:
    found = distinct([key] * 12)
    assert len(set(found)) == 12
    assert all(fits_tar(sample(name)) for name in [key, *found])


def test_a_shard_of_one_key_takes_no_longer_than_its_length() -> None:
    assert distinct(["a"] * 20_000)[-1] == "a-20000"
