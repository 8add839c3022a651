"""Language of a caption, by py3langid (naive Bayes over byte n-grams): how much likelier another one is than English.

Short captions name foreign dishes, places and people ("Gnocchi pesto"), so a caption counts as foreign only if some
other language is far likelier than English. The margin grows with the length of the text: titles and names, which give
little evidence of any language, pass, and the complexity and action rules decide on them. Long names outweigh the words
around them ("Portrait of Sor Juana Inés de la Cruz"), so an English function word asks for more evidence.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Final

from diht_k8s.api.filter import Filter
from diht_k8s.stages.filter.captions.cleaning import plain
from diht_k8s.stages.filter.captions.lexicon import words

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

MARGIN: Final[float] = Filter.model_fields["language_margin"].default
"""Default of `filter.languageMargin`."""
MAX_CHARACTERS: Final = 1000
"""Longer text is cut, as for the parser."""
LANGUAGES: Final = words(
    "ar az bg bn ca cs da de el en es et fa fi fr gu he hi hr hu hy id is it ja ka kk kn ko lt lv mk ml mn mr ms "
    "nl no pa pl pt ro ru sk sl sq sr sv sw ta te th tl tr uk ur vi zh"
)
"""Languages that captions are compared with: those of many web pages. Rare ones, Creoles and Latin would claim English
captions (species have Latin names).
"""
FUNCTION_WORDS: Final = words(
    "the of and with from this that these those their its our your his her into near through between behind during "
    "without about"
)
"""Words of English that few other languages have (in, on, for and by are theirs, too)."""
ALSO_IN: Final = {
    lang: words(shared)
    for lang, shared in {"da": "and her", "de": "her", "nl": "of", "no": "and her", "sv": "and", "tr": "her"}.items()
}
"""Those that are words of another language, too, and no sign of English in a caption that looks like it: Dutch `of` is
or.
"""
FUNCTION_WORD_FACTOR: Final = 3
"""How much wider the margin is for a caption that has one. Beyond it the words are a title that a foreign caption
quotes.
"""
WORD: Final = re.compile(r"[^\W\d_]+")


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=False)
    identifier.set_languages(sorted(LANGUAGES))
    return identifier


def foreign_margin(caption: str) -> tuple[str, float]:
    """The likeliest language of a caption, and the natural logarithm of how much likelier it is than English.

    The margin is 0 for English, and for text without letters.
    """
    without = plain(caption[:MAX_CHARACTERS])
    text = caption[:MAX_CHARACTERS] if without is None else without.text
    text = text.encode("utf-8", "ignore").decode()  # lone surrogates
    if not any(map(str.isalpha, text)):
        return "en", 0.0
    scores = dict(_identifier().rank(text))
    likeliest = max(scores, key=lambda language: scores[language])
    return likeliest, float(scores[likeliest] - scores["en"])


def is_english(caption: str, margin: float = MARGIN) -> bool:
    """Whether no other language is likelier than English by more than a margin.

    Args:
        caption: as it stands in the sample.
        margin: in nats, for a caption without English function words.
    """
    likeliest, found = foreign_margin(caption)
    return found <= margin or (found <= FUNCTION_WORD_FACTOR * margin and _has_function_word(caption, likeliest))


def _has_function_word(caption: str, other: str) -> bool:
    """Whether a caption has a function word of English, in any case, that is none of the other language."""
    own = FUNCTION_WORDS - ALSO_IN.get(other, frozenset())
    return any(word.lower() in own for word in WORD.findall(caption[:MAX_CHARACTERS]))
