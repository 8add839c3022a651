"""The learning rate over samples seen. Pure."""

from __future__ import annotations

import math

from diht_k8s.api.train import Optimizer, Schedule


def learning_rate(optimizer: Optimizer, schedule: Schedule, *, seen: int, samples: int) -> float:
    """The learning rate after `seen` of `samples` samples: linear warm-up, then cosine to minLr, or constant."""
    if seen < schedule.warmup_samples:
        return optimizer.lr * (seen + 1) / (schedule.warmup_samples + 1)
    if schedule.type == "Constant":
        return optimizer.lr
    progress = min(1.0, (seen - schedule.warmup_samples) / max(1, samples - schedule.warmup_samples))
    return schedule.min_lr + (optimizer.lr - schedule.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
