"""Setup of a student: warnings of rank 0, and the compiler."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun
from diht_k8s.api.train import Train
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime import indexing
from diht_k8s.stages.train import setup as resume
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder, Saved
from diht_k8s.stages.train.data.batch import Batch, Consumption
from diht_k8s.stages.train.data.collate import LaneReader
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.sampler import Blocks, LaneSampler, OrderSizes, sampler_over
from diht_k8s.stages.train.setup import (
    adapt_student,
    epoch_samples,
    make_student,
    resume_cursor,
    resume_sampler,
    sequential_shards,
    train_shards,
    training_data,
)
from tests.recipe.train.small_run import RESNET, VIT
from tests.unit.api.documents import TRAIN, run_over


def run(model: dict[str, Any], **train: Any) -> DihtRun:
    return run_over("a.tar", "out", train={**TRAIN, "model": None, "modelConfig": model, "batchSize": 16, **train})


@pytest.mark.parametrize(
    ("model", "micro", "rank", "locked", "warns"),
    [
        (RESNET, 4, 0, False, True),
        (RESNET, 4, 1, False, False),
        (RESNET, None, 0, False, False),
        (RESNET, 4, 0, True, False),
        (VIT, 4, 0, False, False),
    ],
    ids=["batch statistics", "another rank", "whole batches", "locked", "no batch statistics"],
)
def test_student_when_its_statistics_are_those_of_micro_batches_then_rank_0_says_so(
    caplog: pytest.LogCaptureFixture, model: dict[str, Any], micro: int | None, rank: int, locked: bool, warns: bool
) -> None:
    asked = run(model, microBatchSize=micro)
    assert asked.spec.train is not None
    with caplog.at_level(logging.WARNING):
        made = make_student(asked, model, None)
        if locked:
            made.lock_image_tower()
        adapt_student(made, asked.spec.train, rank=rank, world=1)
    assert ("batch statistics" in caplog.text) is warns
    assert made.object_head is None


UNEQUAL = "the model of train.modelConfig has batch statistics .* make train."


@pytest.mark.parametrize(
    ("model", "train", "world", "locked", "says"),
    [
        (RESNET, {}, 3, False, f"{UNEQUAL}batchSize 16 a multiple of the 3 processes, or change their number"),
        (RESNET, {"microBatchSize": 5}, 1, False, f"{UNEQUAL}microBatchSize 5 a divisor of the 16 pairs of a process"),
        (RESNET, {"microBatchSize": 17}, 1, False, None),
        (RESNET, {"microBatchSize": 5}, 3, True, None),
        (VIT, {"microBatchSize": 5}, 3, False, None),
    ],
    ids=["ranks", "micro-batches", "one micro-batch", "locked", "no batch statistics"],
)
def test_student_with_batch_statistics_when_parts_of_a_batch_are_unequal_then_refused_by_name(
    model: dict[str, Any], train: dict[str, Any], world: int, locked: bool, says: str | None
) -> None:
    asked = run(model, **train)
    assert asked.spec.train is not None
    made = make_student(asked, model, None)
    if locked:
        made.lock_image_tower()
    with contextlib.nullcontext() if says is None else pytest.raises(UserError, match=says):
        adapt_student(made, asked.spec.train, rank=0, world=world)


@pytest.mark.parametrize("compiler", ["g++", None])
def test_student_when_compiled_on_a_cpu_then_a_compiler_is_needed(
    monkeypatch: pytest.MonkeyPatch, compiler: str | None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}" if name == compiler else None)
    if compiler is None:
        with pytest.raises(UserError, match="needs a C"):
            make_student(run(VIT, compile=True), VIT, None)
    else:
        make_student(run(VIT, compile=True), VIT, None)


@pytest.mark.parametrize("mode", ["Concepts", "Disabled"])
def test_own_shards_of_one_file_name_are_refused_only_where_labels_go_by_it(tmp_path: Path, mode: str) -> None:
    for name in ("a/0.tar", "b/0.tar"):
        Storage().write_bytes(str(tmp_path / name), b"x")
    asked = run(VIT, shards=[f"{tmp_path}/*/0.tar"], labels="labels", distillation={"mode": mode})
    if mode == "Concepts":
        with pytest.raises(UserError, match="several files are named 0, and labels are found by the name"):
            train_shards(asked, Storage(), Layout("out"))
    else:
        assert len({shard.name for shard in train_shards(asked, Storage(), Layout("out"))}) == 2


SIZES, BATCH = [500, 600, 700], 16
CURSOR = {
    "version": 2,
    "step": 3,
    "position": 48,
    "config_sha256": "theirs",
    "seconds": 9.0,
    "bad": {"lost": 2},
    "order": {"lanes": 8, "block": 32, "window": 900, "epoch": 1800, "sequential": [[1, 2]]},
}


def saved(cursor: dict[str, Any]) -> Saved:
    return Saved("s3://b/step-3", Cursor.model_validate(cursor), {})  # pyright: ignore[reportArgumentType]


def train(**order: int) -> Train:
    return Train.model_validate({"model": "ViT-B-32", "samples": 4096, "batchSize": BATCH, "order": order})


def orders(checkpoint: Saved | None, **order: int) -> LaneSampler:
    sequential = sequential_shards(checkpoint) or frozenset()
    return resume_sampler(checkpoint, train(**order), SIZES, 7, weights=[1.0] * 3, sequential=sequential)


def cursor_of(checkpoint: Saved | None, sampler: LaneSampler, batch_size: int = BATCH) -> Cursor:
    return resume_cursor(checkpoint, batch_size, sampler, config_sha256="ours")


def test_new_training_takes_lanes_and_its_cursor_says_which() -> None:
    sampler = orders(None, block=16)
    assert sampler.order == OrderSizes(16, 16, 32768)
    order = CursorOrder(lanes=16, block=16, window=32768, epoch=1800)
    assert cursor_of(None, sampler) == Cursor(step=0, position=0, order=order, config_sha256="ours", seconds=0)


def test_cursor_says_which_shards_are_read_in_sequence() -> None:
    sampler = resume_sampler(None, train(), [9] * 7, 7, weights=[], sequential=frozenset([0, 2, 3, 6]))
    order = cursor_of(None, sampler).order
    assert order is not None
    assert order.sequential == [(0, 0), (2, 3), (6, 6)]
    again = saved({**CURSOR, "order": order.model_dump()})
    assert sequential_shards(again) == {0, 2, 3, 6}


def test_checkpoint_goes_on_in_its_own_order() -> None:
    new = saved(CURSOR)
    sampler = orders(new)
    assert (sampler.order, sampler.sequential) == (OrderSizes(8, 32, 900), frozenset([1, 2]))
    assert cursor_of(new, sampler).model_dump()["order"] == {**CURSOR["order"], "sequential": [(1, 2)]}
    assert orders(new, lanes=8, block=32) == sampler


REFUSED: dict[str, tuple[dict[str, Any], dict[str, int], int, type[DihtError], str]] = {
    "another batch": (CURSOR, {}, 32, UserError, "made with another train.batchSize"),
    "other data": (
        {**CURSOR, "order": {**CURSOR["order"], "epoch": 5}},
        {},
        BATCH,
        DataError,
        r"5 samples an epoch, now 1800",
    ),
    "another window": (CURSOR, {"window": 901}, BATCH, UserError, r"train.order.window 901 is not that .* \(900\)"),
}


@pytest.mark.parametrize(("cursor", "order", "batch_size", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_checkpoint_of_something_else_is_refused(
    cursor: dict[str, Any], order: dict[str, int], batch_size: int, error: type[DihtError], text: str
) -> None:
    with pytest.raises(error, match=text):
        cursor_of(saved(cursor), orders(saved(cursor), **order), batch_size)


COUNTS = (30, 7, 50)


def shards_of(sizes: Sequence[int], folder: Path = Path("x")) -> list[Shard]:
    return [Shard(f"a-{number}", f"{folder}/{number}.tar", "a", samples=size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("weights", [(), (1, 1, 1), (1, 2.5, 1), (3, 1, 1.25), (0.2, 0.3, 0.1)])
def test_samples_of_an_epoch_are_the_documented_sum(weights: Sequence[float]) -> None:
    sampler = sampler_over(COUNTS, 8, 0, weights=weights)
    assert epoch_samples(shards_of(COUNTS), weights or (1.0,) * 3) == sampler.total


def a_sample_less(blocks: Blocks) -> Blocks:
    counts = blocks.counts.copy()
    counts[-1] -= 1
    return replace(blocks, counts=counts)


def a_block_twice(blocks: Blocks) -> Blocks:
    return Blocks(*(list_[[0, *range(len(list_))]] for list_ in (blocks.shards, blocks.firsts, blocks.counts)))


@pytest.mark.parametrize("spoil", [a_sample_less, a_block_twice])
def test_lane_whose_blocks_hold_other_samples_than_its_positions_is_refused(
    spoil: Callable[[Blocks], Blocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, sampler = LaneSampler.blocks, sampler_over(COUNTS, 8, 0, lanes=1, block=8)
    held = int(spoil(blocks(sampler, 0, 0)).counts.sum())
    monkeypatch.setattr(LaneSampler, "blocks", lambda *arguments: spoil(blocks(*arguments)))
    with pytest.raises(DataError, match=f"lane 0 of epoch 0: 87 positions has the lane, but {held} samples"):
        LaneReader(cast("ShardDataset", SimpleNamespace()), sampler, 0, 0, 0)


def test_order_with_a_sample_less_than_there_are_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, size in enumerate(COUNTS):
        pairs = [(f"{number}{pair}", {"jpg": b"x", "txt": b"a dog"}) for pair in range(size)]
        write_samples(Storage(), f"{tmp_path}/{number}.tar", pairs)
    run = run_over(f"{tmp_path}/*.tar", f"{tmp_path}/out", train={**TRAIN, "batchSize": 2})
    where: dict[str, Any] = {"rank": 0, "world": 1}
    assert training_data(run, Storage(), Layout(f"{tmp_path}/out"), None, **where).sampler.total == sum(COUNTS)
    made = resume.sampler_over

    def skipping(sizes: Sequence[int], *arguments: Any, **options: Any) -> LaneSampler:
        return made([sizes[0] - 1, *sizes[1:]], *arguments, **options)

    monkeypatch.setattr(resume, "sampler_over", skipping)
    with pytest.raises(DataError, match="87 samples by counts and weights, but 86 samples in the order of an epoch"):
        training_data(run, Storage(), Layout(f"{tmp_path}/out"), None, **where)


def test_index_with_other_counts_than_the_filter_is_refused() -> None:
    row = indexing.IndexRow("a-0", "", 29)
    with pytest.raises(DataError, match="30 pairs were kept by the filter, but 29 are in its index"):
        list(indexing._counted(shards_of(COUNTS[:1]), [row], {}))
    damaged = row._replace(reason="cut")  # after the filter: within data.maxBadShards its rest counts as bad
    assert next(indexing._counted(shards_of(COUNTS[:1]), [damaged], {})).samples == 30


@pytest.mark.parametrize(
    ("rows", "position", "said"),
    [
        (31, 48, "32 samples belong to the steps of this attempt, but 31 rows had their batches"),
        (33, 48, "32 samples belong to the steps of this attempt, but 33 rows had their batches"),
        (16, 32, "48 samples were planned, but 32 are done"),
    ],
)
def test_batches_with_other_rows_than_their_steps_are_refused(rows: int, position: int, said: str) -> None:
    consumption = Consumption(16)
    consumption.add(cast("Batch", SimpleNamespace(uids=["u"] * rows)))
    with pytest.raises(DataError, match=said):
        consumption.check(position, 48)


def test_batches_of_all_steps_are_accepted() -> None:
    consumption = Consumption(16)
    consumption.add(cast("Batch", SimpleNamespace(uids=["u"] * 32)))
    consumption.check(48, 48)
