from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from diht_k8s.api.errors import DataError, RetryableError, StopRequested
from diht_k8s.api.layout import Layout
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint, fencing
from diht_k8s.stages.train.checkpoint.checkpoint import (
    MARKER,
    Cursor,
    CursorOrder,
    Part,
    commit,
    newest,
    remove_unfinished,
    write_missing_marker,
    write_part,
)
from diht_k8s.stages.train.checkpoint.checkpointer import Checkpointer
from diht_k8s.stages.train.checkpoint.fencing import Fence
from diht_k8s.stages.train.metrics import Metrics
from tests.folders import flat

STORAGE = Storage()


ORDER = CursorOrder(lanes=2, block=64, window=64, epoch=80)


def cursor(step: int, config: str = "ours") -> Cursor:
    return Cursor(step=step, position=step * 16, order=ORDER, config_sha256=config, seconds=1.0)


def save(folder: Path, step: int, *, ranks: int = 2, keep: int = 9, config: str = "ours", attempt: int = 1) -> None:
    written = parts(folder, step, ranks, attempt)
    commit(STORAGE, str(folder), cursor(step, config), written, keep=keep, fence=attempt_at(folder))


def attempt_at(folder: Path, storage: Storage = STORAGE) -> Fence:
    """Begin another attempt; what it claims lies beside the checkpoints, not among them."""
    return Fence(storage, flat(f"{folder} run"))


def parts(folder: Path, step: int, ranks: int = 2, attempt: int = 1) -> list[Part]:
    """What the ranks upload before the marker."""
    return [
        write_part(
            STORAGE,
            str(folder),
            cursor(step),
            {f"weight {rank}": torch.full((3,), step + attempt / 2)},
            rank=rank,
            attempt=attempt,
        )
        for rank in range(ranks)
    ]


def newest_step(folder: Path) -> int | None:
    saved = newest(STORAGE, str(folder), "ours")
    return None if saved is None else saved.cursor.step


def flip_a_bit(folder: Path) -> None:
    path = folder / "state-00001-000001.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut(folder: Path) -> None:
    path = folder / "state-00000-000001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def rewrite_marker(folder: Path, old: str, new: str) -> None:
    text = (folder / MARKER).read_text()
    assert old in text
    (folder / MARKER).write_text(text.replace(old, new))


LATER: dict[str, Callable[[Path], object]] = {
    "has version 3, this program reads 2": lambda folder: rewrite_marker(folder, '"version": 2', '"version": 3'),
    "has order.tomorrow, unknown to this program": lambda folder: rewrite_marker(
        folder, '"lanes": 2', '"lanes": 2, "tomorrow": 1'
    ),
}
"""What a later release may write, and what is said of it."""
DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip_a_bit,
    "a part cut short": cut,
    "a part missing": lambda folder: (folder / "state-00001-000001.safetensors").unlink(),
    "half a marker": lambda folder: (folder / MARKER).write_text((folder / MARKER).read_text()[:40]),
    "a marker of another kind": lambda folder: (folder / MARKER).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_newest_when_damaged_then_reported_and_the_one_before_used(
    tmp_path: Path, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    damage(tmp_path / "step-000000010")
    with caplog.at_level(logging.WARNING):
        assert newest_step(tmp_path) == 5
    assert "step-000000010" in caplog.text
    assert "an older checkpoint is used" in caplog.text


@pytest.mark.parametrize("readable", [(), (5,)], ids=["alone", "beside an older one that can be read"])
@pytest.mark.parametrize("said", LATER)
def test_newest_when_of_a_later_release_then_refused(tmp_path: Path, said: str, readable: tuple[int, ...]) -> None:
    """From the older one the training would replace it."""
    for step in (5, 10):
        save(tmp_path, step)
        if step not in readable:
            LATER[said](tmp_path / f"step-{step:09d}")
    with pytest.raises(DataError, match=f"step-000000010 {said}: use the program that wrote"):
        newest_step(tmp_path)


def test_newest_when_killed_before_the_marker_then_the_one_before_used(tmp_path: Path) -> None:
    save(tmp_path, 5)
    parts(tmp_path, 10)
    assert newest_step(tmp_path) == 5


@pytest.mark.parametrize("attempt", [1, 3], ids=["by an attempt that was replaced", "by a later one, then killed"])
def test_newest_when_another_attempt_writes_parts_of_the_same_step_then_undamaged(tmp_path: Path, attempt: int) -> None:
    save(tmp_path, 10, attempt=2)
    parts(tmp_path, 10, attempt=attempt)
    saved = newest(STORAGE, str(tmp_path), "ours")
    assert saved is not None
    assert saved.state["weight 0"].tolist() == [11.0] * 3


def test_newest_when_of_another_configuration_then_none(tmp_path: Path) -> None:
    save(tmp_path, 5, config="theirs")
    assert newest_step(tmp_path) is None
    assert newest(STORAGE, str(tmp_path / "nothing"), "ours") is None


def test_commit_when_more_than_keep_then_the_oldest_go(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000010", "step-000000015"]


@pytest.mark.parametrize("leave", [parts, save], ids=["without a marker", "committed, then damaged"])
def test_commit_when_a_dead_attempt_left_later_steps_then_these_go_and_ours_stays(
    tmp_path: Path, leave: Callable[[Path, int], object]
) -> None:
    save(tmp_path, 5)
    leave(tmp_path, 20)
    flip_a_bit(tmp_path / "step-000000020")
    save(tmp_path, 10, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010"]


def test_commit_when_resumed_with_fewer_ranks_then_the_marker_names_their_parts_only(tmp_path: Path) -> None:
    save(tmp_path, 5, ranks=4)
    save(tmp_path, 5, ranks=1)
    marker = json.loads((tmp_path / "step-000000005" / MARKER).read_text())
    assert [part["name"] for part in marker["parts"]] == ["state-00000-000001.safetensors"]
    assert newest_step(tmp_path) == 5


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


def save_by(storage: Storage, layout: Layout, fence: Fence, step: int, *, keep: int = 1) -> None:
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
    save_by(storage, layout, zombie, 10)
    storage.kind = held
    ends: list[str] = []

    def go_on() -> None:
        try:
            save_by(storage, layout, zombie, 20)
            save_by(storage, layout, zombie, 25)
        except StopRequested as error:
            ends.append(str(error))

    thread = threading.Thread(target=go_on)
    thread.start()
    assert storage.waits.wait(30)
    successor = begin(layout)
    assert newest_weight(layout) == resumed
    if committed is not None:
        save_by(STORAGE, layout, successor, 30)
    storage.may_go_on.set()
    thread.join(30)
    assert [end.startswith("attempt 2 has taken over") for end in ends] == [True]
    assert newest_weight(layout) == (committed or resumed)
    save_by(STORAGE, layout, successor, 40)
    assert newest_weight(layout) == 240.0


def test_zombie_when_it_removes_late_then_the_same_steps_of_its_successor_stay(layout: Layout) -> None:
    """Parts of step 20 were left by an attempt before both; the successor commits that step meanwhile."""
    dead = Fence(STORAGE, layout)
    write_part(STORAGE, layout.checkpoints, cursor(20), {"weight": torch.zeros(2)}, rank=0, attempt=dead.attempt)
    storage = Held("")
    zombie = Fence(storage, layout)
    storage.kind = "look"
    thread = threading.Thread(target=lambda: save_by(storage, layout, zombie, 10))
    thread.start()
    assert storage.waits.wait(30)
    save_by(STORAGE, layout, begin(layout), 20)
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
    save_by(STORAGE, layout, begin(layout), 10)
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


class SlowStorage(Storage):
    """Writes no state before it may."""

    def __init__(self) -> None:
        super().__init__([])
        self.may_write = threading.Event()
        self.error: Exception | None = None

    def write_bytes(self, uri: str, data: bytes) -> None:
        if uri.endswith(".safetensors"):
            assert self.may_write.wait(30)
            if self.error is not None:
                raise self.error
        super().write_bytes(uri, data)


@pytest.fixture
def slow(tmp_path: Path) -> tuple[SlowStorage, Checkpointer, Metrics, str]:
    storage, layout = SlowStorage(), flat(tmp_path)
    return (
        storage,
        Checkpointer(storage, layout, keep=3, rank=0, world=1),
        Metrics(storage, layout, step=0),
        layout.checkpoints,
    )


def test_checkpoint_when_the_storage_is_slow_then_the_training_goes_on_and_nothing_half_written_counts(
    slow: tuple[Any, ...],
) -> None:
    storage, saver, metrics, folder = slow
    saver.begin({"weight": torch.ones(3)}, cursor(5), {"picture_unreadable": 2})
    assert saver.pending
    assert saver.busy
    assert checkpoint.newest(storage, folder, "ours") is None
    storage.may_write.set()
    assert saver.complete(metrics) == cursor(5)
    assert not saver.pending
    saved = checkpoint.newest(storage, folder, "ours")
    assert saved is not None
    assert saved.cursor.step == 5
    assert saved.cursor.bad == {"picture_unreadable": 2}


def test_checkpoint_when_another_is_still_written_then_refused_because_memory_is_for_one(slow: tuple[Any, ...]) -> None:
    storage, saver, _, _ = slow
    saver.begin({"weight": torch.ones(3)}, cursor(5), {})
    with pytest.raises(AssertionError):
        saver.begin({"weight": torch.ones(3)}, cursor(6), {})
    storage.may_write.set()


def test_checkpoint_when_it_cannot_be_written_then_counted_and_after_three_in_a_row_the_training_ends(
    slow: tuple[Any, ...],
) -> None:
    storage, saver, metrics, folder = slow
    storage.may_write.set()

    def save(step: int, error: Exception | None) -> Cursor | None:
        storage.error = error
        saver.begin({"weight": torch.ones(3)}, cursor(step), {})
        return saver.complete(metrics)

    full = RetryableError("the disk is full")
    assert [save(step, full) for step in (1, 2)] == [None, None]
    assert save(3, None) == cursor(3)
    assert [save(step, full) for step in (4, 5)] == [None, None]
    with pytest.raises(RetryableError, match=r"disk is full; no checkpoint was saved in 3 attempts in a row"):
        save(6, full)
    assert saver.failed == 5
    assert storage.folders(folder) == ["step-000000003"]
    assert checkpoint.newest(storage, folder, "ours") is not None


def test_checkpoint_when_a_newer_attempt_has_begun_then_neither_marker_nor_metrics_are_touched(
    slow: tuple[Any, ...], tmp_path: Path
) -> None:
    storage, saver, _, folder = slow
    metrics = Metrics(storage, flat(tmp_path), step=0, fence=saver.fence)
    metrics.add({"step": 1, "loss": 1.0})
    metrics.write()
    saver.begin({"weight": torch.ones(3)}, cursor(5), {})
    storage.may_write.set()
    newer = Checkpointer(storage, flat(tmp_path), keep=3, rank=0, world=1)
    metrics.add({"step": 2, "loss": 1.0})
    for act in (metrics.write, lambda: saver.complete(metrics)):
        with pytest.raises(StopRequested, match=r"attempt 2 has taken over"):
            act()
    assert storage.read_text(flat(tmp_path).metrics).count("\n") == 1
    assert checkpoint.newest(storage, folder, "ours") is None
    newer.begin({"weight": torch.zeros(3)}, cursor(5), {})
    assert newer.complete(Metrics(storage, flat(tmp_path), step=0)) == cursor(5)
    saved = checkpoint.newest(storage, folder, "ours")
    assert saved is not None
    assert saved.state["weight"].tolist() == [0, 0, 0]
    parts = {path.name for path in Path(folder, "step-000000005").glob("*.safetensors")}
    assert parts == {f"state-00000-{attempt:06d}.safetensors" for attempt in (1, 2)}
