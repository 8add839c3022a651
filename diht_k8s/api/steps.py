"""The steps of stages. This module imports nothing heavy, so that `diht --help` can name them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LABEL_STEPS: Final = ("vocabulary", "heads", "predict")
"""Of label, in order; each is a job of its own, on a cluster and on a laptop."""
SHARED_STEP: Final = "predict"
"""The only step whose work label.workers share; every other step is one process."""
WAIT_STEP: Final = "wait"
"""Of train: one process without GPUs waits until no other run computes the training."""
STEPS: Final[Mapping[str, tuple[str, ...]]] = {"label": LABEL_STEPS, "train": (WAIT_STEP,)}
"""What `diht stage STAGE --step` may name."""
