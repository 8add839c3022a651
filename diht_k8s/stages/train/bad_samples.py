"""What a training's batches held: bad samples by reason and damaged shards, with their limits, and all that it
consumed.

A few bad ones are expected, many stop the training. At the end the pairs of all ranks' batches are what its steps took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.runtime.bad_shards import LOST, BadShards, Damage, damage_summary
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.stages.train.collectives import gather_objects
from diht_k8s.stages.train.data.batch import Batch

MAX_BAD_FRACTION: Final = 0.01


class BadSamples:
    """Counts of one rank."""

    def __init__(self, limit: int | str, shards: int, known: Mapping[str, Damage]) -> None:
        """Begin.

        Args:
            limit: `data.maxBadShards`.
            shards: number of shards of the training.
            known: damaged shards that were found when they were counted.
        """
        self.counts: Counter[str] = Counter()
        self._bad_shards = BadShards(limit, shards)
        self._bad_shards.add_all(known)

    @property
    def unusable(self) -> int:
        """This rank's bad samples; those of damaged shards are left out, for `data.maxBadShards` limits them."""
        return self.counts.total() - self.counts[LOST]

    def add(self, batch: Batch) -> None:
        """Count the bad samples and damaged shards of this rank's part of a batch.

        Raises:
            DataError: more shards are damaged than the run allows.
        """
        self._bad_shards.add_all(batch.damaged)
        self.counts.update(batch.bad)

    def check(self, unusable: int, seen: int) -> None:
        """Stop where too many samples are bad: on all ranks at once, and alike for any number of them.

        Args:
            unusable: of all ranks.
            seen: samples of an epoch, or of all steps so far if they are more.

        Raises:
            DataError: they are too many.
        """
        if unusable > MAX_BAD_FRACTION * seen:
            raise DataError(
                f"more than {MAX_BAD_FRACTION:.0%} of the pairs cannot be used ({unusable:,} of {seen:,}; on this rank "
                f"{dict(self.counts)}): run the stage filter on this data"
            )

    def metrics(self, validation: Mapping[str, Damage]) -> dict[str, float]:
        """The number of damaged shards that this rank knows, for the progress; empty where there are none.

        Args:
            validation: damaged shards of the held-out pairs.
        """
        found = self._bad_shards.found.keys() | validation.keys()
        return {"bad_shards": len(found)} if found else {}

    def summary(self, validation: Mapping[str, Damage]) -> dict[str, list[dict[str, Any]]]:
        """The entry `damaged_shards` of the marker, over all ranks (a collective).

        Args:
            validation: damaged shards of the held-out pairs.
        """
        found = dict(validation)
        for theirs in gather_objects(self._bad_shards.found):
            found |= theirs
        return damage_summary(found)


REMEDY = "start again to resume from the last checkpoint"


@dataclass
class Consumption:
    """What the batches of an attempt held, as one rank sees it."""

    began: int
    """global position at which the attempt began."""
    rows: int = 0
    """with pairs, of this rank's batches."""

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.rows += len(batch.uids)

    def check(self, position: int, planned: int) -> None:
        """Compare at the end (a collective).

        Args:
            position: global position after the last step.
            planned: samples of the whole training: `train.samples`, rounded up to whole batches.

        Raises:
            DataError: batches had more or fewer rows than the steps, or the training ends elsewhere; on all ranks.
        """
        rows = sum(gather_objects(self.rows))
        steps = Count(position - self.began, "samples belong to the steps of this attempt")
        require_equal("train", REMEDY, steps, Count(rows, "rows had their batches"))
        require_equal("train", REMEDY, Count(planned, "samples were planned"), Count(position, "are done"))
