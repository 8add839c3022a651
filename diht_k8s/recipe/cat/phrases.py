"""Objects and their attributes: noun phrases found as runs of neighbouring nouns, adjectives and numbers.

Runs are more reliable than the parser's labels on captions: product titles and names are chains of nouns that it breaks at will.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.recipe.cat.lexicon import Lexicon
from diht_k8s.recipe.cat.tree import Token
from diht_k8s.recipe.cat.wordlists import (
    ADJECTIVES,
    ADVERBIALS,
    CALENDAR,
    COLOURS,
    DETERMINERS,
    FIXED_NAMES,
    HYPHENATED_NOUNS,
    IDENTIFIER_WORDS,
    INTRANSITIVE,
    MONTH_WORDS,
    NUMBER_WORDS,
    OBJECT_NOT_ADVERB,
    PARTS,
    PLURAL_ONLY,
    PURPOSE,
    SHADES,
    STREETS,
    UNITS,
    is_animate,
    words,
)

NOUN, ADJECTIVE, NUMBER, SKIPPED, BREAK = "noun", "adjective", "number", "skipped", "break"
NOUN_DEPS: Final = ("pobj", "dobj", "nsubj", "nsubjpass", "compound", "appos", "poss", "nmod", "dative")
PRONOUNS: Final = words(
    "something anything nothing everything someone anyone everyone nobody somebody anybody everybody one ones i"
)
NO_NOUNS: Final = DETERMINERS | PRONOUNS
LETTER_OR_DIGIT: Final = re.compile(r"[^\W_]")
DRINKS: Final = words("wine drinking shot beer martini champagne cocktail water juice whiskey whisky pint")
SIZE: Final = words("s m l xl xxl xs")
HYPHENATED: Final = re.compile(r"(?:[\d.]+|[a-z]+)(?:-[a-z]+)+$")
THING_COLOURS: Final = words("orange olive cream bronze coral lavender violet gold silver tan charcoal aqua")
"""Colour words that name a thing when the parser sees a compound ("orange juice", "olive oil", "gold medal")."""
THING_COLOUR_HEADS: Final = words(
    "juice peel tree oil branch medal coin bar mine statue sculpture reef field blossom marmalade slice soda cheese jewelry bullion"
)


MATERIALS: Final = words(
    "plastic ceramic leather rubber cotton steel glass metal stone paper brick porcelain velvet silk denim copper brass iron linen wool "
    "bamboo oak pine marble granite concrete cardboard nylon polyester pet side animal crystal mineral material capital music fabric "
    "mosaic olive baby kitchen summer winter home master luxury comic graphic picnic clinic traffic attic topic"
)
"""Nouns that WordNet also lists as adjectives; before a noun they are a part of its name."""
ADJECTIVE_ENDINGS: Final = ("able", "ible", "less", "proof", "ic", "al", "ous", "ive", "ful", "ish", "ern")


@dataclass(eq=False)
class Phrase:
    """One object as the caption mentions it."""

    head: Token
    name: str
    words: list[Token]
    """in the order of the caption."""
    attributes: list[str] = field(default_factory=list)

    @property
    def start(self) -> int:
        """First character."""
        return self.words[0].start

    @property
    def end(self) -> int:
        """Character after the last."""
        return self.words[-1].end


@dataclass
class Phrases:
    """All objects of a caption."""

    phrases: list[Phrase] = field(default_factory=list)
    of_token: dict[int, Phrase] = field(default_factory=dict)
    """noun token -> the phrase that it is a part of."""
    of_adjective: dict[int, Phrase] = field(default_factory=dict)
    """adjective token -> the phrase that it describes."""


def find_phrases(tokens: Sequence[Token], lexicon: Lexicon) -> Phrases:
    """The objects of a mended caption, in order, with the attributes that stand in their noun phrases."""
    kinds = [_kind(tokens, index, lexicon) for index in range(len(tokens))]
    _skip_adverbials(tokens, kinds)
    found, waiting = Phrases(), list[Token]()
    for run in _runs(kinds):
        if not any(kinds[index] == NOUN for index in run):
            waiting = _waiting(tokens, kinds, run, waiting)
            continue
        for number, part in enumerate(_parts(tokens, kinds, run)):
            _add_phrase(tokens, kinds, part, waiting if number == 0 else [], found, lexicon)
        waiting = []
    _add_lone_adjectives(tokens, kinds, found)
    return found


def _kind(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> str:
    token = tokens[index]
    word = token.lower
    following = tokens[index + 1] if index + 1 < len(tokens) else None
    if word in NO_NOUNS or not (word.isalnum() or LETTER_OR_DIGIT.search(word)):
        return BREAK
    if token.tag == "CD" or word in NUMBER_WORDS or _has_digit(word):
        return _number_kind(tokens, index)
    if (word in UNITS or (word in PARTS and following is not None and following.tag[:2] in ("NN", "JJ"))) and (
        index and _numeric(tokens[index - 1])
    ):
        return SKIPPED
    if word == "size" and following is not None and (_numeric(following) or following.lower in SIZE):
        return SKIPPED
    if _is_calendar(tokens, index) or (len(word) == 1 and token.is_noun) or (word in SIZE and token.is_noun):
        return SKIPPED
    if token.is_noun:
        return _noun_kind(token, following, lexicon)
    if token.tag in ("JJ", "JJR", "JJS"):
        return NOUN if _used_as_noun(tokens, index, lexicon) else ADJECTIVE
    if token.tag in ("VBN", "VBG", "VBD") and token.dep in ("amod", "compound", "nmod") and token.head.i > token.i:
        return NOUN if _names_purpose(token, following) else ADJECTIVE
    return BREAK


def _noun_kind(token: Token, following: Token | None, lexicon: Lexicon) -> str:
    word = token.lower
    if word in OBJECT_NOT_ADVERB and token.dep in ("npadvmod", "advmod"):
        return BREAK
    if token.dep == "npadvmod" and following is not None and following.tag == "VBN":
        return SKIPPED  # "hand painted"
    if following is None or not (following.is_noun or following.tag.startswith("JJ") or following.tag in ("CD", "VBG")):
        return NOUN
    if word in COLOURS and not (word in THING_COLOURS and following.lower in THING_COLOUR_HEADS):
        return ADJECTIVE
    if word.endswith("ing") and word not in PURPOSE and (token.dep == "amod" or lexicon.verb(word) in INTRANSITIVE):
        return ADJECTIVE
    if (HYPHENATED.match(word) and word not in HYPHENATED_NOUNS) or word in ADJECTIVES:
        return ADJECTIVE
    is_adjective = word in lexicon.adjectives and word not in MATERIALS
    only = word not in lexicon.nouns or token.dep == "amod" or word.endswith(ADJECTIVE_ENDINGS)
    return ADJECTIVE if is_adjective and only else NOUN


def _names_purpose(token: Token, following: Token | None) -> bool:
    return token.lower in PURPOSE and not (following is not None and is_animate(following.lower))


def _used_as_noun(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> bool:
    """An adjective of the tagger that stands where a noun must ("vacuum cleaner")."""
    token = tokens[index]
    following = tokens[index + 1] if index + 1 < len(tokens) else None
    if token.lower in PURPOSE and following is not None and following.is_noun:
        return not is_animate(following.lower)
    if token.lower in MATERIALS and following is not None and following.is_noun:
        return True
    left = tokens[index - 1] if index else None
    if token.tag == "JJR" and left is not None and left.is_noun and token.lower in lexicon.nouns:
        return True
    if token.lower in COLOURS or (following is not None and (following.is_noun or following.tag.startswith("JJ"))):
        return False
    if token.dep == "ROOT" and token.kids("compound", "nummod"):
        return token.lower in lexicon.nouns
    return token.dep in NOUN_DEPS and token.lower in lexicon.nouns


def _number_kind(tokens: Sequence[Token], index: int) -> str:
    word = tokens[index].lower
    following = tokens[index + 1].lower if index + 1 < len(tokens) else ""
    is_count_of_parts = following in PARTS and index + 2 < len(tokens) and tokens[index + 2].tag[:2] in ("NN", "JJ")
    if following in UNITS or following == "x" or is_count_of_parts or _is_house_number(tokens, index):
        return SKIPPED
    if HYPHENATED.match(word):
        return ADJECTIVE
    if index and tokens[index - 1].lower in IDENTIFIER_WORDS:
        return SKIPPED
    digits = word.replace(",", "").replace(".", "")
    if _has_digit(word) and not digits.isdigit():
        return ADJECTIVE if re.fullmatch(r"\d+(st|nd|rd|th)", word) else SKIPPED
    if digits.isdigit() and (
        (len(digits) == 4 and "1000" <= digits <= "2100" and "," not in word) or digits.startswith("0")
    ):
        return SKIPPED
    return NUMBER


def _is_house_number(tokens: Sequence[Token], index: int) -> bool:
    """Whether a street's name follows: "27 Maple Lane"."""
    words = tokens[index + 1 : index + 5]
    ends = next((place for place, token in enumerate(words) if token.lower.rstrip(".") in STREETS), None)
    return bool(ends) and all(token.is_noun or token.tag == "JJ" for token in words[:ends])


def _numeric(token: Token) -> bool:
    return token.tag == "CD" or _has_digit(token.lower)


def _has_digit(word: str) -> bool:
    return not word.isalpha() and any(character.isdigit() for character in word)


def _is_calendar(tokens: Sequence[Token], index: int) -> bool:
    word = tokens[index].lower
    if word not in CALENDAR or not (tokens[index].is_noun or word not in MONTH_WORDS):
        return False
    if word not in MONTH_WORDS:
        return True
    return any(0 <= near < len(tokens) and _numeric(tokens[near]) for near in (index - 1, index + 1))


def _skip_adverbials(tokens: Sequence[Token], kinds: list[str]) -> None:
    for index, token in enumerate(tokens):
        for phrase in ADVERBIALS.get(token.lower, ()):
            if tuple(token.lower for token in tokens[index : index + len(phrase)]) == phrase:
                kinds[index : index + len(phrase)] = [BREAK] * len(phrase)


def _runs(kinds: Sequence[str]) -> Iterator[range]:
    """Stretches without a break."""
    start = None
    for index, kind in enumerate([*kinds, BREAK]):
        if kind == BREAK and start is not None:
            yield range(start, index)
            start = None
        elif kind != BREAK and start is None:
            start = index


def _waiting(tokens: Sequence[Token], kinds: Sequence[str], run: range, before: list[Token]) -> list[Token]:
    """Adjectives of a run without noun that wait for the noun after "and" or a comma ("tall and short candles")."""
    link = tokens[run.stop].lower if run.stop < len(tokens) else ""
    after = run.stop + 1
    joined = link in ("and", "or", ",", "&") and after < len(tokens) and kinds[after] in (ADJECTIVE, NUMBER)
    adjectives = [tokens[index] for index in run if kinds[index] == ADJECTIVE]
    predicate = any(token.dep == "acomp" or _hangs_on_be(token) for token in adjectives)
    return [*before, *adjectives] if joined and not predicate else []


def _hangs_on_be(token: Token) -> bool:
    return any(head.lower in ("is", "are", "was", "were", "be") for head in token.ancestors())


def _parts(tokens: Sequence[Token], kinds: Sequence[str], run: range) -> Iterator[list[int]]:
    """A run cut into noun phrases: after a noun, an adjective or number may begin the next one."""
    part: list[int] = []
    for index in run:
        has_noun = any(kinds[item] == NOUN for item in part)
        if (has_noun and kinds[index] in (ADJECTIVE, NUMBER) and _begins_phrase(tokens, kinds, index, run)) or (
            has_noun and kinds[index] == NOUN and _second_object(tokens, index)
        ):
            yield part
            part = []
        part.append(index)
    if part:
        yield part


def _begins_phrase(tokens: Sequence[Token], kinds: Sequence[str], index: int, run: range) -> bool:
    later = [item for item in range(index + 1, run.stop) if kinds[item] == NOUN]
    if not later:
        return False
    before = tokens[index - 1]
    if kinds[index] == NUMBER or tokens[index].tag == "VBN" or tokens[index].lower.endswith("ed"):
        return False
    return before.tag in ("NNS", "NNPS") or before.dep not in ("compound", "nmod", "amod", "npadvmod")


def _second_object(tokens: Sequence[Token], index: int) -> bool:
    """Two neighbouring nouns of which neither is a part of the other: "gives children toys"."""
    before = tokens[index - 1]
    return before.dep == "dative" and tokens[index].head is before.head


def _add_phrase(
    tokens: Sequence[Token],
    kinds: Sequence[str],
    part: list[int],
    waiting: list[Token],
    found: Phrases,
    lexicon: Lexicon,
) -> None:
    nouns = [index for index in part if kinds[index] == NOUN]
    if not nouns:
        return
    head = nouns[-1]
    in_name = set(nouns)
    for index in [part[0] - 1, *part[:-1]] if part[0] else part[:-1]:
        if (tokens[index].lower, tokens[index + 1].lower) in FIXED_NAMES and index + 1 in in_name:
            in_name.add(index)
    for index in nouns[:-1]:
        if (
            index + 1 not in in_name
            and tokens[index + 1].tag in ("VBN", "VBD", "JJ")
            and tokens[index + 1].lower.endswith("ed")
        ):
            in_name.discard(index)  # "gold plated ring": what the ring is plated with says nothing about objects
    words = [tokens[index] for index in sorted(in_name)]
    phrase = Phrase(tokens[head], _name(words, lexicon), words)
    modifiers = [token for token in waiting] + [
        tokens[index] for index in part if kinds[index] in (ADJECTIVE, NUMBER) and index not in in_name
    ]
    phrase.attributes += _attributes(modifiers, tokens, head, kinds)
    found.phrases.append(phrase)
    found.of_token.update({word.i: phrase for word in words})
    found.of_adjective.update({token.i: phrase for token in modifiers})


def _attributes(modifiers: Sequence[Token], tokens: Sequence[Token], head: int, kinds: Sequence[str]) -> list[str]:
    names: list[str] = []
    skip = False
    for position, token in enumerate(modifiers):
        following = modifiers[position + 1] if position + 1 < len(modifiers) else None
        if skip:
            skip = False
            continue
        if token.tag == "CD" and token.i > tokens[head].i:
            continue  # "Chapter 3"
        if (
            token.tag == "CD"
            and any(kinds[index] == NOUN for index in range(max(0, head - 6), head) if tokens[index].i < token.i)
            and (token.i and tokens[token.i - 1].is_noun)
        ):
            continue  # "Phone 12 case"
        if (
            following is not None
            and token.lower in SHADES
            and following.lower in COLOURS
            and following.i == token.i + 1
        ):
            names.append(f"{token.lower} {following.lower}")
            skip = True
        else:
            names.append(token.lower)
    return names


def _name(words: Sequence[Token], lexicon: Lexicon) -> str:
    *compound, head = (word.lower for word in words)
    if head == "glasses" and compound and compound[-1] in DRINKS:
        return " ".join([*compound, "glass"])
    if words[-1].tag == "NNP" and head not in PLURAL_ONLY and head in lexicon.nouns:
        return " ".join([*compound, head])
    return " ".join([*compound, lexicon.noun(head)])


def _add_lone_adjectives(tokens: Sequence[Token], kinds: Sequence[str], found: Phrases) -> None:
    """Find lone adjectives, "Mug - White", "dress in navy", "black and white" after a comma: a colour on its own describes what stands before."""
    for run in _runs(kinds):
        if any(kinds[index] == NOUN and not _is_colour(tokens, index) for index in run):
            continue
        before = [phrase for phrase in found.phrases if phrase.head.i < run.start]
        if not before or not _stands_alone(tokens, run):
            continue
        coloured = [tokens[index] for index in run if kinds[index] in (ADJECTIVE, NOUN)]
        if not coloured or coloured[0].i in found.of_adjective or _is_predicate(coloured[0]):
            continue
        own = [found.of_token.pop(token.i) for token in coloured if token.i in found.of_token]
        found.phrases[:] = [phrase for phrase in found.phrases if phrase not in own]
        target = next((phrase for phrase in reversed(before) if phrase not in own), None)
        if target is not None:
            target = _described_phrase(target, found)
            target.attributes += _attributes(coloured, tokens, target.head.i, kinds)
            found.of_adjective.update({token.i: target for token in coloured})


def _is_predicate(token: Token) -> bool:
    return token.dep == "acomp" or (token.dep == "conj" and token.head.dep == "acomp")


def _is_colour(tokens: Sequence[Token], index: int) -> bool:
    following = tokens[index + 1].lower if index + 1 < len(tokens) else ""
    return tokens[index].lower in COLOURS or (tokens[index].lower in SHADES and following in COLOURS)


def _described_phrase(nearest: Phrase, found: Phrases) -> Phrase:
    """Whom a late colour describes. "Bed Frame with Storage, White": the frame; "pair of hands, black": the hands."""
    head = nearest.head
    while head.dep == "pobj" and head.head.lower != "of" and head.head.head.i in found.of_token:
        head = head.head.head
    return found.of_token[head.i]


def _stands_alone(tokens: Sequence[Token], run: range) -> bool:
    before = tokens[run.start - 1].lower
    after = tokens[run.stop].lower if run.stop < len(tokens) else ""
    ends = after in ("", ",", ".", ")", ";", "|", "and", "&", "/")
    if before == "in":
        return all(tokens[index].lower in COLOURS | SHADES for index in run)
    return ends and before in (",", ":", "(", ";", "and", "&", "/")
