"""The steps of the stage label. This module imports nothing heavy, so that `diht --help` can name them at once."""

from __future__ import annotations

from typing import Final

LABEL_STEPS: Final = ("vocabulary", "heads", "predict")
"""In order; each is a job of its own, on a cluster and on a laptop."""
SHARED_STEP: Final = "predict"
"""The only step whose work label.workers share; every other step is one process."""
