"""Damaged shards within `data.maxBadShards`: the samples before the damage are used, and the shard is counted.

Every stage reads its shards through `salvaged` or `BadShards.salvage` and stores what they report (`Damage`) with its
output, so that markers and reports show the same shards with the same counts. Filter salvages raw shards; label, train
and evaluate read what it kept, or salvage what was damaged afterwards. Those have rows for the lost samples, too: they
take `lost_sample` for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.samples import DamagedShardError, Sample

LOST: Final = "shard_damaged"
"""Problem of a sample that an earlier stage counted and that lies behind the damage of its shard."""


@dataclass(frozen=True)
class Damage:
    """The damage of a shard."""

    reason: str
    """what is wrong, in words."""
    offset: int
    """number of the first byte that cannot be used, in the unpacked tar."""
    salvaged: int
    """number of samples before it that the stage used."""

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    def of(self, name: str) -> str:
        """A sentence for the user about the shard with this name."""
        return (
            f"{name} is damaged after {self.salvaged} samples ({self.reason}, at byte {self.offset}): "
            "fetch it again or leave it out of the shards"
        )


def damage_summary(found: Mapping[str, Damage]) -> dict[str, list[dict[str, Any]]]:
    """The entry `damaged_shards` of a marker or report, in the order of the names; nothing where no shard is
    damaged.
    """
    shards = [{"name": name, **found[name].to_json()} for name in sorted(found)]
    return {"damaged_shards": shards} if shards else {}


def allowed(limit: int | str, shards: int) -> int:
    """The number of damaged shards that a limit allows: a count, or a percentage of all shards, rounded down."""
    return limit if isinstance(limit, int) else int(float(limit.removesuffix("%")) * shards / 100)


def lost_sample(uid: str) -> Sample:
    """Stands for a sample that lies behind the damage of its shard."""
    return Sample(uid, {}, uid, "", problem=LOST)


def salvaged(samples: Iterator[Sample], report: Callable[[Damage, str], object]) -> Iterator[Sample]:
    """The samples of a shard up to its damage, which `report` takes with a sentence about it."""
    count = 0
    try:
        for sample in samples:
            yield sample
            count += 1
    except DamagedShardError as error:
        report(Damage(error.reason, error.offset, count), str(error))


class BadShards:
    """The damaged shards of a stage, as far as this process knows them."""

    def __init__(self, limit: int | str, shards: int) -> None:
        """Begin.

        Args:
            limit: `data.maxBadShards`.
            shards: number of shards of the stage.
        """
        self._limit, self._shards = limit, shards
        self.found = dict[str, Damage]()

    def salvage(self, name: str, samples: Iterator[Sample]) -> Iterator[Sample]:
        """The samples of the shard with this name up to its damage, which is counted.

        Raises:
            DataError: more shards are damaged than the run allows.
        """
        return salvaged(samples, lambda damage, sentence: self.add(name, damage, sentence))

    def add(self, name: str, damage: Damage, sentence: str = "") -> None:
        """Count a shard, once however often it is read.

        Raises:
            DataError: more shards are damaged than the run allows.
        """
        self.found.setdefault(name, damage)
        if len(self.found) > allowed(self._limit, self._shards):
            raise DataError(
                f"{sentence or damage.of(name)}, or raise spec.data.maxBadShards ({self._limit}; damaged so far: "
                f"{len(self.found)} of {self._shards} shards) to use what can be read"
            )

    def add_all(self, found: Mapping[str, Damage]) -> None:
        """Count the shards that others found.

        Raises:
            DataError: more shards are damaged than the run allows.
        """
        for name, damage in found.items():
            self.add(name, damage)
