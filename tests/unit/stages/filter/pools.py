"""Pools of fingerprints: drawn at random, with copies of a given similarity, and written as the filter leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from diht_k8s.api.run import Stage
from diht_k8s.data.lease import Owner
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import Claims
from diht_k8s.runtime.signals import StopFlag
from diht_k8s.stages.filter.deduplication import RepeatSearch, write_fingerprints
from diht_k8s.stages.filter.fingerprints import MAX_DIFFERENCE
from tests.folders import flat

STEPS = 256


def drawn(rng: np.random.Generator, count: int, share: float = 0.35) -> np.ndarray:
    """Fingerprints with a share of steps set, uint64, [count, 4]."""
    bits_N4 = np.empty((count, 4), np.uint64)
    for start in range(0, count, 1 << 16):
        block = rng.random((min(1 << 16, count - start), STEPS), np.float32) < share
        bits_N4[start : start + len(block)] = np.packbits(block, axis=1).view(np.uint64)
    return bits_N4


def copies(rng: np.random.Generator, bits_N4: np.ndarray, similarity: float) -> np.ndarray:
    """A copy of each fingerprint with as many steps moved as give at least this Jaccard similarity, and no more."""
    steps_N = np.unpackbits(np.ascontiguousarray(bits_N4).view(np.uint8), axis=1)
    for row in steps_N:
        on, off = np.flatnonzero(row), np.flatnonzero(row == 0)
        moved = int(len(on) * (1 - similarity) / (1 + similarity))
        row[rng.choice(on, moved, replace=False)] = 0
        row[rng.choice(off, moved, replace=False)] = 1
    return np.packbits(steps_N, axis=1).view(np.uint64)


def alike_pairs(bits_N4: np.ndarray) -> np.ndarray:
    """Whether any earlier image is a near-duplicate, by comparing all pairs."""
    differing = np.bitwise_count(bits_N4[:, None] ^ bits_N4[None]).sum(axis=2)
    either = np.bitwise_count(bits_N4[:, None] | bits_N4[None]).sum(axis=2)
    return np.tril(differing <= MAX_DIFFERENCE * either, -1).any(axis=1)


def shard_of(number: int) -> Shard:
    return Shard(f"web-{number:06}", f"{number:06}.tar", "web")


class Pool:
    """The fingerprints of a finished filter, and workers that search them."""

    def __init__(
        self,
        folder: Path | str,
        kind: Literal["Exact", "Near"],
        *,
        config: str = "0" * 64,
        storage: Storage | None = None,
    ) -> None:
        self.layout, self.storage, self._config = flat(folder), storage or Storage(), config
        self._kind: Literal["Exact", "Near"] = kind
        self.shards: list[Shard] = []

    def add(self, bits_N4: np.ndarray) -> None:
        """One more shard."""
        self.shards.append(shard_of(len(self.shards)))
        data = np.ascontiguousarray(bits_N4).tobytes()
        write_fingerprints(self._context(), self.shards[-1], [data[at : at + 32] for at in range(0, len(data), 32)])

    def search(self, worker: int = 0, workers: int = 1) -> RepeatSearch:
        """One worker's search."""
        context = self._context(worker, workers)
        claims = Claims(self.storage, self.layout.stage(Stage.FILTER), Owner("a run"), worker)
        return RepeatSearch(context, self._kind, self.shards, claims)

    def repeats(self) -> list[list[int]]:
        """What one worker finds, shard by shard."""
        return found_by([self.search()], len(self.shards))

    def _context(self, worker: int = 0, workers: int = 1) -> Any:
        return SimpleNamespace(
            storage=self.storage,
            layout=self.layout,
            config_sha256=self._config,
            stop=StopFlag(),
            worker=worker,
            workers=workers,
        )


def found_by(searches: Sequence[RepeatSearch], shards: int) -> list[list[int]]:
    """The places that some workers find together, each doing what it can in turn."""
    states = [search.run() for search in searches]
    while any(worked or waiting for worked, waiting in states):
        states = [search.run() for search in searches]
    return [searches[0].places(number).tolist() for number in range(shards)]
