"""Claims: one worker at a time, a dead one's go to others, and clocks need not agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import BEAT_SECONDS, FINAL_STALE_SECONDS, MAX_DEATHS, STALE_SECONDS, Claims
from diht_k8s.runtime.owner import Owner, this_process
from tests.unit.runtime.owners import ended_process


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def worker(folder: Path, index: int, clock: Clock | None = None, *, owner: str = "a run") -> Claims:
    return Claims(Storage(), str(folder), Owner(owner), index, clock=clock or Clock())


def test_claim_is_one_workers_until_it_is_given_up(tmp_path: Path) -> None:
    one, two = worker(tmp_path, 0), worker(tmp_path, 1)
    assert one.take("a")
    assert not two.take("a")
    one.give_up("a")
    assert two.take("a")


def test_claim_that_stands_still_goes_to_who_watched_it(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 1e6  # nobody else's clock
    assert worker(tmp_path, 0).take("a")
    two = worker(tmp_path, 1, clock)
    assert not two.take("a")
    clock.now += STALE_SECONDS - 1
    assert not two.take("a")
    clock.now += 1
    assert two.take("a")


def test_claim_that_is_kept_stays_with_its_owner(tmp_path: Path) -> None:
    clock = Clock()
    one, two = worker(tmp_path, 0, clock), worker(tmp_path, 1, clock)
    assert one.take("a")
    for _ in range(20):
        assert not two.take("a")
        clock.now += BEAT_SECONDS
        one.keep()


def test_keeping_writes_no_more_often_than_needed(tmp_path: Path) -> None:
    clock = Clock()
    one = worker(tmp_path, 0, clock)
    one.take("a")
    before = (tmp_path / "claims/a.json").read_bytes()
    clock.now += BEAT_SECONDS / 2
    one.keep()
    assert (tmp_path / "claims/a.json").read_bytes() == before


def test_claim_of_an_earlier_start_is_taken_at_once(tmp_path: Path) -> None:
    assert worker(tmp_path, 0).take("a")
    assert worker(tmp_path, 0).take("a")


def test_worker_of_another_run_waits_for_a_living_owner_and_takes_over_from_a_dead_one(tmp_path: Path) -> None:
    clock = Clock()
    assert worker(tmp_path, 0).take("a")
    other = worker(tmp_path, 0, clock, owner="another run")
    assert not other.take("a")
    clock.now += STALE_SECONDS
    assert other.take("a")


def test_owner_whose_process_has_ended_is_robbed_at_once_and_was_not_killed_by_the_shard(tmp_path: Path) -> None:
    for _ in range(2 * MAX_DEATHS):
        assert worker(tmp_path, 0, owner=ended_process()).take("a")
    assert not worker(tmp_path, 0, owner=this_process()).took_over
    living = worker(tmp_path, 0, owner=this_process())
    assert living.take("a")
    assert living.took_over
    assert not worker(tmp_path, 0, owner="another run").take("a"), "its process runs"


def test_clear_leaves_the_one_claim(tmp_path: Path) -> None:
    one = worker(tmp_path, 0)
    for name in ("a", "b", "end"):
        assert one.take(name)
    one.clear("end")
    assert Storage().names(f"{tmp_path}/claims") == ["end.json"]
    assert not worker(tmp_path, 1).take("end")


def test_shard_on_which_three_workers_die_ends_the_stage_by_its_name_and_may_be_tried_again(tmp_path: Path) -> None:
    for _ in range(MAX_DEATHS):
        assert worker(tmp_path, 0).take("web-00003")  # and its program is killed
    with pytest.raises(DataError, match="web-00003: 3 workers died on this shard"):
        worker(tmp_path, 0).take("web-00003")
    assert worker(tmp_path, 1).take("web-00003"), "a retry with more memory"


def test_deaths_of_different_workers_add_up_and_a_slow_one_is_not_taken_for_dead(tmp_path: Path) -> None:
    clock = Clock()
    watchers = [worker(tmp_path, index, clock) for index in range(MAX_DEATHS + 1)]
    assert watchers[0].take("a")
    for watcher in watchers[1:-1]:
        assert not watcher.take("a")
        clock.now += STALE_SECONDS
        assert watcher.take("a")
    last = watchers[-1]
    assert not last.take("a")
    clock.now += FINAL_STALE_SECONDS - 1
    assert not last.take("a")
    watchers[0].keep()  # it was only slow
    clock.now += 1
    assert not last.take("a")
    clock.now += STALE_SECONDS
    assert last.take("a")


def test_last_of_the_dead_must_be_silent_for_longer(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(MAX_DEATHS):
        assert worker(tmp_path, 0).take("a")
    other = worker(tmp_path, 1, clock)
    assert not other.take("a")
    clock.now += FINAL_STALE_SECONDS - 1
    assert not other.take("a")
    clock.now += 1
    with pytest.raises(DataError):
        other.take("a")


def test_worker_that_gives_up_has_not_died_and_forgets_none_that_have(tmp_path: Path) -> None:
    for _ in range(5):
        stopped = worker(tmp_path, 0)
        assert stopped.take("a")
        stopped.give_up("a")
    assert worker(tmp_path, 0).take("a")
    assert worker(tmp_path, 0).take("a")  # one has died
    stopped = worker(tmp_path, 0)
    assert stopped.take("a")  # two have
    stopped.give_up("a")
    assert worker(tmp_path, 1).take("a")
    with pytest.raises(DataError):
        worker(tmp_path, 1).take("a")


def test_beats_remember_who_died(tmp_path: Path) -> None:
    clock = Clock()
    for _ in range(2):
        assert worker(tmp_path, 0).take("a")
    third = worker(tmp_path, 0, clock)
    assert third.take("a")
    clock.now += BEAT_SECONDS
    third.keep()
    with pytest.raises(DataError):
        worker(tmp_path, 0).take("a")


def test_deaths_count_for_shards_alone(tmp_path: Path) -> None:
    for _ in range(MAX_DEATHS):
        assert worker(tmp_path, 0).take("a")
    assert worker(tmp_path, 0).take("a", counts_deaths=False)


def test_deaths_on_a_claim_of_several_shards_count_for_the_shard_that_killed(tmp_path: Path) -> None:
    for progress in range(2 * MAX_DEATHS):  # each death on a shard behind the last one
        one = worker(tmp_path, 0)
        assert one.take("group")
        one.work_on(f"shard-{progress}")
    for _ in range(MAX_DEATHS - 1):
        one = worker(tmp_path, 0)
        assert one.take("group")
        one.work_on("shard-9")
    one = worker(tmp_path, 0)
    assert one.take("group")
    one.work_on("shard-9")
    with pytest.raises(DataError, match="shard-9: 3 workers died on this shard"):
        worker(tmp_path, 0).take("group")


def test_a_claim_tells_whether_it_had_another_owner(tmp_path: Path) -> None:
    one = worker(tmp_path, 0)
    assert one.take("a")
    assert not one.took_over
    again = worker(tmp_path, 0)
    assert again.take("a")
    assert again.took_over
    assert again.take("b")
    assert not again.took_over
    again.work_on("shard-1")
    again.give_up("b")
    assert one.take("b")
    assert one.took_over, "shards of the claim may be done"
