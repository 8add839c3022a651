"""Is a caption English? Caption in, yes or no out.

Only captions that are clearly in another language are rejected: in another script, or with function words of another
language and no English ones. Product titles and names give no evidence of their language and pass; the complexity and
action rules decide on them.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

from diht_k8s.recipe.filter.captions.cleaning import clean, is_foreign

MAX_FOREIGN_LETTERS: Final = 0.5
"""Largest share of letters of other scripts in an English caption."""


def is_english(caption: str) -> bool:
    """Whether there is no evidence that the caption is in another language."""
    letters = [character for character in caption if character.isalpha()]
    foreign = sum(not _is_latin(character) for character in letters)
    return foreign <= MAX_FOREIGN_LETTERS * len(letters) and not is_foreign(clean(caption)[0])


@lru_cache(4096)
def _is_latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith("LATIN")
