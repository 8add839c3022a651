"""Model FLOPs utilisation (MFU) of a training: the operations that its pairs need over the devices' peak."""

from __future__ import annotations

import torch

from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.estimate.gpus import peak_flops
from diht_k8s.stages.train.flops import StepWork


class MfuMeter:
    """Counts the operations of steps from what rank 0 sees of them."""

    def __init__(self, work: StepWork, peak: float, *, batch_size: int, world: int, micro_batch: int) -> None:
        """Make a meter.

        Args:
            work: the account of the training.
            peak: of one device, in operations a second.
            batch_size: pairs of the global batch: rows that hold none are no work.
            world: number of ranks.
            micro_batch: rows that pass through the model at once, each as long as the longest caption among them.
        """
        self._work, self._peak = work, peak
        self._batch_size, self._world, self._micro_batch = batch_size, world, micro_batch

    def operations(self, batch: Batch) -> float:
        """Of a step of all ranks, whose captions are taken to be as long as those of rank 0's part, which is all pairs."""
        lengths = batch.caption_lengths
        teacher_width = 0 if batch.teacher_B2E is None else batch.teacher_B2E.shape[-1]
        side = batch.seen_B.shape[1] if batch.seen_B.ndim > 2 else None
        total = 0
        for begin in range(0, len(lengths), self._micro_batch):
            part = lengths[begin : begin + self._micro_batch]
            cut = max(part) if self._work.cuts_captions else batch.tokens_BT.shape[1]
            total += len(part) * self._work.of_pair(cut, teacher_width=teacher_width, image_side=side).model
        return self._batch_size * total / len(lengths)

    def percent(self, operations: float, seconds: float) -> float:
        """Share of all devices' peak."""
        return 100.0 * operations / (seconds * self._world * self._peak)


def mfu_meter(train: Train, *, num_objects: int, num_attributes: int, world: int, micro_batch: int) -> MfuMeter | None:
    """The meter of a training on this machine's device; None where its peak is not known.

    Args:
        train: the settings.
        num_objects: classes of the object head; 0: no head.
        num_attributes: classes of the attribute head; 0: no head.
        world: number of ranks.
        micro_batch: rows of a rank that pass through the model at once, at most.
    """
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if peak is None:
        return None
    work = StepWork(train, num_objects=num_objects, num_attributes=num_attributes)
    return MfuMeter(work, peak, batch_size=train.batch_size, world=world, micro_batch=micro_batch)
