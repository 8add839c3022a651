"""What a training leaves on storage: checkpoints on the way, model, metrics and summary at the end. Every rank calls, rank 0 commits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import nn

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.recipe.shards.storage import Storage
from diht_k8s.recipe.training import checkpoint, epochs
from diht_k8s.recipe.training.checkpoint import Cursor
from diht_k8s.recipe.training.export import export
from diht_k8s.recipe.training.metrics import Metrics
from diht_k8s.recipe.training.stage import RESULT
from diht_k8s.recipe.training.state import state_of


class Saver:
    """Writes for one attempt; steps back when a newer attempt has begun."""

    def __init__(self, storage: Storage, layout: Layout, *, keep: int, rank: int, world: int) -> None:
        """Take an attempt's number on rank 0.

        Args:
            storage: where to.
            layout: of the run.
            keep: number of checkpoints that stay.
            rank: of this process.
            world: number of processes.
        """
        self._storage, self._layout, self._keep = storage, layout, keep
        self._rank, self._world = rank, world
        self._epoch = epochs.claim(storage, layout) if rank == 0 else 0

    def newest(self, config_sha256: str) -> checkpoint.Saved | None:
        """The checkpoint to go on from: rank 0 finds it, all ranks read the same one."""
        uri: list[str | None] = [None]
        if self._rank == 0:
            saved = checkpoint.newest(self._storage, self._layout.checkpoints, config_sha256)
            uri = [saved.uri if saved is not None else None]
        else:
            saved = None
        if self._world > 1:
            dist.broadcast_object_list(uri)
        return checkpoint.read(self._storage, uri[0]) if saved is None and uri[0] is not None else saved

    def save(self, engine: Any, model: nn.Module, cursor: Cursor, bad: Mapping[str, int], metrics: Metrics) -> None:
        """Write a checkpoint of this step; `bad` counts this rank's bad samples since the checkpoint that it began with."""
        folder = self._layout.checkpoints
        state = state_of(engine, model, rank=self._rank, ranks=self._world)
        gathered = self._gathered(
            (checkpoint.write_part(self._storage, folder, cursor, state, rank=self._rank), dict(bad))
        )
        if self._rank == 0:
            epochs.require_newest(self._storage, self._layout, self._epoch)
            metrics.write()
            counted = cursor.model_copy(update={"bad": _sum([cursor.bad, *(theirs for _, theirs in gathered)])})
            checkpoint.commit(self._storage, folder, counted, [part for part, _ in gathered], keep=self._keep)
        if self._world > 1:
            dist.barrier()

    def finish(
        self, engine: Any, model: nn.Module, config: Mapping[str, Any], metrics: Metrics, summary: Mapping[str, Any]
    ) -> None:
        """Write the model and what the launcher commits."""
        state = state_of(engine, model, rank=self._rank, moments=False)
        if self._rank == 0:
            epochs.require_newest(self._storage, self._layout, self._epoch)
            files = export(self._storage, self._layout, config, state)
            metrics.write()
            metrics.write_tensorboard()
            result = {"files": [*files, "metrics.jsonl"], "summary": {**summary, **metrics.summary()}}
            self._storage.write_bytes(join(self._layout.stage(Stage.TRAIN), RESULT), json.dumps(result).encode())
        if self._world > 1:
            dist.barrier()

    def bad(self, cursor: Cursor, bad: Mapping[str, int]) -> dict[str, int]:
        """Bad samples of all ranks and attempts, by reason."""
        return _sum([cursor.bad, *self._gathered(dict(bad))])

    def _gathered(self, mine: Any) -> list[Any]:
        """One object of each rank, in rank order."""
        everybody = [mine] * self._world
        if self._world > 1:
            dist.all_gather_object(everybody, mine)
        return everybody


def _sum(counts: list[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
