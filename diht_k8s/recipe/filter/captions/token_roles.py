"""The role of each word in the noun phrases of a caption: noun, adjective, number, skipped, or break between them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from diht_k8s.recipe.filter.captions.lexicon import Lexicon
from diht_k8s.recipe.filter.captions.tree import Token, after, before
from diht_k8s.recipe.filter.captions.wordlists import (
    ADJECTIVES,
    ADVERBIALS,
    CALENDAR,
    COLOURS,
    COUNTS,
    DETERMINERS,
    HYPHENATED_NOUNS,
    IDENTIFIER_WORDS,
    INTRANSITIVE,
    MONTH_WORDS,
    NOUN_MODIFIERS,
    NUMBER_WORDS,
    OBJECT_NOT_ADVERB,
    PARTS,
    PLAIN_ADJECTIVES,
    PURPOSE,
    SHADES,
    STREETS,
    SURE_ADJECTIVE_ENDINGS,
    THINGS_IN_ING,
    UNITS,
    is_animate,
    words,
)

NOUN, ADJECTIVE, NUMBER, SKIPPED, BREAK = "noun", "adjective", "number", "skipped", "break"
NOUN_DEPS: Final = ("pobj", "dobj", "nsubj", "nsubjpass", "compound", "appos", "poss", "nmod", "dative")
PRONOUNS: Final = words(
    "something anything nothing everything someone anyone everyone nobody somebody anybody everybody one ones i"
)
MODIFIERS: Final = ("amod", "compound", "nmod")
NOT_NOUNS: Final = DETERMINERS | PRONOUNS
LETTER_OR_DIGIT: Final = re.compile(r"[^\W_]")
MARKS: Final = frozenset(",;:|/.()")
DEGREES: Final = words("extra super ultra brand semi")
"""Words before an adjective that give its degree."""
HOW: Final = words("slow deep hard fresh clean")
"""Adjectives before a participle that give the manner ("slow roasted")."""
QUALIFIED: Final = words("operated powered compatible resistant friendly")
"""The word before one of these is part of its meaning, even a noun ("battery operated")."""
FEATURES: Final = words(
    "sleeved heeled handed haired eyed legged sided edged fashioned tailed eared faced necked crowned billed bellied "
    "breasted throated winged wheeled headed"
)
"""The word before one of these is part of its meaning ("short sleeved")."""
PLAIN_FEATURES: Final = words("crowned winged")
"""Of these, the ones that need no word before them: "two winged horses"."""
GRADED: Final = words("fit fat duty cut")
RANKS: Final = words("general major")
"""Adjectives that are a part of names: "General Ann Lee"."""
NO_CHAIN: Final = COLOURS | SHADES | words("golf village bowling")
"""A colour after one of these does not describe a chain of nouns."""
ORIGINS: Final = words(
    "american german greek thai czech swiss dutch french swedish danish turkish korean roman mexican hawaiian moroccan"
)
NAMES: Final = words("christian julian")
"""Adjectives of origin that are names in captions."""
SIZE: Final = words("s m l xl xxl xs")
PASSED_OVER: Final = SIZE | UNITS | PARTS | CALENDAR | {"size"}
"""Words that may be skipped in a noun phrase."""
SAYS_HOW: Final = DEGREES | HOW
SAID_OF: Final = FEATURES | QUALIFIED
HYPHENATED: Final = re.compile(r"(?:[\d.]+|[a-z]+)(?:-[a-z]+)+$")
THING_COLOURS: Final = words("orange olive cream bronze coral lavender violet gold silver tan charcoal aqua")
"""Colour words that name a thing when the parser sees a compound ("orange juice", "olive oil", "gold medal")."""
THING_COLOUR_HEADS: Final = words(
    "juice peel tree oil branch medal coin bar mine statue sculpture reef field blossom marmalade slice soda cheese "
    "jewelry bullion"
)


def roles_of(tokens: Sequence[Token], lexicon: Lexicon) -> list[str]:
    """The role of each token of a corrected caption."""
    roles = [_role(tokens, index, lexicon) for index in range(len(tokens))]
    _skip_adverbials(tokens, roles)
    return roles


def _role(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> str:
    token = tokens[index]
    word = token.lower
    if word == "of" and index and tokens[index - 1].lower in COUNTS and tokens[index - 1].tag == "CD":
        return SKIPPED  # "hundreds of farmers"
    following = after(tokens, tokens[index])
    if word in NOT_NOUNS or not (word.isalnum() or LETTER_OR_DIGIT.search(word)):
        return NUMBER if _counts_one(token, following) else BREAK
    if token.tag == "CD" or word in NUMBER_WORDS or _has_digit(word):
        return _number_role(tokens, index)
    if (word in PASSED_OVER or len(word) == 1) and _is_passed_over(tokens, index):
        return SKIPPED
    if following is not None and (word in SAYS_HOW or following.lower in SAID_OF) and _says_of_next(tokens, index):
        return SKIPPED
    if token.is_noun:
        return _noun_role(tokens, index, lexicon)
    if token.tag in ("JJ", "JJR", "JJS"):
        return NOUN if _used_as_noun(tokens, index, lexicon) else ADJECTIVE
    if token.tag not in ("VBN", "VBG", "VBD"):
        return BREAK
    if token.dep in MODIFIERS and token.head.i > token.i:
        return NOUN if _names_purpose(token, following) else ADJECTIVE
    ends = token.tag != "VBG" and all(child.i < index and child.dep != "auxpass" for child in token.children)
    return ADJECTIVE if ends and between_marks(tokens, index) else BREAK


def _counts_one(token: Token, following: Token | None) -> bool:
    """Whether "one" is a number: "one friend"."""
    named = following is not None and following.tag[:2] in ("NN", "JJ")
    return token.lower == "one" and token.dep == "nummod" and named


def _is_passed_over(tokens: Sequence[Token], index: int) -> bool:
    """Whether a word is a unit, a size, a day, a month or a letter."""
    token, word = tokens[index], tokens[index].lower
    if token.is_noun and (len(word) == 1 or word in SIZE):
        return True
    if (index and _numeric(tokens[index - 1]) and _is_measure(tokens, index)) or _is_calendar(tokens, index):
        return True
    following = after(tokens, tokens[index])
    return word == "size" and following is not None and (_numeric(following) or following.lower in SIZE)


def _says_of_next(tokens: Sequence[Token], index: int) -> bool:
    """Whether a word qualifies the next one: "extra long", "short sleeved", "slow roasted", "battery operated"."""
    word, following = tokens[index].lower, tokens[index + 1]
    if following.lower in FEATURES:
        return not (
            tokens[index].is_noun and following.is_verb and following.dep not in MODIFIERS
        )  # "a man handed her"
    if following.lower in QUALIFIED:
        thing = after(tokens, following)
        return tokens[index].is_noun and (thing is None or thing.is_noun or thing.lower in MARKS)
    if word in DEGREES:
        return following.tag.startswith("JJ") or following.lower == "new"
    return following.tag in ("VBN", "JJ") and following.lower.endswith("ed") and following.lower not in COLOURS


def between_marks(tokens: Sequence[Token], index: int) -> bool:
    """Whether a word stands alone between marks: "door knob (polished)", "ink drawings, framed"."""
    start = index - 1 if index and tokens[index].lower in QUALIFIED and tokens[index - 1].is_noun else index
    if not start or tokens[start - 1].lower not in MARKS:
        return False
    return index + 1 == len(tokens) or tokens[index + 1].lower in MARKS


def _noun_role(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> str:
    token, following = tokens[index], after(tokens, tokens[index])
    word = token.lower
    if word in OBJECT_NOT_ADVERB and token.dep in ("npadvmod", "advmod"):
        return BREAK
    if token.dep == "npadvmod" and following is not None and following.tag == "VBN":
        return SKIPPED  # "hand painted"
    if following is None or not (following.is_noun or following.tag.startswith("JJ") or following.tag in ("CD", "VBG")):
        return ADJECTIVE if _describes_without_noun(tokens, index, lexicon) else NOUN
    if (word in COLOURS and not _is_thing_colour(word, following)) or (word in SHADES and following.lower in COLOURS):
        return ADJECTIVE
    if word.endswith("ing") and word not in PURPOSE and _describes_in_ing(token, following, lexicon):
        return ADJECTIVE
    if word in ADJECTIVES or ("-" in word and HYPHENATED.match(word) and word not in HYPHENATED_NOUNS):
        return ADJECTIVE
    if token.tag == "NN" and (word in PLAIN_ADJECTIVES or _is_origin(word, lexicon)):
        return ADJECTIVE
    is_adjective = word in lexicon.adjectives and word not in NOUN_MODIFIERS
    only = word not in lexicon.nouns or token.dep == "amod" or word.endswith(SURE_ADJECTIVE_ENDINGS)
    return ADJECTIVE if is_adjective and only else NOUN


def _describes_in_ing(token: Token, following: Token, lexicon: Lexicon) -> bool:
    before_adjective = following.tag.startswith("JJ") and token.lower not in THINGS_IN_ING  # "folding electric scooter"
    return token.dep == "amod" or before_adjective or lexicon.verb(token.lower) in INTRANSITIVE


def _describes_without_noun(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> bool:
    """Whether a word tagged as a noun describes another word although no noun follows."""
    if tokens[index].lower in COLOURS:
        return _is_colour_of_two(tokens, index) or _is_late_colour(tokens, index, lexicon)
    return between_marks(tokens, index) and _is_lone_adjective(tokens[index].lower, lexicon)


def _is_colour_of_two(tokens: Sequence[Token], index: int) -> bool:
    """Whether a colour shares its noun with the next one: "navy and white dots"."""
    if index + 3 >= len(tokens):
        return False
    link, other, noun = tokens[index + 1 : index + 4]
    return link.lower in ("and", "&", "/") and other.lower in COLOURS and noun.tag[:2] in ("NN", "JJ")


def _is_late_colour(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> bool:
    """Whether a colour describes the noun chain that it ends: "wool coat brown", but not "larry brown", "sour cream"."""
    token, left = tokens[index], before(tokens, tokens[index])
    if left is None or left.tag not in ("NN", "NNS") or is_animate(left.lower) or token.lower in THING_COLOURS:
        return False
    return lexicon.noun(left.lower) in lexicon.nouns and left.lower not in NO_CHAIN


def _is_lone_adjective(word: str, lexicon: Lexicon) -> bool:
    """Whether a word between marks describes the object before: "lunch box, leakproof"."""
    formed = word not in lexicon.nouns and word.endswith(("proof", "less", "able", "ible"))
    return formed or word in ADJECTIVES or word in PLAIN_ADJECTIVES


def _is_thing_colour(word: str, following: Token) -> bool:
    return word in THING_COLOURS and following.lower in THING_COLOUR_HEADS


def _is_origin(word: str, lexicon: Lexicon) -> bool:
    """Whether a word gives the origin of a thing: "european walnut", "japanese steak"."""
    return word in ORIGINS or (
        word.endswith(("ean", "ian", "ese")) and word in lexicon.adjectives and word not in NAMES
    )


def _names_purpose(token: Token, following: Token | None) -> bool:
    return token.lower in PURPOSE and not (following is not None and is_animate(following.lower))


def _used_as_noun(tokens: Sequence[Token], index: int, lexicon: Lexicon) -> bool:
    """Whether a word tagged as an adjective stands where a noun must ("vacuum cleaner")."""
    token = tokens[index]
    following = after(tokens, token)
    if token.lower in PURPOSE and following is not None and following.is_noun:
        return not is_animate(following.lower)
    if following is not None and following.is_noun and (token.lower in NOUN_MODIFIERS or _is_graded(tokens, index)):
        return True
    if following is not None and _is_thing_colour(token.lower, following):
        return True
    if token.lower in RANKS and following is not None and following.tag == "NNP":
        return True
    left = before(tokens, token)
    if token.tag == "JJR" and left is not None and left.is_noun and token.lower in lexicon.nouns:
        return True
    if token.lower in COLOURS or (following is not None and (following.is_noun or following.tag.startswith("JJ"))):
        return False
    if token.dep == "ROOT" and token.kids("compound", "nummod"):
        return token.lower in lexicon.nouns
    return token.dep in NOUN_DEPS and token.lower in lexicon.nouns


def _is_graded(tokens: Sequence[Token], index: int) -> bool:
    """Whether a word is a noun with its own adjective: "loose fit gloves", "low fat yogurt"."""
    return tokens[index].lower in GRADED and index > 0 and tokens[index - 1].tag == "JJ"


def _number_role(tokens: Sequence[Token], index: int) -> str:
    word = tokens[index].lower
    following = tokens[index + 1].lower if index + 1 < len(tokens) else ""
    if following in ("x", "dozen") or _is_measure(tokens, index + 1) or _is_house_number(tokens, index):
        return SKIPPED
    if following in FEATURES and not _is_plain_feature(tokens, index + 1):
        return SKIPPED  # "a three legged dog"
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


def _is_measure(tokens: Sequence[Token], index: int) -> bool:
    """Whether a word makes the number before it a measure, not a count of things: "500 ml", "12 piece cookware set"."""
    if index >= len(tokens):
        return False
    if tokens[index].lower in UNITS:
        count = tokens[index - 1].lower
        return tokens[index].lower != "in" or (count.replace(".", "").isdigit() and len(count) < 4)  # "WR250R in Rome"
    return tokens[index].lower in PARTS and index + 1 < len(tokens) and tokens[index + 1].tag[:2] in ("NN", "JJ")


def _is_plain_feature(tokens: Sequence[Token], index: int) -> bool:
    """Whether the number before a feature counts things: "two winged horses", but not "a four winged insect"."""
    following = after(tokens, tokens[index])
    return tokens[index].lower in PLAIN_FEATURES and following is not None and following.tag in ("NNS", "NNPS")


def _is_house_number(tokens: Sequence[Token], index: int) -> bool:
    """Whether a street name follows: "27 Maple Lane"."""
    following = tokens[index + 1 : index + 5]
    ends = next((place for place, token in enumerate(following) if token.lower.rstrip(".") in STREETS), None)
    return bool(ends) and all(token.is_noun or token.tag == "JJ" for token in following[:ends])


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


def _skip_adverbials(tokens: Sequence[Token], roles: list[str]) -> None:
    for index, token in enumerate(tokens):
        for phrase in ADVERBIALS.get(token.lower, ()):
            if tuple(token.lower for token in tokens[index : index + len(phrase)]) == phrase:
                roles[index : index + len(phrase)] = [BREAK] * len(phrase)
