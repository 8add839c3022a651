"""From which place in the global order a training goes on. Pure."""

from __future__ import annotations

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.recipe.train.checkpoint.checkpoint import Cursor, Saved


def resumed(saved: Saved | None, batch_size: int, *, streams: int, config_sha256: str) -> Cursor:
    """The cursor of a checkpoint under this configuration; the start of the training without one.

    Raises:
        UserError: the checkpoint was made with another batch size.
        DataError: it was made over other data.
    """
    if saved is None:
        return Cursor(step=0, position=0, streams=streams, config_sha256=config_sha256, seconds=0)
    cursor = saved.cursor
    if cursor.position % batch_size or cursor.step * batch_size != cursor.position:
        raise UserError(
            f"the checkpoint {saved.uri} was made with another train.batchSize ({cursor.position} samples in "
            f"{cursor.step} steps): set that one, or take its weights only (initFrom.kind Weights)"
        )
    if cursor.streams != streams:
        raise DataError(
            f"the checkpoint {saved.uri} was made over other data ({cursor.streams} streams, now {streams}): "
            "choose another data.output"
        )
    return cursor.model_copy(update={"config_sha256": config_sha256})
