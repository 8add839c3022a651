"""Attempts that were replaced and still run: each write is held back until their successor has begun, or committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from diht_k8s.api.errors import RetryableError, StopRequested
from diht_k8s.api.layout import Layout
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import fencing
from diht_k8s.stages.train.checkpoint.checkpoint import (
    MARKER,
    Cursor,
    CursorOrder,
    commit,
    newest,
    remove_unfinished,
    write_missing_marker,
    write_part,
)
from diht_k8s.stages.train.checkpoint.fencing import Fence
from tests.folders import flat

STORAGE = Storage()


class Held(Storage):
    """Storage that waits before one kind of write, or after a check of the fence, until it may go on."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.waits, self.may_go_on = kind, threading.Event(), threading.Event()

    def _hold(self, kind: str) -> None:
        if kind == self.kind:
            self.waits.set()
            assert self.may_go_on.wait(30)

    def create(self, uri: str, data: bytes) -> bool:
        if b'"commit":{' in data:
            self._hold("entry")
        if uri.endswith(MARKER):
            self._hold("marker")
        return super().create(uri, data)

    def names(self, folder: str) -> list[str]:
        found = super().names(folder)
        if folder.endswith("/epochs"):
            self._hold("look")
        return found

    def remove_files(self, folder: str, names: Sequence[str]) -> None:
        self._hold("removal")
        super().remove_files(folder, names)


class LostAnswers(Storage):
    """Storage whose next create succeeds and is repeated by the client, which then finds the object; or fails."""

    lose: Callable[[], bool] | None = None

    def create(self, uri: str, data: bytes) -> bool:
        lose, self.lose = self.lose, None
        created = super().create(uri, data)
        return created if lose is None else lose()


ORDER = CursorOrder(lanes=2, block=64, window=64, epoch=80)


def cursor(step: int) -> Cursor:
    return Cursor(step=step, position=step * 16, order=ORDER, config_sha256="ours", seconds=1.0)


def save(storage: Storage, layout: Layout, fence: Fence, step: int, *, keep: int = 1) -> None:
    part = {"weight": torch.full((2,), 100.0 * fence.attempt + step)}
    written = write_part(storage, layout.checkpoints, cursor(step), part, rank=0, attempt=fence.attempt)
    commit(storage, layout.checkpoints, cursor(step), [written], keep=keep, fence=fence)


def newest_weight(layout: Layout) -> float | None:
    saved = newest(STORAGE, layout.checkpoints, "ours")
    return None if saved is None else saved.state["weight"][0].item()


def begin(layout: Layout) -> Fence:
    """The successor, as it begins: what its predecessor has committed is complete."""
    fence = Fence(STORAGE, layout)
    write_missing_marker(STORAGE, layout.checkpoints, fence)
    return fence


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return flat(tmp_path)


# What the zombie waits for; the newest checkpoint that its successor begins with; and after both are done, where the
# successor has trained on from there and committed step 30 (attempt 2) or has not come so far (None).
HELD = [
    ("entry", 110.0, 230.0),
    ("entry", 110.0, None),
    ("marker", 120.0, 230.0),
    ("marker", 120.0, None),
    ("removal", 120.0, 230.0),
    ("removal", 120.0, None),
]


@pytest.mark.parametrize(("held", "resumed", "committed"), HELD)
def test_zombie_when_its_write_is_held_back_until_its_successor_has_begun_then_it_changes_nothing(
    layout: Layout, held: str, resumed: float, committed: float | None
) -> None:
    storage = Held("")
    zombie = Fence(storage, layout)
    save(storage, layout, zombie, 10)
    storage.kind = held
    ends: list[str] = []

    def go_on() -> None:
        try:
            save(storage, layout, zombie, 20)
            save(storage, layout, zombie, 25)
        except StopRequested as error:
            ends.append(str(error))

    thread = threading.Thread(target=go_on)
    thread.start()
    assert storage.waits.wait(30)
    successor = begin(layout)
    assert newest_weight(layout) == resumed
    if committed is not None:
        save(STORAGE, layout, successor, 30)
    storage.may_go_on.set()
    thread.join(30)
    assert [end.startswith("attempt 2 has taken over") for end in ends] == [True]
    assert newest_weight(layout) == (committed or resumed)
    save(STORAGE, layout, successor, 40)
    assert newest_weight(layout) == 240.0


def test_zombie_when_it_removes_late_then_the_same_steps_of_its_successor_stay(layout: Layout) -> None:
    """Parts of step 20 were left by an attempt before both; the successor commits that step meanwhile."""
    dead = Fence(STORAGE, layout)
    write_part(STORAGE, layout.checkpoints, cursor(20), {"weight": torch.zeros(2)}, rank=0, attempt=dead.attempt)
    storage = Held("")
    zombie = Fence(storage, layout)
    storage.kind = "look"
    thread = threading.Thread(target=lambda: save(storage, layout, zombie, 10))
    thread.start()
    assert storage.waits.wait(30)
    save(STORAGE, layout, begin(layout), 20)
    storage.may_go_on.set()
    thread.join(30)
    assert newest_weight(layout) == 320.0


def test_unfinished_checkpoint_when_a_successor_has_begun_then_its_parts_are_left_to_that(layout: Layout) -> None:
    first = Fence(STORAGE, layout)
    write_part(STORAGE, layout.checkpoints, cursor(10), {"weight": torch.zeros(2)}, rank=0, attempt=1)
    begin(layout)
    with pytest.raises(StopRequested):
        remove_unfinished(STORAGE, layout.checkpoints, cursor(10), fence=first)
    assert STORAGE.folders(layout.checkpoints) == ["step-000000010"]


def test_attempt_when_a_newer_one_has_begun_before_it_takes_its_place_then_it_stops(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, between = Fence._claimed, [lambda: Fence(STORAGE, layout)]

    def slow(self: Fence) -> int:
        number = claimed(self)
        if between:
            between.pop()()
        return number

    monkeypatch.setattr(Fence, "_claimed", slow)
    with pytest.raises(StopRequested, match=r"attempt 2 has taken over .*/train, this one \(1\) stops"):
        Fence(STORAGE, layout)


def test_commit_when_the_answer_of_its_write_was_lost_then_it_counts_and_the_next_one_too(layout: Layout) -> None:
    storage = LostAnswers()
    fence = Fence(storage, layout)
    storage.lose = lambda: False  # the client tried again, and found its own object
    fence.commit("step-000000010", {"parts": []})

    def failed() -> bool:
        raise RetryableError("no answer")

    storage.lose = failed
    with pytest.raises(RetryableError):
        fence.commit("step-000000020", {"parts": []})
    fence.commit("step-000000030", {"parts": []})
    left = Fence(STORAGE, layout).left
    assert left is not None
    assert left.step == "step-000000030"


def test_left_marker_when_its_parts_were_removed_then_it_is_not_written(layout: Layout) -> None:
    save(STORAGE, layout, begin(layout), 10)
    written = write_part(STORAGE, layout.checkpoints, cursor(20), {"weight": torch.zeros(2)}, rank=0, attempt=1)
    second = begin(layout)
    second.commit("step-000000020", {"cursor": cursor(20).model_dump(), "parts": [written.model_dump()]})
    remove_unfinished(STORAGE, layout.checkpoints, cursor(20), fence=second)
    begin(layout)
    assert newest_weight(layout) == 110.0


def test_places_when_there_are_many_then_old_ones_go_and_a_zombie_that_takes_one_of_those_commits_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "KEPT_ENTRIES", 2)
    zombie, successor = Fence(STORAGE, layout), Fence(STORAGE, layout)
    for step in range(4):
        successor.commit(f"step-{step:09d}", {"parts": []})
    successor.prune()
    commits = f"{layout.checkpoints.rpartition('/')[0]}/commits"
    assert STORAGE.names(commits) == ["000005", "000006"]
    with pytest.raises(StopRequested):
        zombie.commit("step-000000009", {"parts": []})
    successor.commit("step-000000010", {"parts": []})


def test_output_of_an_earlier_version_without_places_then_attempts_go_on_counting(layout: Layout) -> None:
    STORAGE.write_bytes(f"{layout.checkpoints.rpartition('/')[0]}/epochs/000007", b"taken\n")
    fence = begin(layout)
    assert fence.attempt == 8
    fence.require_newest()
