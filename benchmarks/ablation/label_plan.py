"""What `PROTOCOL-4.md` labels, trains and compares. Data only."""

from __future__ import annotations

from typing import Final

from benchmarks.ablation.arms import BATCH
from benchmarks.ablation.plan import FROZEN

_THINGS: Final = "label.vocabulary.maxFraction=0.01"
SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "default": (),
    "things": (_THINGS,),
    "things_seen": (_THINGS, "label.crossFit=1"),
    "things_224": (_THINGS, "label.teacher.imageSize=224"),
}
"""Name -> overrides of the document; the first has the second protocol's labels."""
CHOICE_SIZES: Final = (f"samples={3000 * BATCH}", *FROZEN)
CHOICE_FIRST_SEED, CHOICE_SEEDS = 200, 2
SIZES: Final = (f"samples={6000 * BATCH}", *FROZEN)
FIRST_SEED, SEEDS = 110, 5
CONTROLS: Final = ("distill_untrained", "distill_captions")
"""of the chosen setting."""
GALLERIES: Final = ("whh-names", "streamline-ultimate-color-names")
"""Tested."""
SHOWN: Final = ("style-names", "openmoji-names", "icon-park-names")
"""Shown, not tested."""
