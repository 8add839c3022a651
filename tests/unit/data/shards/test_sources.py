"""The source list: made once, read by all others, made again when the sources have changed."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.shards import sources
from diht_k8s.data.shards.listing import ListedFile, identity_of
from diht_k8s.data.shards.sources import (
    Shard,
    current_sources,
    distinct_names,
    known_sources,
    list_uri,
    training_shards,
)
from diht_k8s.data.shards.storage import Storage


class Counting(Storage):
    """Counts the listings of this process."""

    def __init__(self, *, first: bool = True) -> None:
        super().__init__()
        self.first = first
        self.listings = 0

    def list_sources(self, groups: Sequence[Sequence[str]]) -> list[list[ListedFile]]:
        self.listings += 1
        return super().list_sources(groups)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    monkeypatch.setattr(sources, "FEW", 3)
    (tmp_path / "data").mkdir()
    for number in range(6):
        (tmp_path / "data" / f"{number}.tar").write_bytes(bytes(number))
    return [[f"{tmp_path}/data/{{0..2}}.tar"], [f"{tmp_path}/data/3.tar", f"{tmp_path}/data/[45].tar"]]


def test_the_first_worker_lists_and_the_others_read(tmp_path: Path, groups: list[list[str]]) -> None:
    out, first, other = str(tmp_path / "out"), Counting(), Counting(first=False)
    found = current_sources(first, out, groups)
    assert [[each.size for each in group] for group in found] == [[0, 1, 2], [3, 4, 5]]
    assert found[1][0].identity == first.identity(f"{tmp_path}/data/3.tar")
    assert current_sources(other, out, groups) == known_sources(other, out, groups) == found
    assert (first.listings, other.listings) == (1, 0)


def test_a_shard_that_changed_shows_at_the_next_start_of_the_first_worker(
    tmp_path: Path, groups: list[list[str]]
) -> None:
    out = str(tmp_path / "out")
    before = current_sources(Storage(), out, groups)
    (tmp_path / "data" / "1.tar").write_bytes(b"other")
    os.utime(tmp_path / "data" / "1.tar", ns=(1, 1))
    assert known_sources(Storage(), out, groups) == before
    after = current_sources(Storage(), out, groups)
    assert [new == old for new, old in zip(after[0], before[0], strict=True)] == [True, False, True]
    assert current_sources(Counting(first=False), out, groups) == after


def test_a_worker_without_a_list_makes_it_once_and_leaves_no_claim(tmp_path: Path, groups: list[list[str]]) -> None:
    out, one, two = str(tmp_path / "out"), Counting(first=False), Counting(first=False)
    assert current_sources(one, out, groups) == current_sources(two, out, groups)
    assert (one.listings, two.listings) == (1, 0)
    assert os.listdir(tmp_path / "out" / "sources") == [list_uri(out, groups).rpartition("/")[2]]


def test_a_worker_waits_for_the_list_that_another_one_makes(tmp_path: Path, groups: list[list[str]]) -> None:
    out, other, pauses = str(tmp_path / "out"), Counting(first=False), list[float]()
    Storage().create(f"{list_uri(out, groups)}.claim", b"{}")

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            current_sources(Storage(), out, groups)

    assert current_sources(other, out, groups, sleep=sleep) == known_sources(Storage(), out, groups)
    assert (len(pauses), other.listings) == (3, 0)


def test_a_list_whose_maker_died_is_made_by_who_waits(tmp_path: Path, groups: list[list[str]]) -> None:
    out, other, pauses = str(tmp_path / "out"), Counting(first=False), list[float]()
    Storage().create(f"{list_uri(out, groups)}.claim", b"{}")
    current_sources(other, out, groups, sleep=pauses.append)
    assert (sum(pauses), other.listings) == (sources.WAIT_SECONDS, 1)


def test_list_of_unchanged_sources_is_not_written_again(tmp_path: Path, groups: list[list[str]]) -> None:
    out = str(tmp_path / "out")
    current_sources(Storage(), out, groups)
    written = os.stat(list_uri(out, groups))
    current_sources(Storage(), out, groups)
    assert os.stat(list_uri(out, groups)) == written


def test_the_same_patterns_in_other_sources_have_a_list_of_their_own(tmp_path: Path, groups: list[list[str]]) -> None:
    out, together = str(tmp_path / "out"), [[*groups[0], *groups[1]]]
    for each in (groups, together):
        current_sources(Storage(), out, each)
    found = [[len(group) for group in known_sources(Storage(), out, each)] for each in (groups, together)]
    assert found == [[3, 3], [6]]


def test_few_sources_are_listed_by_everyone_and_leave_no_file(tmp_path: Path, groups: list[list[str]]) -> None:
    out = tmp_path / "out"
    current_sources(Storage(), str(out), groups[:1])
    assert not out.exists()


def test_a_pattern_that_matches_nothing_is_refused_with_and_without_a_list(
    tmp_path: Path, groups: list[list[str]]
) -> None:
    for storage in (Counting(), Counting(first=False)):
        with pytest.raises(UserError, match=r"no shard matches .*9\.tar"):
            current_sources(storage, str(tmp_path / "out"), [*groups, [f"{tmp_path}/data/9.tar"]])


@pytest.mark.parametrize("damage", ["table", "row"])
def test_a_damaged_list_is_an_error_that_says_what_to_do(tmp_path: Path, groups: list[list[str]], damage: str) -> None:
    out = str(tmp_path / "out")
    current_sources(Storage(), out, groups)
    if damage == "table":
        Path(list_uri(out, groups)).write_bytes(b"PAR1")
    else:
        other = [[*groups[0], f"{tmp_path}/data/3.tar"]]
        current_sources(Storage(), out, other)
        table, _ = sources.read_table(Storage(), list_uri(out, other))
        header = {"schema_version": 1, "sha256": "0" * 64}
        sources.write_table(Storage(), list_uri(out, groups), table, header)
    with pytest.raises(DataError, match=r"remove it and (start|run)"):
        known_sources(Storage(), out, groups)


@pytest.mark.parametrize("info", [{"size": 3}, {"size": 3, "ETag": ""}, {"size": 3, "ETag": None}])
def test_an_object_without_etag_is_refused_by_name(info: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"no ETag for bucket/0\.tar"):
        identity_of(info, "bucket/0.tar")


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
