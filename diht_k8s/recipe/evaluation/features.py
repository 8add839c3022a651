"""Unit features of pictures and texts, in batches of a fixed size so that the same input gives the same numbers.

Shapes: B batch, T texts, C channels, H height, W width, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diht_k8s.recipe.evaluation.models import LoadedModel

IMAGE_BATCH: Final = 64
TEXT_BATCH: Final = 256


def encode_images(loaded: LoadedModel, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """[B, D] of a batch of pictures, preprocessed as the model's own configuration says."""
    import torch

    with torch.inference_mode():
        pixels_BCHW = torch.stack([loaded.transform(image) for image in images]).to(loaded.device)
        features_BD = loaded.model.encode_image(pixels_BCHW, normalize=True)  # type: ignore[operator]  # open_clip's
        return features_BD.float().cpu().numpy()


def encode_texts(loaded: LoadedModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """[T, D] of texts. Equal texts are encoded once: their features are equal to the last bit, so that they tie."""
    import torch

    distinct = list(dict.fromkeys(texts))
    blocks: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(distinct), TEXT_BATCH):
            tokens_BL = loaded.tokenize(distinct[start : start + TEXT_BATCH]).to(loaded.device)
            features_BD = loaded.model.encode_text(tokens_BL, normalize=True)  # type: ignore[operator]  # open_clip's
            blocks.append(features_BD.float().cpu().numpy())
    row_of = {text: row for row, text in enumerate(distinct)}
    return np.concatenate(blocks)[[row_of[text] for text in texts]]
