"""Names of shards: distinct whatever the sources hold, and of each file alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diht_k8s.data.shards.listing import ListedFile
from diht_k8s.data.shards.shard_names import distinct_names
from diht_k8s.data.shards.sources import Shard, training_shards

Layout = Sequence[tuple[str, str]]
"""Source and path of each file."""

words = st.sampled_from(["0", "00", "1", "2", "10", "0-2", "0-1", "a", "a-0", "b", "b-0-2", "-", "x"])
layouts = st.lists(
    st.tuples(
        st.sampled_from(["web", "web-0", "a", "a-b"]),
        st.builds(
            "{}/{}.{}".format,
            st.lists(words, min_size=1, max_size=3).map("/".join),
            words,
            st.sampled_from(["tar", "tar.gz"]),
        ),
    ),
    min_size=1,
    max_size=60,
    unique=True,
)


def wanted(layout: Layout) -> list[tuple[str, str]]:
    return [(f"{source}-{PurePosixPath(path).name.partition('.')[0]}", path) for source, path in layout]


@given(layouts, st.randoms(use_true_random=False))
@example([("s", "x/0-2.tar"), ("s", "a/0.tar"), ("s", "b/0.tar")], random.Random(0))
@example([("a", "b-0.tar"), ("a-b", "0.tar")], random.Random(0))
def test_names_are_distinct_and_do_not_depend_on_the_order(layout: Layout, rng: random.Random) -> None:
    files = wanted(layout)
    names = dict(zip(files, distinct_names(files), strict=True))
    assert len(set(names.values())) == len(files)
    rng.shuffle(files)
    assert dict(zip(files, distinct_names(files), strict=True)) == names


@given(layouts)
def test_a_name_that_no_other_file_wants_is_kept(layout: Layout) -> None:
    files = wanted(layout)
    names = [name for name, _ in files]
    for (name, _), given_name in zip(files, distinct_names(files), strict=True):
        assert (given_name == name) == (names.count(name) == 1)


@given(layouts)
def test_a_further_file_renames_only_those_that_want_its_name(layout: Layout) -> None:
    files = wanted(layout)
    before, after = distinct_names(files[:-1]), distinct_names(files)
    for (name, _), old, new in zip(files[:-1], before, after[:-1], strict=True):
        assert old == new or name == files[-1][0]


def test_a_name_that_looks_like_one_with_a_digest_is_not_taken_away() -> None:
    (first, second) = distinct_names([("s-0", "a/0.tar"), ("s-0", "b/0.tar")])
    files = [("s-0", "a/0.tar"), ("s-0", "b/0.tar"), (first, f"c/{first}.tar")]
    names = distinct_names(files)
    assert names[2] == first
    assert names[0].startswith(first)
    assert names[1].startswith(second)
    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("uris", "plain"),
    [(["a/0.tar", "a/1.tar"], ["0", "1"]), (["a/0.tar", "b/0.tar", "a/1.tar"], ["1"])],
)
def test_shards_that_the_training_names_are_distinct(uris: list[str], plain: list[str]) -> None:
    shards: list[Shard] = training_shards(ListedFile(uri, 1, "1-1") for uri in uris)
    names = [shard.name for shard in shards]
    assert len(set(names)) == len(uris)
    assert [name for name in names if "-" not in name] == plain
