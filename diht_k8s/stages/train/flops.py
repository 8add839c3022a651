"""FLOPs of a training step: one account of work, counted by torch's FlopCounterMode on tensors without data.

A multiplication and an addition are two operations. Products are counted (layers, attention, losses), forward and
backward, as the student of the settings does them in training: the patches that `patchDropout` leaves, no backward pass
in a locked tower, none at all with stored features, no gradient for pixels and locked features. Norms, activations and
the optimizer are not counted, as is the custom. `estimate` and `mfu_percent` both take their figures from here; model
FLOPs utilisation (MFU) is what the pairs need over the devices' peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.batch import Batch
from diht_k8s.stages.train.estimate.gpus import peak_flops
from diht_k8s.stages.train.loss.embedding_distillation import embedding_loss
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import hn_nce_loss_and_statistics
from diht_k8s.stages.train.model.configurations import model_configuration
from diht_k8s.stages.train.model.student import Student, take_sizes

LOSS_PAIRS: Final = 16
"""Pairs of the batch on which the losses are counted; their operations grow with the square."""


class PassFlops(NamedTuple):
    """Operations of a module for one sample."""

    forward: int
    both: int
    """forward and backward."""


class CountedStudent:
    """A student in training on the meta device, whose operations are counted."""

    def __init__(self, train: Train, *, num_objects: int, num_attributes: int) -> None:
        """Make the model.

        Args:
            train: the settings.
            num_objects: classes of the object head; 0: no head.
            num_attributes: classes of the attribute head; 0: no head.

        Raises:
            UserError: open_clip refuses the model.
        """
        config = model_configuration(train)
        self.width: int = config["embed_dim"]
        with torch.device("meta"):
            self.model = Student(
                config,
                num_objects=num_objects,
                num_attributes=num_attributes,
                heads_input=train.distillation.heads_input,
            )
        if train.lock_image_tower:
            self.model.lock_image_tower()
        if train.stages:
            take_sizes(self.model.image_tower, [stage.image_size for stage in train.stages])
        self._stored = train.features == "Stored"

    def image_tower(self, side: int | None = None) -> PassFlops:
        """Of one image of a side, or the model's own, counted on two: BatchNorm trains on no single value a channel."""
        images = self._images(side)
        counted = _counted(lambda: self.model.encode_image(images))
        return PassFlops(counted.forward // 2, counted.both // 2)

    def text_tower(self, length: int) -> PassFlops:
        """Of one caption that is cut to some tokens."""
        tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
        return _counted(lambda: self.model.text_features(tokens))

    def heads(self) -> PassFlops:
        """Of one image's features through both concept heads."""
        heads = [head for head in (self.model.object_head, self.model.attribute_head) if head is not None]
        if not heads:
            return PassFlops(0, 0)
        images = self._images(None)
        seen_BW = self.model.concept_inputs(images, self.model.encode_image(images))
        seen_1W = seen_BW[:1].detach().requires_grad_(seen_BW.requires_grad)  # a locked tower needs no gradient
        counts = [_counted(lambda head=head: head(seen_1W)) for head in heads]
        return PassFlops(sum(each.forward for each in counts), sum(each.both for each in counts))

    def _images(self, side: int | None) -> Tensor:
        """What the image side takes of two pairs."""
        side = self.model.image_size if side is None else side
        images = torch.empty(2, 3, side, side, device="meta")
        if not self._stored:
            return images
        assert self.model.locked is not None
        return self.model.locked(images)


def _of_contrastive_loss(train: Train, width: int) -> PassFlops:
    """For a pair and each pair of the global batch; the backward pass computes the logits again."""
    image, text, scale = _features(width)
    return _for_each_pair(lambda: hn_nce_loss_and_statistics(image, text, scale, HnNceSettings.of(train.loss), None)[0])


def _of_embedding_loss(width: int, teacher_width: int) -> PassFlops:
    """As `_of_contrastive_loss`; the backward pass computes the logits of student and teacher again."""
    image, text, scale = _features(width)
    teacher = torch.empty(LOSS_PAIRS, 2, teacher_width, device="meta")
    return _for_each_pair(lambda: embedding_loss(image, text, scale, teacher, temperature=1.0))


def _features(width: int) -> tuple[Tensor, Tensor, Tensor]:
    image, text = (torch.empty(LOSS_PAIRS, width, device="meta", requires_grad=True) for _ in range(2))
    return image, text, torch.empty((), device="meta", requires_grad=True)


def _for_each_pair(loss: Callable[[], Tensor]) -> PassFlops:
    return PassFlops(*(flops // LOSS_PAIRS**2 for flops in _counted(loss)))


def _addmm(_sum: torch.Size, left: torch.Size, right: torch.Size, **_rest: Any) -> int:
    """Operations of `addmm_`, which is missing in the counter's table, unlike `addmm`."""
    return 2 * left[0] * left[1] * right[1]


COUNTED_TOO: Final = {torch.ops.aten.addmm_: _addmm}
"""Operators that the counter's own table lacks."""


def _counted(call: Callable[[], Tensor]) -> PassFlops:
    # The plain attention kernel: the counter does not know the fused one of CPUs. Both do the same products.
    with (
        FlopCounterMode(display=False, custom_mapping=COUNTED_TOO) as counter,
        nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    ):
        made = call()
        forward = counter.get_total_flops()
        if made.requires_grad:  # a frozen tower has no backward pass
            made.sum().backward()
    return PassFlops(forward, counter.get_total_flops())


@dataclass(frozen=True)
class PairFlops:
    """Operations of one pair in a training step."""

    parts: dict[str, int]
    """forward and backward, by part; recomputation does not count, as is the custom for MFU."""
    recomputed: dict[str, int]
    """what is computed once more, by part: logits of the losses, activation checkpointing, gradient caching."""

    @property
    def model(self) -> int:
        """Operations that the training needs."""
        return sum(self.parts.values())

    @property
    def executed(self) -> int:
        """Operations that the card computes."""
        return self.model + sum(self.recomputed.values())


class StepWork:
    """The account: operations of the pairs of a training."""

    def __init__(self, train: Train, *, num_objects: int, num_attributes: int) -> None:
        """Make the student without data.

        Args:
            train: the settings; the losses compare each pair with those of the global batch.
            num_objects: classes of the object head; 0: no head.
            num_attributes: classes of the attribute head; 0: no head.

        Raises:
            UserError: open_clip refuses the model.
        """
        self._train, self._classes = train, {"num_objects": num_objects, "num_attributes": num_attributes}
        self._student = CountedStudent(train, **self._classes)
        self.of_pair, self._image = cache(self._of_pair), cache(self._count_image)

    @property
    def context_length(self) -> int:
        """Tokens of a caption at most."""
        return self._student.model.clip.context_length

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self._student.model.image_size

    @property
    def cuts_captions(self) -> bool:
        """Whether a micro-batch is cut to its longest caption."""
        return self._student.model.cuts_captions

    def of_mean_pair(self, length: int, *, teacher_width: int = 0, in_parts: bool = False) -> PairFlops:
        """The mean over the stages of the resolution (`of_pair`)."""
        stages = self._train.stages
        if not stages:
            return self.of_pair(length, teacher_width=teacher_width, in_parts=in_parts)
        counted = [
            self.of_pair(length, teacher_width=teacher_width, in_parts=in_parts, image_side=stage.image_size)
            for stage in stages
        ]

        def mean(of: Callable[[PairFlops], dict[str, int]]) -> dict[str, int]:
            total = {
                name: sum(of(c)[name] * s.samples for c, s in zip(counted, stages, strict=True))
                for name in of(counted[0])
            }
            return {name: flops // self._train.samples for name, flops in total.items()}

        return PairFlops(mean(lambda each: each.parts), mean(lambda each: each.recomputed))

    def _of_pair(
        self, length: int, *, teacher_width: int = 0, in_parts: bool = False, image_side: int | None = None
    ) -> PairFlops:
        """Count the operations of a pair.

        Args:
            length: tokens to which its micro-batch is cut.
            teacher_width: of the teacher's embeddings; 0: none are distilled.
            in_parts: whether a rank's batch runs by gradient caching.
            image_side: in pixels; None takes the model's own.
        """
        image, text, heads = self._image(image_side), self._student.text_tower(length), self._heads
        losses = {name: flops for name, flops in self._losses(teacher_width).items() if flops.both}
        if self._train.distillation.regression is not None:
            text = PassFlops(2 * text.forward, 2 * text.both)  # as many texts of the teacher's
        parts = {"image tower": image.both, "text tower": text.both, "heads": heads.both}
        recomputed = dict.fromkeys(parts, 0)
        if in_parts:
            recomputed = {"image tower": image.forward, "text tower": text.forward, "heads": heads.forward}
        if self._train.activation_checkpointing:
            recomputed["image tower"] += self._recomputing.image_tower(image_side).both - image.both
            recomputed["text tower"] += self._recomputing.text_tower(length).both - text.both
        parts |= {name: flops.both - flops.forward for name, flops in losses.items()}
        recomputed |= {name: flops.forward for name, flops in losses.items()}
        return PairFlops(parts, recomputed)

    def _count_image(self, side: int | None) -> PassFlops:
        return self._student.image_tower(side)

    @cached_property
    def _heads(self) -> PassFlops:
        return self._student.heads()

    @cached_property
    def _recomputing(self) -> CountedStudent:
        """The student with activation checkpointing."""
        student = CountedStudent(self._train, **self._classes)
        student.model.set_grad_checkpointing()
        return student

    def _losses(self, teacher_width: int) -> dict[str, PassFlops]:
        """Of a pair beside the whole batch, by part."""
        width, pairs = self._student.width, self._train.batch_size
        counts = {"loss": _of_contrastive_loss(self._train, width)}
        if teacher_width:
            counts["loss of embeddings"] = _of_embedding_loss(width, teacher_width)
        return {name: PassFlops(*(pairs * flops for flops in count)) for name, count in counts.items()}


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
        """Of a step of all ranks, whose captions are taken to be as long as those of rank 0's part, which is all
        pairs.
        """
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
