"""What the GPU benchmark runs: models, sides, numbers of cards. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

HARD_NEGATIVES: Final = {"loss": {"alpha": 1.0, "beta": 0.25}}
INFO_NCE: Final = {"loss": {"alpha": 1.0, "beta": 0.0}}
NO_HEADS: Final = {"distillation": {"mode": "Disabled"}}
HEADS: Final = {"distillation": {"mode": "Concepts"}}


@dataclass(frozen=True)
class Size:
    """A model and the pairs of one card."""

    name: str
    batch: int
    """pairs of each card; what open_clip's trainer fits into 80 GB without gradient caching."""
    config: dict[str, Any] | None = None
    """an open_clip configuration; None takes the one of that name."""


SIZES: Final = (Size("ViT-B-32", 1024), Size("ViT-B-16", 512), Size("ViT-L-14", 128))

_TINY: Final = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
SMOKE: Final = (Size("tiny", 16, _TINY),)
"""For `--smoke`: every part of the benchmark on a CPU, with figures that mean nothing."""


@dataclass(frozen=True)
class Side:
    """A trainer with its settings."""

    name: str
    ours: dict[str, Any] | None = None
    """fields of `spec.train`; None for the reference."""
    options: tuple[str, ...] = ()
    """further options of open_clip's trainer, each known to its version or the side is left out."""
    plain: bool = True
    """trains by InfoNCE without heads, as open_clip does."""
    distributed: bool = False
    """makes sense on several cards only."""

    @property
    def is_reference(self) -> bool:
        """Whether open_clip's trainer runs."""
        return self.name.startswith("open_clip")


SIDES: Final = (
    Side("open_clip", options=()),
    Side("open_clip, compile", options=("--torchcompile",)),
    Side("open_clip, compile step", options=("--torchcompile", "--torchcompile-strategy=step")),
    Side("open_clip, FSDP", options=("--fsdp",), distributed=True),
    Side("open_clip, FSDP, compile", options=("--fsdp", "--torchcompile"), distributed=True),
    Side("ours", {**INFO_NCE, **NO_HEADS}),
    Side("ours, compile", {**INFO_NCE, **NO_HEADS, "compile": True}),
    Side("ours, HN-NCE", {**HARD_NEGATIVES, **NO_HEADS}, plain=False),
    Side("ours, HN-NCE, heads", {**HARD_NEGATIVES, **HEADS}, plain=False),
    Side("ours, HN-NCE, heads, compile", {**HARD_NEGATIVES, **HEADS, "compile": True}, plain=False),
)
LOSS: Final = Side("HN-NCE alone", plain=False)
"""Not a trainer: times the loss with its gradient, for its share of a step."""


@dataclass(frozen=True)
class Case:
    """One measurement."""

    size: Size
    side: Side
    cards: int

    @property
    def name(self) -> str:
        """What it is called in tables and by `--only`."""
        return f"{self.size.name}, {self.cards} {'card' if self.cards == 1 else 'cards'}: {self.side.name}"

    @property
    def batch(self) -> int:
        """Pairs of the global batch."""
        return self.size.batch * self.cards


@dataclass(frozen=True)
class Settings:
    """What all cases have in common, equal on both sides."""

    precision: str
    workers: int
    """of each rank's loader."""
    checkpointing: bool
    """activations are computed again in the backward pass."""
    zero_stage: int
    """ours; open_clip replicates or shards by FSDP."""
    optimizer: dict[str, float] = field(
        default_factory=lambda: {
            "lr": 5e-4,
            "weightDecay": 0.2,
            "beta1": 0.9,
            "beta2": 0.98,
            "eps": 1e-6,
            "gradientClipNorm": 1.0,
        }
    )
    """AdamW, fused on both sides."""
    warm_up_steps: int = 2000
    """of the learning rate."""


def cases(sizes: Collection[Size], cards: Collection[int], known: Collection[str]) -> Iterator[Case]:
    """The cases that this version of open_clip can run.

    Args:
        sizes: of models.
        cards: numbers of cards.
        known: options of its trainer, with their dashes.
    """
    for size in sizes:
        for number in cards:
            for side in (*SIDES, LOSS):
                unknown = [option for option in side.options if option.partition("=")[0] not in known]
                if not unknown and (number > 1 or not side.distributed):
                    yield Case(size, side, number)
