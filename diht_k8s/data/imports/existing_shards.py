"""Existing shards, as img2dataset and others write them: checked, and taken as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.data.imports.tally import Tally
from diht_k8s.data.shards.samples import DamagedShardError, read_samples, stated_successes
from diht_k8s.data.shards.storage import Storage

NOTES: Final = 10
"""A person needs a few of them."""


def check_shards(paths: Sequence[Path], storage: Storage, advance: Callable[[], object]) -> dict[str, Any]:
    """Read each shard once; what they hold, in the form of an import's marker. Images are not decoded.

    Args:
        paths: of the shards.
        storage: that reads them.
        advance: called after each shard.

    Raises:
        DataError: a shard is damaged, or no sample can be used.
    """
    samples, bad, notes, damaged = 0, Tally(), list[str](), list[DamagedShardError]()
    for path in paths:
        delivered = 0
        try:
            for sample in read_samples(storage, str(path)):
                delivered += 1
                if sample.problem is None:
                    samples += 1
                else:
                    bad.add(sample.problem, f"{path} {sample.key}")
        except DamagedShardError as error:
            damaged.append(error)
        else:
            notes += _differences(path, delivered)
        advance()
    if damaged:
        more = f" (and {len(damaged) - 1} more damaged shards)" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{more}")
    if not samples:
        reasons = "; ".join(f"{each['count']} {reason}, for example {each['example']}" for reason, each in bad.items())
        raise DataError(f"none of the samples can be used: {reasons}")
    return {
        "type": "Pairs",
        "kind": "shards",
        "samples": samples,
        "bad": dict(sorted(bad.items())),
        "shards": [{"name": path.name} for path in paths],
        "notes": notes[:NOTES],
    }


def _differences(path: Path, delivered: int) -> list[str]:
    """A note where img2dataset states another number of samples for a shard."""
    stats = path.with_name(f"{path.name.partition('.')[0]}_stats.json")
    if not stats.is_file():
        return []
    stated = stated_successes(stats.read_bytes())
    if stated is None:
        return [f"{stats} cannot be read"]
    return [] if stated == delivered else [f"{path} holds {delivered} samples, but {stats.name} says {stated}"]
