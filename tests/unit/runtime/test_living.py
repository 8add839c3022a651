"""Who is at work: what changes while it is watched lives, what stands still for long does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import StopRequested
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import STALE_SECONDS
from diht_k8s.runtime.living import LOOK_SECONDS, living
from diht_k8s.runtime.signals import StopFlag


class Watched:
    """Stage folders, and a clock that calls `then` whenever time passes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now, self.slept = folder, 0.0, 0.0
        self.then: Callable[[], object] = lambda: None

    def write(self, place: str, **fields: Any) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"owner": "o", "beat": "1", **fields}))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds
        self.then()

    def living(self, *names: str, dead: tuple[str, ...] = (), stop: StopFlag | None = None) -> dict[str, str]:
        found = living(
            Storage(),
            [f"{self.folder}/{name}" for name in names],
            stop or StopFlag(),
            is_dead=lambda owner: owner in dead,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        start = f"{self.folder}/"
        return {folder.removeprefix(start): claim.removeprefix(start) for folder, claim in found.items()}


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        ("a/report.json", {}),
        ("a/claims/s.json", {"worker": None, "deaths": 1}),
        ("a/claims/time of worker 00000.json", {"seconds": 3}),
    ],
    ids=["no claims", "a released claim", "the times of a worker"],
)
def test_where_nobody_holds_anything_nothing_is_watched(watched: Watched, place: str, fields: dict[str, Any]) -> None:
    watched.write(place, **fields)
    assert watched.living("a", "absent") == {}
    assert watched.slept == 0


def test_claim_on_the_end_of_a_complete_folder_is_nobodys(watched: Watched) -> None:
    watched.write("a/claims/end of the stage.json", worker=0)
    watched.write("a/COMMITTED.json")
    assert (watched.living("a"), watched.slept) == ({}, 0)


@pytest.mark.parametrize("place", ["a/claims/s.json", "a/lease.json"])
def test_what_is_rewritten_is_alive_the_next_time_it_is_read(watched: Watched, place: str) -> None:
    watched.write(place, worker=0)
    watched.then = lambda: watched.write(place, worker=0, beat=str(watched.now))
    assert watched.living("a") == {"a": place}
    assert watched.slept == LOOK_SECONDS


def test_claim_that_comes_or_goes_meanwhile_shows_a_living_worker(watched: Watched) -> None:
    watched.write("a/claims/s.json", worker=0)
    watched.write("b/claims/s.json", worker=0)
    watched.then = lambda: (
        watched.write("a/claims/next.json", worker=0),
        (watched.folder / "b/claims/s.json").unlink(missing_ok=True),
    )
    assert watched.living("a", "b") == {"a": "a/claims/next.json", "b": "b/claims/s.json"}


def test_several_folders_are_watched_at_once_until_the_last_has_stood_still(
    watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c"):
        watched.write(f"{name}/claims/s.json", worker=0)
    watched.then = lambda: watched.write("b/claims/s.json", worker=0, beat="2") if watched.now > 100 else None
    assert watched.living("a", "b", "c") == {"b": "b/claims/s.json"}
    assert watched.slept == STALE_SECONDS
    said = capsys.readouterr().err
    assert f"{watched.folder}/a and 2 more may be in use" in said
    assert "watching for up to 120 s" in said


def test_owner_known_to_be_dead_is_not_watched(watched: Watched) -> None:
    watched.write("a/claims/s.json", worker=0, owner="gone")
    assert (watched.living("a", dead=("gone",)), watched.slept) == ({}, 0)
    watched.write("a/claims/t.json", worker=1, owner="who knows")
    assert (watched.living("a", dead=("gone",)), watched.slept) == ({}, STALE_SECONDS)


def test_owner_that_dies_meanwhile_ends_the_watch(watched: Watched) -> None:
    watched.write("a/lease.json", owner="here")
    dead: list[str] = []
    watched.then = lambda: dead.append("here")
    found = living(
        Storage(),
        [f"{watched.folder}/a"],
        StopFlag(),
        is_dead=lambda owner: owner in dead,
        clock=lambda: watched.now,
        sleep=watched.sleep,
    )
    assert (found, watched.slept) == ({}, LOOK_SECONDS)


def test_damaged_claim_is_watched_like_any_other(watched: Watched) -> None:
    watched.write("a/claims/s.json")
    (watched.folder / "a/claims/s.json").write_text("{")
    assert (watched.living("a"), watched.slept) == ({}, STALE_SECONDS)


def test_watching_can_be_stopped(watched: Watched) -> None:
    watched.write("a/lease.json")
    stop = StopFlag()
    watched.then = lambda: setattr(stop, "requested", True)
    with pytest.raises(StopRequested, match="nothing has been changed"):
        watched.living("a", stop=stop)
