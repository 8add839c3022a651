"""The queries with which the page opens: drawn by digest before any result is known, so that they show what is usual. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

QUERIES: Final = 12
FOUND: Final = 5
"""Images shown of each."""


def drawn_by_digest(names: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Indices of at most `QUERIES` texts: those whose names have the smallest SHA-256, without repeated texts.

    Args:
        names: the uid of each text's image, or what else tells the texts apart; of equal names the first counts.
        texts: what is asked.
    """
    chosen: dict[str, int] = {}
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    for name in sorted(first, key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest()):
        chosen.setdefault(texts[first[name]], first[name])
        if len(chosen) == QUERIES:
            break
    return list(chosen.values())
