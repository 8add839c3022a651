"""DeepSpeed around the student: precision, ZeRO, clipping, one optimiser step for a global batch of any size.

A batch larger than what fits at once is passed through in micro-batches by gradient caching: features first without a graph, the loss
and its gradient on all of them, then each micro-batch again with that gradient. The contrastive loss sees the whole batch either way.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diht_k8s.api.errors import UserError
from diht_k8s.api.training import Train
from diht_k8s.recipe.training.loader import Batch, HeadTargets, Targets
from diht_k8s.recipe.training.losses import hn_nce_loss, soft_label_loss
from diht_k8s.recipe.training.model import Features, Student, parameter_groups


@dataclass(frozen=True)
class Losses:
    """The parts of the loss of a global batch, each already averaged over all ranks."""

    total: float
    contrastive: float
    object: float
    attribute: float


class Engine:
    """One rank's share of the training."""

    def __init__(self, train: Train, model: Student, *, rank: int, world: int) -> None:
        """Wrap the model.

        Raises:
            UserError: the device lacks the precision.
        """
        self._train, self._world = train, world
        self._local = train.batch_size // world
        self._micro = min(train.micro_batch_size or self._local, self._local)
        if self._local % self._micro:
            raise UserError(f"train.microBatchSize {self._micro} must divide the {self._local} pairs of a process")
        self.device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
        if train.precision == "fp16" and self.device.type == "cpu":
            raise UserError("train.precision fp16 needs a GPU: use bf16 or fp32 on this machine")
        self.engine = self._initialise(model)
        self.logit_scale = torch.zeros(())
        """inverse temperature of the last step."""

    def _initialise(self, model: Student) -> Any:
        import deepspeed
        import deepspeed.ops

        # Needs a compiler at start-up and only speeds up CPU collectives inside one host.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if self.device.type == "cuda" else "gloo", verbose=False)
        optimizer = self._train.optimizer
        groups = parameter_groups(
            model,
            weight_decay=optimizer.weight_decay,
            head_lr_scale=self._train.distillation.head_lr_scale,
            head_weight_decay_scale=self._train.distillation.head_weight_decay_scale,
        )
        adamw = torch.optim.AdamW(
            groups, lr=optimizer.lr, betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.eps, fused=True
        )
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=adamw,
            config=self._configuration(sum(parameter.numel() for parameter in model.parameters())),
            dist_init_required=False,
        )
        return engine

    def _configuration(self, num_parameters: int) -> dict[str, Any]:
        train = self._train
        # DeepSpeed's buckets of 5e8 elements are allocated anew in each step: 2 GB of address space that a small model never fills.
        bucket = min(500_000_000, num_parameters + num_parameters % 2)  # DeepSpeed wants it even
        configuration: dict[str, Any] = {
            "train_batch_size": train.batch_size,
            "train_micro_batch_size_per_gpu": self._micro,
            "gradient_accumulation_steps": self._local // self._micro,
            "gradient_clipping": train.optimizer.gradient_clip_norm,
            "zero_optimization": {
                "stage": train.zero_stage,
                "stage3_param_persistence_threshold": 0,
                "reduce_bucket_size": bucket,
                "allgather_bucket_size": bucket,
            },
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
            "wall_clock_breakdown": False,
        }
        if train.precision == "bf16":
            # Autocast keeps fp32 weights and norms: the same numbers for every ZeRO stage, and checkpoints hold one precision.
            configuration["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        if train.precision == "fp16":
            configuration["fp16"] = {"enabled": True}
        return configuration

    def set_learning_rate(self, lr: float) -> None:
        """Set the schedule's learning rate; each group has its own factor."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def step(self, batch: Batch) -> Losses:
        """One optimiser step over the global batch, of which `batch` is this rank's part."""
        batch = _to(batch, self.device)
        losses = self._whole(batch) if self._micro == self._local else self._in_parts(batch)
        return self._averaged(losses)

    def gradient_norm(self) -> float:
        """The global gradient norm of the last step, before clipping."""
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def _forward(self, batch: Batch, part: slice) -> Features:
        return self.engine(batch.images_BCHW[part], batch.tokens_BT[part], self._train.loss.max_logit_scale)

    def _whole(self, batch: Batch) -> list[Tensor]:
        losses = self._losses(self._forward(batch, slice(None)), batch)
        self.engine.backward(losses[0])
        self.engine.step()
        return losses

    def _in_parts(self, batch: Batch) -> list[Tensor]:
        parts = [slice(begin, begin + self._micro) for begin in range(0, self._local, self._micro)]
        states, cached = [], []
        with torch.no_grad():
            for part in parts:
                states.append(_random_state(self.device))
                cached.append(self._forward(batch, part))
        whole = Features(*(_leaf(cached, field) for field in Features._fields))
        losses = self._losses(whole, batch)
        losses[0].backward()
        for number, (part, state) in enumerate(zip(parts, states, strict=True)):
            with _replayed(state, self.device):
                features = self._forward(batch, part)
            self.engine.set_gradient_accumulation_boundary(number == len(parts) - 1)
            # DeepSpeed divides by the number of parts, as if the loss were a mean over them.
            self.engine.backward(_surrogate(features, whole, part) * len(parts))
            self.engine.step()
        return losses

    def _losses(self, features: Features, batch: Batch) -> list[Tensor]:
        """[total, contrastive, object, attribute]; averaging over ranks gives the global figures and gradients."""
        loss, group = self._train.loss, dist.group.WORLD if self._world > 1 else None
        self.logit_scale = features.logit_scale.detach()
        contrastive = hn_nce_loss(
            features.image_BD,
            features.text_BD,
            features.logit_scale,
            alpha=loss.alpha,
            beta=loss.beta,
            differentiate_weights=loss.differentiate_weights,
            group=group,
            caption_ids_B=batch.caption_ids_B if loss.mask_duplicate_captions else None,
        )
        zero = contrastive.new_zeros(())
        objects = attributes = zero
        if (
            batch.targets is not None
            and features.object_logits_BC is not None
            and features.attribute_logits_BC is not None
        ):
            targets = batch.targets
            objects = soft_label_loss(
                features.object_logits_BC,
                targets.objects.ids_BK,
                targets.objects.probabilities_BK,
                targets.mask_B,
                group,
            )
            attributes = soft_label_loss(
                features.attribute_logits_BC,
                targets.attributes.ids_BK,
                targets.attributes.probabilities_BK,
                targets.mask_B,
                group,
            )
        total = contrastive + self._train.distillation.weight * (objects + attributes)
        return [total, contrastive, objects, attributes]

    def _averaged(self, losses: list[Tensor]) -> Losses:
        values = torch.stack([loss.detach().float() for loss in losses])
        if self._world > 1:
            dist.all_reduce(values)
            values /= self._world
        return Losses(*values.tolist())


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    targets = batch.targets
    return replace(
        batch,
        images_BCHW=batch.images_BCHW.to(device, non_blocking=True),
        tokens_BT=batch.tokens_BT.to(device, non_blocking=True),
        caption_ids_B=batch.caption_ids_B.to(device),
        targets=None if targets is None else _targets_to(targets, device),
    )


def _targets_to(targets: Targets, device: torch.device) -> Targets:
    def moved(head: HeadTargets) -> HeadTargets:
        return HeadTargets(head.ids_BK.to(device), head.probabilities_BK.to(device))

    return Targets(moved(targets.objects), moved(targets.attributes), targets.mask_B.to(device))


def _leaf(parts: list[Features], field: str) -> Any:
    values = [getattr(part, field) for part in parts]
    if values[0] is None:
        return None
    joined = values[0] if values[0].ndim == 0 else torch.cat(values)
    return joined.detach().requires_grad_()


def _surrogate(features: Features, whole: Features, part: slice) -> Tensor:
    """A scalar whose gradient by the weights is this part's share of the loss's: features times the cached gradients."""
    total = features.image_BD.new_zeros(())
    for field in Features._fields:
        value, cached = getattr(features, field), getattr(whole, field)
        if value is None or cached.grad is None:
            continue
        if value.ndim:
            total = total + (value * cached.grad[part]).sum()
        elif part.start == 0:  # the scale stands in every part but counts once
            total = total + value * cached.grad
        else:
            total = total + 0.0 * value
    return total


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


@contextlib.contextmanager
def _replayed(state: list[Tensor], device: torch.device) -> Iterator[None]:
    """The random numbers (dropout, patch dropout) of the first pass again, without disturbing the sequence."""
    now = _random_state(device)
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
    try:
        yield
    finally:
        torch.set_rng_state(now[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(now[1], device)
