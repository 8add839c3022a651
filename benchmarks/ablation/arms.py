"""The arms of the ablation, each with what it is compared with. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

BATCH: Final = 64
"""Pairs a step, few so that few samples make many steps: 12,288 samples give R@5 7.6 % in batches of 64, 5.8 % in
batches of 256.
"""
SHOWN: Final = ("r5", "r1", "mrr", "zero_shot")
"""Figures of the table, the main one first."""
Split = Literal["Development", "HeldOut", "Both"]
"""Whose benchmarks a training is measured on."""
PoolName = Literal["kept", "random", "junk_kept", "junk_random"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train; everything that is not named is the same in all arms."""

    name: str
    what: str
    """for the table."""
    against: str | None = "plain"
    """the arm that it is compared with, seed by seed."""
    pool: PoolName = "kept"
    labels: Literal["teacher", "shuffled", "untrained", "captions"] | None = None
    """soft labels that the concept heads learn; None: no heads."""
    beta: float = 0.0


ARMS: Final[tuple[Arm, ...]] = (
    Arm(name="plain", what="CLIP on the pairs that the filter keeps", against=None),
    Arm(name="distill", what="concept distillation", labels="teacher"),
    Arm(
        name="distill_shuffled",
        what="the same labels, each on another image",
        labels="shuffled",
    ),
    Arm(name="distill_untrained", what="labels from an untrained teacher", labels="untrained"),
    Arm(name="distill_captions", what="the concepts of each image's own caption, no teacher", labels="captions"),
    Arm(name="hn_0.25", what="hard negatives, beta 0.25", beta=0.25),
    Arm(name="hn_0.5", what="hard negatives, beta 0.5", beta=0.5),
    Arm(name="hn_1", what="hard negatives, beta 1", beta=1.0),
    Arm(name="distill_hn", what="concept distillation and beta 0.25", against="distill", labels="teacher", beta=0.25),
    Arm(name="random", what="a random subset of the pool, as large as what the filter keeps", pool="random"),
    Arm(name="junk_kept", what="the filter on the pool with 30 % junk", against="junk_random", pool="junk_kept"),
    Arm(name="junk_random", what="a random subset of that pool, equally large", against="plain", pool="junk_random"),
)
