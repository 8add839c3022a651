"""Order of a resumed training: that of its checkpoint, whatever the defaults of this version are."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.errors import DataError, DihtError, UserError
from diht_k8s.api.train import Train
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder, Saved
from diht_k8s.stages.train.checkpoint.resume import resume_cursor, resume_sampler, sequential_shards
from diht_k8s.stages.train.data.sampler import LaneSampler, OrderSizes

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
