"""Unit features of images and texts, in batches of fixed size so that the same input gives the same numbers.

Texts are encoded without their padding. CLIP's text tower is causal, and its feature is that of the end token, so later
tokens change nothing. Prompts fill 10 of 77 tokens, so leaving out the rest saves most of the tower's work; features
differ only by rounding (below 1e-6).

Shapes: B batch, T texts, L tokens of a text (77), C channels, H height, W width, D features.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from diht_k8s.models.loading import LoadedModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IMAGE_BATCH: Final = 64
TEXT_BATCH: Final = 256
SORTED_TEXTS: Final = 64 * TEXT_BATCH
"""Texts that are sorted by length together before they are split into batches."""
TEXTS: Final = "texts"
FULL: Final = "full"


def encode_pixels(loaded: LoadedModel, pixels: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    """[B, D] of a batch of preprocessed images, C x H x W each."""
    import torch

    with torch.inference_mode():
        pixels_BCHW = torch.stack(list(pixels)).to(loaded.device)
        features_BD = loaded.model.encode_image(pixels_BCHW, normalize=True)  # type: ignore[operator]  # open_clip's
        return features_BD.float().cpu().numpy()


def encode_texts(loaded: LoadedModel, texts: Sequence[str], lengths: Counter[str] | None = None) -> NDArray[np.float32]:
    """[T, D] of texts. Those of equal tokens are encoded once, so their features are bit-equal and tie.

    Args:
        loaded: the model.
        texts: T.
        lengths: counts different texts as `TEXTS`, and as `FULL` those without padding, which may be cut.
    """
    distinct = list(dict.fromkeys(texts))
    row_of_text, row_of_tokens = dict[str, int](), dict[bytes, int]()
    blocks: list[NDArray[np.float32]] = []
    for start in range(0, len(distinct), SORTED_TEXTS):
        block = distinct[start : start + SORTED_TEXTS]
        tokens_TL, new = loaded.tokenize(block), list[int]()
        if lengths is not None:
            padding = loaded.tokenize([""])[0, -1]
            lengths.update({TEXTS: len(block), FULL: int((tokens_TL[:, -1] != padding).sum())})
        for place, (text, tokens_L) in enumerate(zip(block, tokens_TL.numpy(), strict=True)):
            digest, row = hashlib.blake2b(tokens_L, digest_size=16).digest(), len(row_of_tokens)
            row_of_text[text] = row_of_tokens.setdefault(digest, row)
            if len(row_of_tokens) > row:
                new.append(place)
        if new:
            blocks.append(_sorted_texts(loaded, tokens_TL[new]))
    return np.concatenate(blocks)[[row_of_text[text] for text in texts]]


def _sorted_texts(loaded: LoadedModel, tokens_TL: Tensor) -> NDArray[np.float32]:
    """[T, D] of texts, encoded in batches of similar length."""
    import torch

    lengths_T = text_lengths(loaded.model, tokens_TL)
    order_T = np.argsort(lengths_T, kind="stable")
    blocks: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for start in range(0, len(order_T), TEXT_BATCH):
            rows_B = order_T[start : start + TEXT_BATCH]
            tokens_BL = tokens_TL[torch.from_numpy(rows_B)].to(loaded.device)
            features_BD = encode_truncated(loaded.model, tokens_BL, int(lengths_T[rows_B].max()))
            blocks.append(features_BD.float().cpu().numpy())
    features_TD = np.concatenate(blocks)
    result_TD = np.empty_like(features_TD)
    result_TD[order_T] = features_TD
    return result_TD


def text_lengths(model: Any, tokens_TL: Tensor) -> NDArray[np.int64]:
    """[T] tokens up to each text's end token; L for all texts if the tower is of another kind."""
    import open_clip

    # not subclasses, which may use their tokens differently
    if type(model) is not open_clip.CLIP or model.attn_mask is None:
        return np.full(len(tokens_TL), tokens_TL.shape[1])
    if model.text_pool_type == "argmax":
        return 1 + tokens_TL.argmax(dim=-1).numpy()
    if model.text_pool_type == "eos":
        return 1 + tokens_TL.eq(cast("int", model.text_eos_id)).int().argmax(dim=-1).numpy()
    return np.full(len(tokens_TL), tokens_TL.shape[1])


def encode_truncated(model: Any, tokens_BL: Tensor, length: int) -> Tensor:
    """[B, D] unit features of texts of at most `length` tokens."""
    from torch.func import functional_call

    if length == tokens_BL.shape[1]:
        return model.encode_text(tokens_BL, normalize=True)
    shorter = {
        "positional_embedding": model.positional_embedding[:length],
        "attn_mask": model.attn_mask[:length, :length].contiguous(),
    }
    _, features_BD, *_ = functional_call(model, shorter, (None, tokens_BL[:, :length]))
    return features_BD
