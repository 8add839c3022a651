"""Correct enumerations and the verbs after them: "with a barn, a pond and a view", "a bride and groom kiss".

The parser takes the second of three things for an apposition of the first, and the verb after two subjects for a noun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from diht_k8s.recipe.filter.captions.lexicon import Lexicon
from diht_k8s.recipe.filter.captions.tree import Token, after, before, replace_with
from diht_k8s.recipe.filter.captions.wordlists import INTRANSITIVE, is_animate, words

IN_PHRASES: Final = ("DT", "PRP$", "CD")
OF_PLACES: Final = words("in at from near to")
TOGETHER: Final = INTRANSITIVE | words("kiss hug embrace play pray")
"""What two do together."""
PLURAL_VERBS: Final = ("VBP", "VBD", "VB")


def correct_enumerations(tokens: Sequence[Token], lexicon: Lexicon) -> None:
    """Apply the rules for lists of things and for verbs after plural subjects."""
    for token in tokens:
        if token.tag == "CC" and token.lower in ("and", "or", "&"):
            _correct_list(tokens, token)
            _correct_verb_of_two(tokens, token, lexicon)
        elif token.tag == "VBP" and token.dep in ("compound", "amod", "nmod"):
            _correct_verb_between(tokens, token)


def _correct_list(tokens: Sequence[Token], link: Token) -> None:
    """Correct "a house with a barn, a pond and views": what stands in a list with the barn belongs to the house as well."""
    last, things = _last_thing(tokens, link), _things_before(tokens, link)
    if last is None or len(things) < 2:
        return
    first, others = things[-1], [*things[:-1], last]
    if not _begins_list(first, others) or any(other in first.ancestors() for other in others):
        return
    right = after(tokens, last)
    if right is not None and right.dep == "prep" and right.head in others:
        right.attach(last, "prep")
    for other in others:
        other.attach(first, "conj")
    link.attach(first, "cc")


def _begins_list(first: Token, others: Sequence[Token]) -> bool:
    """Whether a noun has a place in its clause that the nouns after commas share, which are neither subjects nor
    appositions ("with Ann Lee, a singer and actress", "in Fargo, Utah and").
    """
    if any(other.dep not in ("appos", "conj", "dep") for other in others):
        return False
    if first.tag.startswith("NNP"):
        named = all(other.tag.startswith("NNP") for other in others)
        if not named or (first.dep == "pobj" and first.head.lower in OF_PLACES):
            return False
    if first.dep == "nsubj":
        return first.head.tag in PLURAL_VERBS and first.head.i > others[-1].i
    return first.dep in ("pobj", "dobj") and first.head.i < first.i


def _things_before(tokens: Sequence[Token], link: Token) -> list[Token]:
    """The nouns of a list, from the last before "and" to the first, with nothing but their modifiers between them."""
    things: list[Token] = []
    index = link.i - 1
    if index > 0 and tokens[index].lower == ",":
        index -= 1
    while index >= 0 and tokens[index].is_noun:
        things.append(tokens[index])
        while index >= 0 and _in_phrase(tokens[index]):
            index -= 1
        if index < 1 or tokens[index].lower != ",":
            break
        index -= 1
    return things


def _last_thing(tokens: Sequence[Token], link: Token) -> Token | None:
    index = link.i + 1
    while index < len(tokens) and _in_phrase(tokens[index]):
        index += 1
    last = tokens[index - 1]
    return last if last.is_noun else None


def _in_phrase(token: Token) -> bool:
    return token.is_noun or token.tag in IN_PHRASES or token.tag.startswith("JJ") or token.dep == "amod"


def _correct_verb_of_two(tokens: Sequence[Token], link: Token, lexicon: Lexicon) -> None:
    """Correct "bride and groom kiss in the rain": after two who can act, the word that looks like a noun is their verb."""
    first = before(tokens, link)
    second = after(tokens, link)
    while second is not None and second.tag in IN_PHRASES:
        second = after(tokens, second)
    verb = None if second is None else after(tokens, second)
    if first is None or second is None or verb is None or not first.is_root:
        return
    if not is_animate(first.lower) or not is_animate(second.lower) or verb.tag != "NN" or verb.head is not first:
        return
    right = after(tokens, verb)
    if lexicon.verb(verb.lower) not in TOGETHER or (right is not None and right.tag not in ("IN", "TO", "RB")):
        return
    replace_with(first, verb)
    verb.retag("VBP")
    first.attach(verb, "nsubj")
    second.attach(first, "conj")
    link.attach(first, "cc")


def _correct_verb_between(tokens: Sequence[Token], token: Token) -> None:
    """Correct "tourists ride camels": a verb between two nouns is no part of a name if the first is plural and can act."""
    subject, thing = before(tokens, token), token.head
    if subject is None or subject.tag != "NNS" or not thing.is_noun or thing.i < token.i:
        return
    if subject.head is not thing or not is_animate(subject.lower):
        return
    replace_with(thing, token)
    for child in list(token.children):
        if child is not subject:
            child.attach(subject, child.dep)
    subject.attach(token, "nsubj")
    thing.attach(token, "dobj")
