"""A lease is one holder's, a dead one's goes to who watched it, and clocks need not agree."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.data.lease import BEAT_SECONDS, LOOK_SECONDS, STALE_SECONDS, WorkLease, this_process
from diht_k8s.data.shards.storage import Storage
from tests.unit.data.owners import ended_process


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def lease(folder: Path, owner: str, clock: Clock | None = None, **mark: Any) -> WorkLease:
    return WorkLease(Storage(), f"{folder}/lease.json", {"owner": owner, **mark}, clock=clock or Clock())


def test_lease_is_one_holders_until_it_is_released(tmp_path: Path) -> None:
    one, two = lease(tmp_path, "one"), lease(tmp_path, "two")
    assert one.take()
    assert not two.take()
    one.release()
    assert two.take()


def test_lease_that_stands_still_goes_to_who_watched_it_and_one_that_is_kept_does_not(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 1e6  # nobody else's clock
    one, two = lease(tmp_path, "one", clock), lease(tmp_path, "two", clock)
    assert one.take()
    for _ in range(20):
        assert not two.take()
        clock.now += BEAT_SECONDS
        one.keep()
    assert not two.take()
    clock.now += STALE_SECONDS - 1
    assert not two.take()
    clock.now += 1
    assert two.take()


def test_keeping_writes_no_more_often_than_needed(tmp_path: Path) -> None:
    clock = Clock()
    one = lease(tmp_path, "one", clock)
    one.take()
    before = (tmp_path / "lease.json").read_bytes()
    clock.now += BEAT_SECONDS / 2
    one.keep()
    assert (tmp_path / "lease.json").read_bytes() == before


@pytest.mark.parametrize("content", [{"notes": 1}, None], ids=["released with notes", "removed meanwhile"])
def test_lease_of_nobody_is_taken_at_once(
    tmp_path: Path, content: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, create = tmp_path / "lease.json", Storage.create
    path.write_text(json.dumps(content))

    def created(self: Storage, uri: str, data: bytes) -> bool:
        done = create(self, uri, data)
        if content is None and not done:
            path.unlink()
        return done

    monkeypatch.setattr(Storage, "create", created)
    assert lease(tmp_path, "one").take()


@pytest.mark.parametrize(
    ("holder", "waited"),
    [("stands still", STALE_SECONDS), (ended_process(), 0), ("", STALE_SECONDS)],
    ids=["unknown", "a process that has ended", "damaged"],
)
def test_dead_holder_is_robbed_and_cannot_take_its_lease_back(tmp_path: Path, holder: str, waited: float) -> None:
    clock, zombie = Clock(), lease(tmp_path, holder)
    zombie.take()
    if not holder:
        (tmp_path / "lease.json").write_text("{")
    assert lease(tmp_path, "two", clock).watch(lambda: None, clock.sleep)
    assert clock.now == waited
    before = (tmp_path / "lease.json").read_bytes()
    zombie._clock.now += BEAT_SECONDS  # type: ignore[attr-defined]
    zombie.keep()
    zombie.release()
    assert (tmp_path / "lease.json").read_bytes() == before


def test_holder_whose_process_runs_or_that_beats_is_known_to_live(tmp_path: Path) -> None:
    clock, holder = Clock(), lease(tmp_path, this_process())
    holder.take()
    assert not lease(tmp_path, "two", clock).watch(lambda: None, clock.sleep)
    assert clock.now == 0
    (tmp_path / "lease.json").unlink()
    other = lease(tmp_path, "of another machine")
    other.take()
    assert not lease(tmp_path, "two", clock).watch(other.write, clock.sleep)
    assert clock.now == LOOK_SECONDS
    assert str(os.getpid()) in this_process()


def test_next_start_of_a_holder_goes_on_at_once_and_its_zombie_leaves_the_lease_alone(tmp_path: Path) -> None:
    zombie = lease(tmp_path, "one", worker=0)
    assert zombie.take()
    assert not lease(tmp_path, "one", worker=1).take()
    assert lease(tmp_path, "one", worker=0).take()
    zombie.release()
    assert (tmp_path / "lease.json").exists()
