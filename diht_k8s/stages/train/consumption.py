"""Samples that a training has consumed: the pairs of all ranks' batches beside what its steps should have taken."""

from __future__ import annotations

from dataclasses import dataclass

from diht_k8s.runtime.ledger import Count, require_equal
from diht_k8s.stages.train.collectives import gather_objects
from diht_k8s.stages.train.data.batch import Batch

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
