"""Is a caption English? In: a caption; out: yes or no. Pure.

Only what is surely another language goes: another script, or function words of another language and none of English. A product
title or a name says nothing about its language and stays; the rules of complexity and action judge it.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Final

from diht_k8s.recipe.filter.captions.cleaning import clean, is_foreign

MAX_FOREIGN_LETTERS: Final = 0.5
"""Share of letters of other scripts above which a caption is not English."""


def is_english(caption: str) -> bool:
    """Whether nothing says that the caption is in another language."""
    letters = [character for character in caption if character.isalpha()]
    foreign = sum(not _is_latin(character) for character in letters)
    return foreign <= MAX_FOREIGN_LETTERS * len(letters) and not is_foreign(clean(caption)[0])


@lru_cache(4096)
def _is_latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith("LATIN")
