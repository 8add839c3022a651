"""The steps of the stage label, for all who name them. Imports nothing else, so that shell completion stays fast."""

from __future__ import annotations

from typing import Final

LABEL_STEPS: Final = ("vocabulary", "heads", "predict")
"""One after another. A cluster runs each as a job of its own shape."""
PARALLEL_STEPS: Final = ("predict",)
"""The steps that split their work among workers; the others have one worker."""
