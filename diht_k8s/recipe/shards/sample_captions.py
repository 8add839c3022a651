"""Several captions of an image: `captions` in the .json, with `caption_weights` beside them where some are likelier.

Rewritten captions (VeCLIP, MobileCLIP2) are stored beside the one that was found; a training may draw one in each epoch. The
filter, the labels and the reports go by the pair's own caption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

MAX_CAPTION_BYTES: Final = 16 << 10


def weighted_captions(meta: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The usable captions of a pair with their weights (1 where none are given); none if it has no list.

    Left out are entries that are no text, are empty or too long, and those whose weight is no positive number. Weights
    of another number than the captions count as none.

    Args:
        meta: the .json of the pair.
    """
    texts, weights = meta.get("captions"), meta.get("caption_weights")
    if not isinstance(texts, list):
        return []
    if not isinstance(weights, list) or len(weights) != len(texts):
        weights = [1.0] * len(texts)
    found: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=True):
        caption = fold_whitespace(text) if isinstance(text, str) else ""
        if is_usable(caption) and _is_weight(weight):
            found.append((caption, float(weight)))
    return found


def fold_whitespace(text: str) -> str:
    """One line, white space folded."""
    return " ".join(text.replace("\0", " ").split())


def is_usable(caption: str) -> bool:
    """Whether a folded caption is neither empty nor too long nor damaged."""
    if not caption or len(caption.encode(errors="surrogatepass")) > MAX_CAPTION_BYTES:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in caption)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
