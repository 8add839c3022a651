"""Texts without the padding that their features do not depend on.

CLIP's text tower is causal, and its feature is that of the end token, so later tokens change nothing. Prompts fill 10
of 77 places, so leaving out the rest saves most of the tower's work; features differ only by rounding (below 1e-6).

Shapes: B batch, L places (77), S places that are used, T texts, D features.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def used_places(model: Any, tokens_TL: Tensor) -> NDArray[np.int64]:
    """[T] places up to each text's end token; L for all texts if the tower is of another kind."""
    import open_clip

    # not subclasses, which may use their tokens differently
    if type(model) is not open_clip.CLIP or model.attn_mask is None:
        return np.full(len(tokens_TL), tokens_TL.shape[1])
    if model.text_pool_type == "argmax":
        return 1 + tokens_TL.argmax(dim=-1).numpy()
    if model.text_pool_type == "eos":
        return 1 + tokens_TL.eq(cast("int", model.text_eos_id)).int().argmax(dim=-1).numpy()
    return np.full(len(tokens_TL), tokens_TL.shape[1])


def encode_places(model: Any, tokens_BL: Tensor, places: int) -> Tensor:
    """[B, D] unit features of texts that use at most `places` places."""
    if places == tokens_BL.shape[1]:
        return model.encode_text(tokens_BL, normalize=True)
    shorter = {
        "positional_embedding": model.positional_embedding[:places],
        "attn_mask": model.attn_mask[:places, :places].contiguous(),
    }
    _, features_BD, *_ = torch.func.functional_call(model, shorter, (None, tokens_BL[:, :places]))
    return features_BD
