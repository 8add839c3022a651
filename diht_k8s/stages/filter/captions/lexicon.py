"""Lemmas and word classes from WordNet's index, which the spaCy model includes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from diht_k8s.stages.filter.captions.wordlists import PLURAL_ONLY

LEMMAS: Final = {
    "women": "woman",
    "lying": "lie",
    "dying": "die",
    "tying": "tie",
    "skis": "ski",
    "skiing": "ski",
    "taxis": "taxi",
    "selfies": "selfie",
    "media": "media",
}
"""Forms for which the rules give a wrong lemma."""
CACHED_LEMMAS: Final = 1 << 16
"""Number of words whose lemmas are cached."""
VOWELS: Final = "aeiou"


@dataclass(eq=False)
class Lexicon:
    """WordNet's lemmas by part of speech, with the rules that find them (tables of the spaCy model)."""

    verbs: frozenset[str]
    nouns: frozenset[str]
    adjectives: frozenset[str]
    adverbs: frozenset[str]
    verb_exceptions: Mapping[str, Sequence[str]]
    noun_exceptions: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        cached = lru_cache(CACHED_LEMMAS)
        self.verb = cached(self._verb)
        """Lemma of a verb form (lower-case): riding -> ride, sitting -> sit."""
        self.noun = cached(self._noun)
        """Singular of a noun (lower-case); words without a known plural form are unchanged."""

    def _verb(self, word: str) -> str:
        if word in LEMMAS:
            return LEMMAS[word]
        if (known := self.verb_exceptions.get(word)) and word not in self.verbs:
            return known[0]
        if word.endswith(("ing", "ed")) and word in self.verbs:
            return word  # bring, exceed
        for ending in ("ing", "ed"):
            if word.endswith(ending) and len(word) > len(ending) + 1:
                return self._stem(word.removesuffix(ending), ending)
        return next((lemma for lemma in _third_person(word) if lemma in self.verbs), word)

    def _stem(self, stem: str, ending: str) -> str:
        """The verb whose -ing or -ed form has this stem."""
        plain, with_e, undoubled = stem, f"{stem}e", stem[:-1]
        order = [with_e, plain] if _loses_e(stem) else [plain, with_e]
        if len(stem) > 2 and stem[-1] == stem[-2] and stem not in self.verbs:
            order = [undoubled, *order]
        if ending == "ed" and stem.endswith("i"):
            order = [stem[:-1] + "y", stem + "e"]  # carried, tied
        return next((lemma for lemma in order if lemma in self.verbs), order[0] if not _loses_e(stem) else plain)

    def action(self, word: str) -> str:
        """Lemma of a word that is a verb for sure; WordNet may know pipettes as a noun only."""
        return self.noun(word) if word.endswith("s") and not self.is_verb_form(word) else self.verb(word)

    def is_verb_form(self, word: str) -> bool:
        """Whether the word is a form of a known verb."""
        return self.verb(word) in self.verbs

    def _noun(self, word: str) -> str:
        if word in PLURAL_ONLY or len(word) < 3:
            return word
        if word in LEMMAS:
            return LEMMAS[word]
        if known := self.noun_exceptions.get(word):
            return known[0]
        return next((lemma for lemma in _singulars(word) if lemma in self.nouns), word)


def make_lexicon(index: Mapping[str, Iterable[str]], exceptions: Mapping[str, Mapping[str, Sequence[str]]]) -> Lexicon:
    """A lexicon from WordNet's tables (keys noun, verb, adj, adv)."""
    return Lexicon(
        frozenset(index["verb"]),
        frozenset(index["noun"]),
        frozenset(index["adj"]),
        frozenset(index["adv"]),
        dict(exceptions["verb"]),
        dict(exceptions["noun"]),
    )


def _third_person(word: str) -> list[str]:
    if word.endswith("ies"):
        return [word[:-3] + "y", word[:-1], word]
    if word.endswith("es"):
        return [word[:-1], word[:-2], word]
    return [word[:-1], word] if word.endswith("s") and not word.endswith("ss") else [word]


def _singulars(word: str) -> list[str]:
    if not word.endswith("s") or word.endswith("ss"):
        return [word]
    if word.endswith("ies"):
        return [word[:-1], word[:-3] + "y"]
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        return [word[:-1], word[:-2]]
    if word.endswith("ves"):
        return [word[:-1], word[:-3] + "f", word[:-3] + "fe"]
    return [word[:-1]]


@lru_cache(maxsize=4096)
def _loses_e(stem: str) -> bool:
    """Whether a stem looks like a verb that lost its e: `rid(ing)` is ride, since rid gives ridding; also `us(ing)`."""
    if len(stem) < 2 or stem[-1] in VOWELS + "wxy" or stem[-2] not in VOWELS:
        return len(stem) > 2 and stem[-1] in "cgsvz" and stem[-2] not in VOWELS + "sn"
    before = stem[:-2]
    return not any(letter in VOWELS for letter in before) and (not before or before[-1] not in VOWELS)
