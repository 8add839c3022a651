"""What `PROTOCOL-4.md` labels, trains and compares. Data only."""

from __future__ import annotations

import json
from typing import Final

_THINGS: Final = "label.vocabulary.maxFraction=0.01"
SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "default": (),
    "things": (_THINGS,),
    "things_seen": (_THINGS, "label.crossFit=1"),
    "things_224": (_THINGS, "label.teacher.imageSize=224"),
}
"""Name -> overrides of the document; the first has the second protocol's labels."""
CONTROLS: Final = ("distill_untrained", "distill_captions")
"""Each with the labels, of the default or the chosen setting, that are better for it on the development galleries."""
CHOICE_STEPS: Final = 3000
CHOICE_FIRST_SEED, CHOICE_SEEDS = 200, 2
STEPS: Final = 6000
FIRST_SEED, SEEDS = 110, 8
GALLERIES: Final = {"whh-names": "whh_names", "streamline-ultimate-color-names": "streamline_ultimate_color_names"}
"""Tested: name -> folder of the corpus."""
SHOWN: Final = {"style-names": "heldout_style_names"}
"""Shown, not tested."""
MEASURED: Final = "evaluate.benchmarks=" + json.dumps(
    [
        {"name": name, "type": "Retrieval", "split": "HeldOut", "shards": [f"runs/corpus/{folder}/*.tar.gz"]}
        for name, folder in {**GALLERIES, **SHOWN}.items()
    ]
)
"""The document's benchmarks in a confirmation, which alone opens the tested galleries."""
