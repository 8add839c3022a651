"""The training step: DeepSpeed around the student, losses, precision, clipping, for a global batch of any size on any
number of ranks.

A batch that does not fit at once runs in micro-batches by gradient caching (GradCache, arXiv 2101.06983); the
contrastive loss always sees all of it. Features are computed first, without a graph; the loss and its gradient follow
on all of them; then each micro-batch runs again, with the same random draws, and is differentiated through a surrogate
of the loss.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum, auto
from typing import Any, Final

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from diht_k8s.api.train import Train
from diht_k8s.stages.train.collectives import this_device
from diht_k8s.stages.train.data.batch import Batch, BatchShare, BatchTargets
from diht_k8s.stages.train.data.normalisation import CLIPS, Normalisation
from diht_k8s.stages.train.data.sampler import generator
from diht_k8s.stages.train.deepspeed_engine import (
    DeepSpeedEngine,
    OverlappedReduction,
    bucket_elements,
    deepspeed_settings,
    reduce_alike,
)
from diht_k8s.stages.train.loss.embedding_distillation import embedding_loss
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import duplicate_share, hn_nce_loss_and_statistics, soft_label_loss
from diht_k8s.stages.train.model.caption_teacher import CaptionTeacher, Lesson
from diht_k8s.stages.train.model.student import Features, Student
from diht_k8s.stages.train.optimizer import adamw
from diht_k8s.stages.train.precision import (
    DTYPES,
    LOSS_SCALE,
    MIN_SCALE,
    LossScale,
    attention_in_fp32,
    needs_fp32_attention,
    require_precision,
)


class Stopwatch:
    """Time of a forward pass on a device, without synchronising it."""

    def __init__(self, device: torch.device) -> None:
        """Make one for a device."""
        self._began, self._ended = 0.0, 0.0
        self._events = None
        if device.type == "cuda":
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))

    def start(self) -> None:
        """The pass begins."""
        self._began = time.perf_counter()
        if self._events is not None:
            self._events[0].record()

    def stop(self) -> None:
        """The pass ends."""
        self._ended = time.perf_counter()
        if self._events is not None:
            self._events[1].record()

    def seconds(self) -> float:
        """To be asked after the step, when the device is past both marks."""
        if self._events is not None:
            return self._events[0].elapsed_time(self._events[1]) / 1000
        return self._ended - self._began


@dataclass(frozen=True)
class Losses:
    """The parts of a global batch's loss, averaged over all ranks, and how hard its negatives are."""

    total: float
    contrastive: float
    object: float
    attribute: float
    embedding: float
    """divergence of the similarities from a teacher's; 0 where none are distilled."""
    regression: float
    """distance of texts from where a regression has them; 0 without one."""
    image_to_text_top1: float
    """share of the batch's images whose own caption scores highest."""
    text_to_image_top1: float
    hardest_weight: float
    """weight of the hardest negative, mean over the batch; 1 if all negatives weigh the same."""
    duplicate_share: float
    """share of the batch's pairs whose caption another pair has too."""

    @property
    def finite(self) -> bool:
        """Whether the loss can be used for a step."""
        return math.isfinite(self.total)


FIGURES: Final = tuple(field.name for field in fields(Losses))
"""Names of a step's figures, the total first."""


class Update(Enum):
    """Outcome of a step; the same on all ranks."""

    MADE = auto()
    OVERFLOW = auto()
    """skipped: the gradients overflowed fp16 at this loss scale, which is halved; normal in fp16."""
    NOT_FINITE = auto()
    """skipped: loss or gradients are not finite."""


class Engine:
    """One rank's share of the training."""

    def __init__(
        self,
        train: Train,
        model: Student,
        *,
        rank: int,
        world: int,
        normalisation: Normalisation = CLIPS,
        seed: int = 0,
        teacher: CaptionTeacher | None = None,
    ) -> None:
        """Wrap the model.

        Args:
            train: the settings.
            model: the student with its first weights.
            rank: of this process.
            world: number of processes.
            normalisation: of the images.
            seed: of the training's random draws.
            teacher: of the texts, None without.

        Raises:
            UserError: the device lacks the precision.
        """
        self._train, self._rank, self._world, self._seed = train, rank, world, seed
        self._teacher = teacher
        self._lesson: Lesson | None = None
        self._model, self._normalisation = model, normalisation
        self._norm: float | Tensor = float("nan")
        self._number = 0
        self._local = BatchShare(train.batch_size, rank, world).rows
        self._micro = min(train.micro_batch_size or self._local, self._local)
        # What autocast rounds images to in any case, before the first convolution.
        self._image_dtype = DTYPES[train.precision]
        self.device = this_device()
        require_precision(self.device, train.precision)
        self.scaling = LossScale() if train.precision == "fp16" else None
        """the loss scaling, None where the precision needs none."""
        if self.scaling is not None:
            model.autocast_dtype = torch.float16
        self.deepspeed = self._initialise(model)
        self._reduction = self._make_reduction()
        self.logit_scale = 0.0
        """inverse temperature of the last step."""
        self.losses: Losses
        """of the last step."""
        self.update = Update.MADE
        """what became of the last step."""
        self._watch = Stopwatch(self.device)

    def _initialise(self, model: Student) -> DeepSpeedEngine:
        # Before the groups hold its parameters: an optimiser steps those that it was given.
        model.to(self.device)
        reduce_alike(model, self._train)
        parameters = _size(model)
        engine: Any
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=adamw(model, self._train),
            config=deepspeed_settings(self._train, micro_batch=self._micro, world=self._world, parameters=parameters),
            dist_init_required=False,
        )
        if self._train.zero_stage == 0:
            engine.enable_backward_allreduce = (
                False  # it would sum after the backward pass, in one copy of all gradients
            )
        return engine

    def _make_reduction(self) -> OverlappedReduction | None:
        """The all-reduce of gradients at ZeRO 0; None where DeepSpeed does it, or one process has nothing to round."""
        dtype = DTYPES[self._train.gradient_reduction]
        if self._train.zero_stage > 0 or (self._world == 1 and dtype is torch.float32):
            return None
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        return OverlappedReduction(trained, dtype, elements=bucket_elements(_size(self._model)))

    def set_learning_rate(self, lr: float) -> None:
        """Set the schedule's learning rate; each group has its own factor."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def step(self, batch: Batch, *, number: int) -> Losses:
        """One optimiser step over the global batch; `update` holds its outcome.

        Args:
            batch: this rank's part, on its device.
            number: of the step, from 0.
        """
        self._number = number
        self._lesson = None if self._teacher is None else self._teacher.lesson(number, self.device)
        self._watch.start()
        fp32 = needs_fp32_attention(self.device, self._train.precision, compiled=self._train.compile)
        with attention_in_fp32() if fp32 else contextlib.nullcontext():
            return self._whole(batch) if self._micro == self._local else self._in_parts(batch)

    def gradient_norm(self) -> float:
        """The global gradient norm of the last step, before clipping; under ZeRO this waits for the device."""
        return float(self._norm)

    def own_seconds(self) -> float:
        """Seconds of the last step's forward pass, up to the first collective."""
        return self._watch.seconds()

    @property
    def micro_batch(self) -> int:
        """Rows of this rank that pass through the model at once, at most."""
        return self._micro

    def scaling_state(self) -> dict[str, Tensor]:
        """The loss scaling for a checkpoint; empty without one."""
        return {} if self.scaling is None else {LOSS_SCALE: self.scaling.state()}

    def load_scaling(self, state: Mapping[str, Tensor]) -> None:
        """Resume the loss scaling of a checkpoint if both have one."""
        if self.scaling is not None and LOSS_SCALE in state:
            self.scaling = LossScale.of(state[LOSS_SCALE])

    def _backward(self, loss: Tensor, *, last: bool = True) -> None:
        """DeepSpeed's backward pass of the scaled loss; ZeRO's optimisers unscale by themselves before they clip.

        The last one of a step averages the gradients over the ranks.
        """
        if self.scaling is not None and self._train.zero_stage > 0:
            self.deepspeed.optimizer.override_loss_scale(self.scaling.scale)
        elif self.scaling is not None:
            loss = loss * self.scaling.scale
        with self._reduction.during() if last and self._reduction is not None else contextlib.nullcontext():
            self.deepspeed.backward(loss)

    def _make_update(self) -> None:
        """DeepSpeed's step, which the device skips if loss or gradients are not finite; then the step's only wait for
        it.
        """
        finite = self._step_zero() if self._train.zero_stage > 0 else self._step_plain()
        if not self.losses.finite:
            self.update = Update.NOT_FINITE
            return
        exhausted = self.scaling is None or self.scaling.scale <= MIN_SCALE
        self.update = Update.MADE if finite else Update.NOT_FINITE if exhausted else Update.OVERFLOW
        if self.scaling is not None:
            self.scaling.update(overflow=not finite)

    def _step_zero(self) -> bool:
        """ZeRO's step, which skips non-finite gradients; whether it was made."""
        self.deepspeed.step()
        self._record(self._figures.tolist())
        norm = self.deepspeed.get_global_grad_norm()
        self._norm = norm if norm is not None else float("nan")
        return not self.deepspeed.optimizer.overflow

    def _step_plain(self) -> bool:
        """The step of ZeRO 0, where DeepSpeed has no norm and would apply any gradient; whether it was made."""
        parameters = [parameter for parameter in self._model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.scaling is not None:
            torch._foreach_div_(gradients, self.scaling.scale)
        norm = torch.nn.utils.get_total_norm(gradients).float()
        if limit := self._train.optimizer.gradient_clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        # Fused AdamW reads it on the device, as torch's GradScaler has it: then weights, moments and steps stay.
        self.deepspeed.optimizer.found_inf = norm.isfinite().logical_not().float()
        self.deepspeed.step()
        *figures, self._norm = torch.cat([self._figures, norm.reshape(1)]).tolist()
        self._record(figures)
        return math.isfinite(self._norm)

    def _forward(self, batch: Batch, part: slice) -> Features:
        tokens_BT = batch.tokens_of(part, cut=self._model.cuts_captions)
        images = batch.images_of(part, self._normalisation, self._image_dtype)
        self._seed_draws((part.start or 0) // self._micro)
        taught_BT = None if self._lesson is None else self._lesson.tokens_BT[part]
        return self.deepspeed(images, tokens_BT, self._train.loss.max_logit_scale, taught_BT)

    def _seed_draws(self, micro_batch: int) -> None:
        """Have dropout draw the same whenever this micro-batch of the step passes: gradient caching passes it twice.

        Activation checkpointing restores the generator's state by itself, in the backward pass.
        """
        drawn = generator(self._seed, "dropout", self._number, self._rank, micro_batch).integers(2**63)
        torch.manual_seed(int(drawn))

    def _whole(self, batch: Batch) -> Losses:
        features = self._forward(batch, slice(None))
        self._watch.stop()
        self._backward(self._mask_nonfinite(self._losses(features, batch)))
        self._make_update()
        return self.losses

    def _in_parts(self, batch: Batch) -> Losses:
        parts = [slice(begin, begin + self._micro) for begin in range(0, self._local, self._micro)]
        with torch.no_grad():
            cached = [self._forward(batch, part) for part in parts]
        self._watch.stop()
        whole = joined(cached)
        self._mask_nonfinite(self._losses(whole, batch)).backward()
        for number, part in enumerate(parts):
            features = self._forward(batch, part)
            last = number == len(parts) - 1
            self.deepspeed.set_gradient_accumulation_boundary(last)
            # DeepSpeed divides by the number of parts, as if the loss were a mean over them.
            self._backward(surrogate(features, whole, part) * len(parts), last=last)
            self._make_update() if last else self.deepspeed.step()
        return self.losses

    def _losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        """The figures of `Losses` by name; averaging over ranks gives the global figures and gradients."""
        loss = self._train.loss
        self._scale = features.logit_scale.detach()
        settings = HnNceSettings.of(loss, self.group, self._train.batch_size)
        contrastive, statistics = hn_nce_loss_and_statistics(
            features.image_BD,
            features.text_BD,
            features.logit_scale,
            settings,
            batch.caption_ids_B if loss.mask_duplicate_captions else None,
        )
        objects, attributes = self._distilled(features, batch.targets)
        total = contrastive + self._train.distillation.weight * (objects + attributes)
        embedding = self._embedding(features, batch.teacher_B2E)
        if self._train.distillation.embeddings is not None:
            total = total + self._train.distillation.embeddings.weight * embedding
        regression = self._taught(features)
        if self._train.distillation.regression is not None:
            total = total + self._train.distillation.regression.weight * regression
        duplicates = duplicate_share(batch.caption_ids_B, self.group, self._train.batch_size)
        return {
            "total": total,
            "contrastive": contrastive,
            "object": objects,
            "attribute": attributes,
            "embedding": embedding,
            "regression": regression,
            **statistics._asdict(),
            "duplicate_share": duplicates,
        }

    def _distilled(self, features: Features, targets: BatchTargets | None) -> tuple[Tensor, Tensor]:
        """The cross-entropies of both heads; 0 without labels."""
        object_logits_BC, attribute_logits_BC = features.object_logits_BC, features.attribute_logits_BC
        if targets is None or object_logits_BC is None or attribute_logits_BC is None:
            return features.image_BD.new_zeros(()), features.image_BD.new_zeros(())
        group = self.group
        objects, attributes, mask_B = targets.objects, targets.attributes, targets.mask_B
        return (
            soft_label_loss(object_logits_BC, objects.ids_BK, objects.probabilities_BK, mask_B, group),
            soft_label_loss(attribute_logits_BC, attributes.ids_BK, attributes.probabilities_BK, mask_B, group),
        )

    def _embedding(self, features: Features, teacher_B2E: Tensor | None) -> Tensor:
        """The loss on a teacher's embeddings; 0 without them."""
        rule = self._train.distillation.embeddings
        if rule is None or teacher_B2E is None:
            return features.image_BD.new_zeros(())
        sides = (features.image_BD, features.text_BD, features.logit_scale)
        return embedding_loss(*sides, teacher_B2E, temperature=rule.temperature, group=self.group)

    def _taught(self, features: Features) -> Tensor:
        """The loss on a regression's embeddings; 0 without one."""
        if self._teacher is None or self._lesson is None or features.taught_BD is None:
            return features.image_BD.new_zeros(())
        return self._teacher.loss(features.taught_BD, self._lesson)

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The ranks that share the batch; None for a single rank."""
        return dist.group.WORLD if self._world > 1 else None

    def _mask_nonfinite(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss, times NaN on all ranks if it is not finite on any: the step is then skipped for its gradients."""
        self._figures = self._averaged(losses)
        return losses["total"] * (self._figures[0] * 0 + 1)

    def _record(self, figures: list[float]) -> None:
        """Keep the step's losses and its logit scale."""
        *losses, self.logit_scale = figures
        self.losses = Losses(**dict(zip(FIGURES, losses, strict=True)))

    def _averaged(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The losses over all ranks in the order of `FIGURES`, and the logit scale, on the device."""
        ordered = [*(losses[name] for name in FIGURES), self._scale.reshape(())]
        values = torch.stack([loss.detach().float() for loss in ordered])
        if self._world > 1:
            dist.all_reduce(values)
            values /= self._world
        return values


def _size(model: Student) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def joined(parts: Sequence[Features]) -> Features:
    """The features of all micro-batches as leaves, whose gradients the loss's backward pass fills."""
    return Features(*(_leaf(parts, field) for field in Features._fields))


def _leaf(parts: Sequence[Features], field: str) -> Any:
    values = [getattr(part, field) for part in parts]
    if values[0] is None:
        return None
    whole = values[0] if values[0].ndim == 0 else torch.cat(values)
    return whole.detach().requires_grad_()


def surrogate(features: Features, whole: Features, part: slice) -> Tensor:
    """A scalar whose weight gradient is this part's share of the loss's: features times cached gradients."""
    total = features.image_BD.new_zeros(())
    for field in Features._fields:
        value, cached = getattr(features, field), getattr(whole, field)
        if value is None or cached.grad is None:
            continue
        if value.ndim:
            total = total + (value * cached.grad[part]).sum()
        elif part.start == 0:  # every part holds the scale, which counts once
            total = total + value * cached.grad
        else:
            total = total + 0.0 * value
    return total
