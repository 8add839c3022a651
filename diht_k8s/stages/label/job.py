"""The work of one process of the label stage: its shards, the rows that train the heads, its files and its progress."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.label import Label
from diht_k8s.api.layout import join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.runtime.bad_shards import BadShards
from diht_k8s.runtime.claims import ShardProgress
from diht_k8s.runtime.inputs import kept_shards
from diht_k8s.runtime.stage import Context


@dataclass(frozen=True)
class LabelJob:
    """One worker's part of the stage label."""

    context: Context
    label: Label
    shards: Sequence[Shard]
    """all kept shards, in order."""
    training: dict[str, int]
    """name of each shard that trains the heads -> number of its first rows that do; in the order of `shards`."""

    @cached_property
    def bad_shards(self) -> BadShards:
        """The kept shards that were damaged after the filter."""
        return BadShards(self.context.run.spec.data.max_bad_shards, len(self.shards))

    @property
    def header(self) -> dict[str, Any]:
        """What every artefact carries."""
        return {
            "schema_version": SCHEMA_VERSION,
            "config_sha256": self.context.config_sha256,
            "inputs": self.context.config["inputs"],
        }

    def uri(self, *parts: str) -> str:
        """A file of this stage."""
        return join(self.context.layout.stage(Stage.LABEL), *parts)

    def write_json(self, uri: str, document: dict[str, Any]) -> None:
        """Write a JSON file of this stage."""
        self.context.storage.write_bytes(uri, json.dumps(document, indent=1, ensure_ascii=False).encode())

    def missing(self, folder: str, suffix: str, shards: Sequence[Shard]) -> list[Shard]:
        """The shards without a file in a folder of this stage; a file that is there is whole, since writes are
        atomic.
        """
        there = set(self.context.storage.names(self.uri(folder)))
        return [shard for shard in shards if f"{shard.name}{suffix}" not in there]

    def samples(self, shards: Sequence[Shard]) -> int:
        """Pairs in some shards."""
        return sum(shard.samples or 0 for shard in shards)

    @property
    def training_shards(self) -> list[Shard]:
        """The shards that train the heads."""
        return [shard for shard in self.shards if shard.name in self.training]


class LabelProgress:
    """Counts the images of the whole stage: finished shards of all workers and this worker's current one."""

    def __init__(self, job: LabelJob, step: str, folder: str, suffix: str, shards: Sequence[Shard]) -> None:
        self._job, self._folder, self._suffix, self._shards = job, folder, suffix, shards
        self._committed = ShardProgress(job.context, folder)
        self._done = self._finished()
        job.context.progress.start(step, job.samples(shards), done=self._done)

    def _finished(self) -> int:
        total = self._job.samples(self._shards)
        return total - self._job.samples(self._job.missing(self._folder, self._suffix, self._shards))

    def within_shard(self, images: int) -> None:
        """Some images of the current shard are done; may raise to stop."""
        self._job.context.stop.raise_if_requested()
        self._update(self._done + images)

    def shard_done(self) -> None:
        """The current shard is done."""
        self._committed.shard_done()
        self._done = self._finished()
        self._update(self._done)

    def _update(self, done: int) -> None:
        bad_shards = len(self._job.bad_shards.found)
        self._job.context.progress.update(done, {"bad_shards": bad_shards} if bad_shards else None)


def make_job(context: Context) -> LabelJob:
    """List the kept shards and choose those that train the heads.

    Raises:
        DataError: the filter kept nothing.
    """
    label = context.run.spec.label
    assert label is not None  # run_stage has checked it
    shards = kept_shards(context.run.spec, context.storage, context.layout)
    if not shards:
        raise DataError("the filter kept no pair, so there is nothing to label: loosen spec.filter or give more shards")
    return LabelJob(context, label, shards, choose_training(shards, label.max_samples, context.run.spec.seed))


def choose_training(shards: Sequence[Shard], most: int, seed: int) -> dict[str, int]:
    """Which rows train the heads: whole shards in an order drawn by the seed, until `most` rows.

    Pure, so that every worker computes the same.
    """
    drawn = sorted(shards, key=lambda shard: hashlib.sha256(f"{seed} {shard.name}".encode()).digest())
    rows, left = dict[str, int](), most
    for shard in drawn:
        assert shard.samples is not None  # the filter counts what it keeps
        if left > 0:
            rows[shard.name] = min(left, shard.samples)
        left -= shard.samples
    return {shard.name: rows[shard.name] for shard in shards if shard.name in rows}
