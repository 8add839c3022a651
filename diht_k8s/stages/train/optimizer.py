"""The optimizer: AdamW over its parameter groups, and the learning-rate schedule over samples seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from diht_k8s.api.train import Optimizer, Schedule, Train
from diht_k8s.stages.train.model.student import Student


def learning_rate(optimizer: Optimizer, schedule: Schedule, *, seen: int, samples: int) -> float:
    """The learning rate after `seen` of `samples` samples: linear warm-up, then by the type of schedule."""
    if seen < schedule.warmup_samples:
        return optimizer.lr * (seen + 1) / (schedule.warmup_samples + 1)
    if schedule.type == "Constant":
        return optimizer.lr
    if schedule.type == "WSD":
        begin = schedule.decay_begin(samples)
        left = 1 - math.sqrt(min(1.0, max(0.0, seen - begin) / (samples - begin)))
    else:
        progress = min(1.0, (seen - schedule.warmup_samples) / max(1, samples - schedule.warmup_samples))
        left = 0.5 * (1 + math.cos(math.pi * progress))
    return schedule.min_lr + (optimizer.lr - schedule.min_lr) * left


def adamw(model: Student, train: Train) -> torch.optim.AdamW:
    """AdamW over the student's parameter groups, fused; the schedule sets its learning rate before each step."""
    optimizer, distillation = train.optimizer, train.distillation
    groups = parameter_groups(
        model,
        weight_decay=optimizer.weight_decay,
        head_lr_scale=distillation.head_lr_scale,
        head_weight_decay_scale=distillation.head_weight_decay_scale,
    )
    betas = (optimizer.beta1, optimizer.beta2)
    return torch.optim.AdamW(groups, lr=optimizer.lr, betas=betas, eps=optimizer.eps, fused=True)


def parameter_groups(
    model: Student, *, weight_decay: float, head_lr_scale: float, head_weight_decay_scale: float
) -> list[dict[str, Any]]:
    """AdamW's groups: no decay on gains, biases and the logit scale; the heads with their own learning rate and decay.

    `lr_scale` of a group multiplies the schedule's learning rate.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    heads = [(name, parameter) for name, parameter in named if name.startswith(("object_head", "attribute_head"))]
    towers = [(name, parameter) for name, parameter in named if not name.startswith(("object_head", "attribute_head"))]
    groups = [
        _group("towers", (p for _, p in towers if _decays(p)), weight_decay, 1.0),
        _group("towers, no decay", (p for _, p in towers if not _decays(p)), 0.0, 1.0),
        _group("heads", (p for _, p in heads if _decays(p)), weight_decay * head_weight_decay_scale, head_lr_scale),
        _group("heads, no decay", (p for _, p in heads if not _decays(p)), 0.0, head_lr_scale),
    ]
    return [group for group in groups if group["params"]]


def _group(name: str, parameters: Iterable[nn.Parameter], weight_decay: float, lr_scale: float) -> dict[str, Any]:
    return {"name": name, "params": list(parameters), "weight_decay": weight_decay, "lr_scale": lr_scale}


def _decays(parameter: nn.Parameter) -> bool:
    """Gains, biases and the logit scale are vectors."""
    return parameter.ndim >= 2
