"""FLOPs of a training and the time that they take at a given share of a card's peak. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from diht_k8s.recipe.train.estimate.footprint import Placement, Sizes


@dataclass(frozen=True)
class StepFlops:
    """Operations of one pair, a multiplication and an addition counted as two."""

    parts: dict[str, float]
    """forward and backward, by part."""
    recomputed: float
    """forward passes that run once more: activation checkpointing and gradient caching."""

    @property
    def model(self) -> float:
        """What the training needs; recomputation does not count, as is the custom for MFU."""
        return sum(self.parts.values())

    @property
    def executed(self) -> float:
        """What the card computes."""
        return self.model + self.recomputed


def step_flops(
    image: float, text: float, sizes: Sizes, placement: Placement, *, checkpointing: bool, locked_image: bool
) -> StepFlops:
    """Operations of a pair's step.

    Args:
        image: of one image's forward pass.
        text: of one caption's forward pass.
        sizes: of the model.
        placement: how the training is divided; the loss compares each pair with those of all ranks.
        checkpointing: whether activations are computed twice.
        locked_image: whether the image tower is frozen and has no backward pass.
    """
    pairs = placement.local * placement.world
    parts = {
        "image tower": image * (1.0 if locked_image else 3.0),
        "text tower": text * 3.0,
        # Logits once; then the gradients of both sides. The second pass over the logits is recomputation.
        "loss": 6.0 * pairs * sizes.embed_dim,
        "heads": 6.0 * sizes.head_parameters,
    }
    again = 2.0 * pairs * sizes.embed_dim
    again += image + text + 2.0 * sizes.head_parameters if placement.in_parts else 0.0
    again += (0.0 if locked_image else image) + text if checkpointing else 0.0
    return StepFlops(parts, again)


@dataclass(frozen=True)
class Pace:
    """How long the training takes."""

    samples_per_second: float
    step_seconds: float
    model_mfu: float
    """share of the peak without recomputation."""
    days: float
    gpu_hours: float


def pace_of(work: StepFlops, *, peak: float, utilisation: float, batch: int, ranks: int, samples: int) -> Pace:
    """Pace of all ranks together.

    Args:
        work: of one pair.
        peak: of a card, operations a second.
        utilisation: share of the peak at which a card computes, recomputation included.
        batch: pairs of the global batch.
        ranks: cards.
        samples: seen in all.
    """
    rate = ranks * utilisation * peak / work.executed
    hours = samples / rate / 3600
    return Pace(rate, batch / rate, utilisation * work.model / work.executed, hours / 24, hours * ranks)
