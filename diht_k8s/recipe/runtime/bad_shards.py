"""Damaged shards within `data.maxBadShards`: the samples before the damage are used, and the shard is counted.

Filter reads raw shards through `BadShards.salvage` and stores what it reports (`Damage`) with the shard's scores. Later
stages read what the filter kept, so they agree with its counts; a stage that reads raw shards itself uses the same
class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.shards.samples import DamagedShardError, Sample


@dataclass(frozen=True)
class Damage:
    """What is known about a damaged shard."""

    reason: str
    """what is wrong, in words."""
    offset: int
    """number of the first byte that cannot be used, in the unpacked tar."""
    salvaged: int
    """number of samples before it."""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def allowed(limit: int | str, shards: int) -> int:
    """The number of damaged shards that a limit allows: a count, or a percentage of all shards, rounded down."""
    return limit if isinstance(limit, int) else int(float(limit.removesuffix("%")) * shards / 100)


class BadShards:
    """Counts the damaged shards of a stage."""

    def __init__(self, limit: int | str, shards: int) -> None:
        """Begin.

        Args:
            limit: `data.maxBadShards`.
            shards: number of shards of the stage.
        """
        self._limit, self._shards, self._count = limit, shards, 0

    def salvage(self, samples: Iterator[Sample], report: Callable[[Damage], object]) -> Iterator[Sample]:
        """The samples of a shard up to its damage, which is counted and passed to `report`.

        Raises:
            DataError: more shards are damaged than the run allows.
        """
        try:
            yield from samples
        except DamagedShardError as error:
            self._count += 1
            self.check(self._count, str(error))
            report(Damage(error.reason, error.offset, error.samples))

    def check(self, count: int, example: str) -> None:
        """Stop where too many shards are damaged.

        Raises:
            DataError: with an example and the field that allows more.
        """
        if count > allowed(self._limit, self._shards):
            raise DataError(
                f"{example}, or raise spec.data.maxBadShards ({self._limit}; damaged so far: {count} of {self._shards} "
                "shards) to use what can be read"
            )
