"""The clip score: cosine similarity of image and caption by a CLIP-type model of open_clip, in fp32 and in batches.

In: decoded images with their captions. Out: one number each, as open_clip's `encode_image` and `encode_text` give it with
the model's own preprocessing (the filter of LAION and of DataComp's baselines).

The model runs on the accelerator if there is one. On a CPU it runs in one thread, as text spotting does: several workers
of one thread each are faster than one of several, and the scores do not depend on the number of cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from diht_k8s.api.errors import DataError, DihtError
from diht_k8s.api.filter import ClipScore
from diht_k8s.data.shards.storage import Storage

if TYPE_CHECKING:
    from PIL import Image

    from diht_k8s.models.loading import LoadedModel

REASON: Final = "clip_score"
BATCH: Final = 64
"""Maximum number of images in one batch of the model."""
MAX_PIXELS_AT_ONCE: Final = 64_000_000
"""Maximum number of pixels of the images that wait for their batch (192 MB). A single image may have more."""


class ClipScorer:
    """The model of a run's `clipScore`, loaded at the first use."""

    def __init__(self, rule: ClipScore, storage: Storage) -> None:
        """Create a scorer; nothing is loaded yet.

        Args:
            rule: names the model.
            storage: reads its files.
        """
        self._rule, self._storage = rule, storage
        self._model: LoadedModel | None = None

    def load(self) -> LoadedModel:
        """The model; loaded once.

        Raises:
            UserError: it cannot be loaded safely.
            DataError: its files are damaged, or do not fit its architecture.
        """
        if self._model is None:
            import torch

            from diht_k8s.models.loading import load_model

            if not torch.cuda.is_available():
                torch.set_num_threads(1)
            try:
                self._model = load_model(self._rule.model, self._storage, architecture=self._rule.architecture)
            except DihtError as error:
                raise type(error)(f"spec.filter.clipScore: {error}") from error
        return self._model

    def scores(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """The scores of pairs, which pass the model as one batch.

        Args:
            images: RGB images.
            captions: the caption of each.

        Raises:
            DataError: a score is not finite.
        """
        from diht_k8s.models.features import encode_pixels, encode_texts

        model = self.load()
        images_BD = encode_pixels(model, [model.transform(image) for image in images])
        texts_BD = encode_texts(model, captions)
        scores_B = np.einsum("bd,bd->b", images_BD, texts_BD, dtype=np.float64)
        if not np.isfinite(scores_B).all():
            raise DataError(
                f"spec.filter.clipScore: {self._rule.model} gives scores that are not finite: check its weights"
            )
        return scores_B.tolist()
