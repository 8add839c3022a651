"""Ranks that read a checkpoint together: each part once, whoever saved, and the same tensors everywhere."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import MARKER
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder
from diht_k8s.stages.train.checkpoint.fencing import Fence
from tests.folders import flat

ORDER = CursorOrder(lanes=4, block=64, window=100, epoch=1000)
SAVERS = 4
PART = 5_000
"""Numbers of a part's largest tensor."""


class Counting(Storage):
    """Counts what it reads of parts."""

    read = 0

    def read_bytes(self, uri: str) -> bytes:
        data = super().read_bytes(uri)
        self.read += len(data) * uri.endswith(".safetensors")
        return data


def part_of(rank: int) -> dict[str, torch.Tensor]:
    state = {f"weight {rank}|exp_avg": torch.arange(PART) + 0.5 + rank, f"weight {rank}": torch.full((3, 2), rank / 4)}
    return state if rank else {**state, "adam_step": torch.tensor(7.0), "buffer|seen": torch.tensor([1, 2])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints of four ranks."""
    storage, fence = Storage(), Fence(Storage(), flat(f"{tmp_path}/run"))
    for step in (5, 10):
        cursor = Cursor(step=step, position=step * 16, order=ORDER, config_sha256="ours", seconds=1.0)
        parts = [
            checkpoint.write_part(storage, f"{tmp_path}/saved", cursor, part_of(rank), rank=rank, attempt=1)
            for rank in range(SAVERS)
        ]
        checkpoint.commit(storage, f"{tmp_path}/saved", cursor, parts, keep=2, fence=fence)
    return tmp_path


def resume(folder: Path, rank: int, world: int) -> None:
    """One rank, as a training resumes: the weights first, then all else, in the state's own order."""
    storage = Counting()
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found: dict[str, Any] = {}
    try:
        saved = checkpoint.newest(storage, f"{folder}/saved", "ours", rank=rank, world=world)
        assert saved is not None
        state = saved.state
        sums = {key: float(state[key].double().sum()) for key in state if "|" not in key}
        sums |= {key: float(state[key].double().sum()) for key in state if "|" in key}
        found = {"step": saved.cursor.step, "sums": sums, "order": saved.cursor.order == ORDER}
    except DataError as error:
        found = {"error": str(error)}
    dist.destroy_process_group()
    Path(f"{folder}/found-{rank}").write_text(json.dumps({**found, "read": storage.read}))


def resumed_by(folder: Path, world: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=resume, args=(folder, rank, world)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    return [json.loads(Path(f"{folder}/found-{rank}").read_text()) for rank in range(world)]


EXPECTED = {key: float(value.double().sum()) for rank in range(SAVERS) for key, value in part_of(rank).items()}


def sizes(folder: Path, step: int) -> list[int]:
    return [path.stat().st_size for path in sorted(Path(f"{folder}/saved/step-{step:09d}").glob("*.safetensors"))]


@pytest.mark.parametrize(("world", "most"), [(1, 3), (2, 3), (4, 1), (6, 1)])
def test_state_when_read_by_any_number_of_ranks_then_whole_on_all_and_read_together(
    folder: Path, world: int, most: float
) -> None:
    found = resumed_by(folder, world)
    assert [(rank["step"], rank["sums"], rank["order"]) for rank in found] == [(10, EXPECTED, True)] * world
    total = sum(rank["read"] for rank in found)
    assert sum(sizes(folder, 10)) <= total <= most * sum(sizes(folder, 10))


def test_state_when_one_part_is_damaged_then_all_ranks_take_the_one_before(folder: Path) -> None:
    path = Path(f"{folder}/saved/step-000000010/state-00002-000001.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    found = resumed_by(folder, 4)
    assert [(rank["step"], rank["sums"]) for rank in found] == [(5, EXPECTED)] * 4


def test_state_when_all_is_of_a_later_release_then_all_ranks_say_so_and_none_waits(folder: Path) -> None:
    for marker in Path(f"{folder}/saved").glob(f"*/{MARKER}"):
        marker.write_text(marker.read_text().replace('"version": 2', '"version": 3'))
    [said] = {rank["error"] for rank in resumed_by(folder, 2)}
    assert "step-000000010 has version 3" in said


def test_state_when_it_is_read_then_a_rank_holds_one_part(folder: Path) -> None:
    saved = checkpoint.read(Storage(), f"{folder}/saved/step-000000010")
    for number, key in enumerate(saved.state):
        assert saved.state[key] is not None
        held = saved.state._held
        assert held is not None
        if saved.state[key].numel() > 1:  # a single number is known from the beginning: no part is read for it
            assert held.number <= number
        assert sum(value.numel() for value in held.state.values()) < PART + 20
