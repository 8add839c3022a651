"""What `PROTOCOL-2.md` trains, in order, and compares. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from benchmarks.ablation.arms import BATCH, Split

DOCUMENT: Final = "benchmarks/ablation/corpus.yaml"
SPLIT: Final[Split] = "Both"
FROZEN: Final = ("lr=1.5e-3", "concept_weight=2.0")
"""The choices of the first protocol, as NAME=VALUE of `training.Sizes`."""
FIRST_SEED, SEEDS = 100, 10
STEPS: Final = 6000
"""The length that decides."""
SEEDS_BEYOND: Final = 3
"""of what is longer, which decides nothing."""
CONTROLS: Final = ("distill_captions", "distill_untrained", "distill_shuffled", "plain")
"""What distillation is compared with, each at the length that is best for it."""


def sizes(steps: int) -> list[str]:
    """Sizes of the ablation, as NAME=VALUE."""
    return [f"samples={steps * BATCH}", *FROZEN]


@dataclass(frozen=True)
class Length:
    """Trainings of one length."""

    steps: int
    arms: tuple[str, ...]
    """in the order of the trainings of a seed."""

    @property
    def seeds(self) -> int:
        """From the first on."""
        return SEEDS if self.steps <= STEPS else SEEDS_BEYOND


LENGTHS: Final = (
    Length(
        6000,
        (
            "distill",
            "distill_captions",
            "distill_untrained",
            "distill_shuffled",
            "plain",
            "distill_hn",
            "hn_0.25",
            "junk_kept",
            "junk_random",
        ),
    ),
    Length(3000, CONTROLS),
    Length(1500, CONTROLS),
    Length(12000, ("distill", "distill_captions", "plain")),
)
PLANNED: Final = sum(length.seeds * len(length.arms) for length in LENGTHS)
"""Trainings of the protocol."""
PARTS: Final = {
    ("hn_0.25", "plain"): "Hard negatives",
    ("distill_hn", "distill"): "Hard negatives beside distillation",
    ("junk_kept", "junk_random"): "The filter on the junk pool",
}
"""Tested beside distillation and its controls."""
SHOWN_PAIRS: Final = (("distill_captions", "plain"), ("distill_untrained", "plain"), ("distill_shuffled", "plain"))
"""Shown, not tested."""
PRIMARY: Final = "style-names"
CAPTIONS: Final = "style"
"""The gallery whose figures are split by kind of caption."""
DEVELOPMENT: Final = ("development-style-names", "development-concepts-names")
"""Their mean R@5 chooses a control's best length."""
ELSEWHERE: Final = ("concepts-names", "openmoji-names", "icon-park-names")
PROBES: Final = ("pixel-categories", "openmoji-categories", "icon-park-categories")
