"""Resume position and sample order. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.train import Train
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder, Saved
from diht_k8s.stages.train.data.sampler import LaneSampler, OrderSizes, sampler_over


def sequential_shards(saved: Saved | None) -> frozenset[int] | None:
    """The shards that a checkpoint's order reads in sequence; None for a new training."""
    if saved is None:
        return None
    return frozenset(number for first, last in saved.cursor.order.sequential for number in range(first, last + 1))


def _spans(numbers: frozenset[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers."""
    ordered = sorted(numbers)
    firsts = [number for number in ordered if number - 1 not in numbers]
    return list(zip(firsts, [number for number in ordered if number + 1 not in numbers], strict=True))


def resume_sampler(
    saved: Saved | None,
    train: Train,
    sizes: Sequence[int],
    seed: int,
    *,
    weights: Sequence[float],
    sequential: frozenset[int] = frozenset(),
) -> LaneSampler:
    """The order of a checkpoint, or of a new training.

    Args:
        saved: the checkpoint to go on from.
        train: what is asked for.
        sizes: samples of each shard.
        seed: of the shuffle.
        weights: how often each shard is drawn, relative to the others.
        sequential: shards of which no ranges can be read.

    Raises:
        UserError: another order is asked for than that of the checkpoint.
    """
    asked = train.order.model_dump()
    sampler = sampler_over(sizes, train.batch_size, seed, weights=weights, sequential=sequential, **asked)
    if saved is None:
        return sampler
    theirs = OrderSizes(saved.cursor.order.lanes, saved.cursor.order.block, saved.cursor.order.window)
    for name, value in sampler.order._asdict().items():
        if asked[name] is not None and value != getattr(theirs, name):
            raise UserError(
                f"train.order.{name} {asked[name]} is not that of the checkpoint {saved.uri} "
                f"({getattr(theirs, name)}), "
                "which goes on in its own order: remove it"
            )
    return LaneSampler(tuple(sizes), theirs, seed, tuple(weights), sequential)


def resume_cursor(saved: Saved | None, batch_size: int, sampler: LaneSampler, *, config_sha256: str) -> Cursor:
    """The cursor of a checkpoint under this configuration; the start of the training without one.

    Raises:
        UserError: the checkpoint was made with another batch size.
        DataError: it was made over other data.
    """
    if saved is None:
        spans = _spans(sampler.sequential)
        order = CursorOrder(**sampler.order._asdict(), epoch=sampler.total, sequential=spans)
        return Cursor(step=0, position=0, order=order, config_sha256=config_sha256, seconds=0)
    cursor = saved.cursor
    if cursor.position % batch_size or cursor.step * batch_size != cursor.position:
        raise UserError(
            f"the checkpoint {saved.uri} was made with another train.batchSize ({cursor.position} samples in "
            f"{cursor.step} steps): set that one, or take its weights only (initFrom.kind Weights)"
        )
    if cursor.order.epoch != sampler.total:
        raise DataError(
            f"the checkpoint {saved.uri} was made over other data ({cursor.order.epoch} samples an epoch, now "
            f"{sampler.total}): "
            "choose another data.output"
        )
    return cursor.model_copy(update={"config_sha256": config_sha256})
