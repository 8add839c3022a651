from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint.checkpoint import MARKER, Cursor, CursorOrder, commit, newest, write_part
from diht_k8s.stages.train.checkpoint.fencing import Fence
from diht_k8s.stages.train.checkpoint.shared_state import Part
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


def test_newest_when_saved_by_two_ranks_then_all_parts_come_back(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 10)
    saved = newest(STORAGE, str(tmp_path), "ours")
    assert saved is not None
    assert saved.cursor == cursor(10)
    assert {key: value.tolist() for key, value in saved.state.items()} == {
        "weight 0": [10.5] * 3,
        "weight 1": [10.5] * 3,
    }


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
