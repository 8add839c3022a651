"""The captions of a sample: its own, and those of the list `captions` in its .json, with `caption_weights` beside them.

Rewritten captions (VeCLIP, MobileCLIP2) are stored beside the one that was found; a training may draw one in each epoch.
The filter, the labels and the reports go by the sample's own caption.
"""

from __future__ import annotations

import codecs
import hashlib
import math
from collections.abc import Mapping
from typing import Any, Final

MAX_CAPTION_BYTES: Final = 16 << 10
CAPTION_KEYS: Final = ("caption", "text")
"""Names of the caption in the .json."""


def caption_of(text: bytes | None, meta: Mapping[str, Any]) -> tuple[str, str | None]:
    """The caption of the .txt, else of the .json, in one line with white space folded; else "" and what is wrong."""
    if text is not None:
        if len(text) > MAX_CAPTION_BYTES:
            return "", "caption_too_long"
        try:
            caption = text.removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError:
            return "", "caption_not_utf8"
    else:
        value = next((meta[key] for key in CAPTION_KEYS if key in meta), None)
        if value is None:
            value = next((text for text, _ in weighted_captions(meta)), None)
        if value is None:
            return "", "caption_missing"
        if not isinstance(value, str):
            return "", "caption_no_text"
        caption = value
    caption = fold_whitespace(caption)
    problem = _problem(caption)
    return ("", problem) if problem else (caption, None)


def weighted_captions(meta: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The usable captions of the list with their weights (1 where none are given); none if there is no list.

    Left out are entries that are no text, are empty or too long, and those whose weight is no positive number. Weights
    of another number than the captions count as none.

    Args:
        meta: the .json of the sample.
    """
    texts, weights = meta.get("captions"), meta.get("caption_weights")
    if not isinstance(texts, list):
        return []
    if not isinstance(weights, list) or len(weights) != len(texts):
        weights = [1.0] * len(texts)
    found: list[tuple[str, float]] = []
    for text, weight in zip(texts, weights, strict=True):
        caption = fold_whitespace(text) if isinstance(text, str) else ""
        if _problem(caption) is None and _is_weight(weight):
            found.append((caption, float(weight)))
    return found


def fold_whitespace(text: str) -> str:
    """One line, white space folded."""
    return " ".join(text.replace("\0", " ").split())


def caption_digest(caption: str) -> str:
    """SHA-256 of a caption, 32 hex digits."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def _problem(caption: str) -> str | None:
    """The problem of a folded caption; None if it is usable."""
    if not caption:
        return "caption_empty"
    if len(caption.encode(errors="surrogatepass")) > MAX_CAPTION_BYTES:
        return "caption_too_long"
    if any("\ud800" <= character <= "\udfff" for character in caption):
        return "caption_not_utf8"
    return None


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
