"""Corrections of the heads of participles, prepositions and coordinated nouns, which captions use in ways of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from diht_k8s.stages.filter.captions.animacy import is_animate
from diht_k8s.stages.filter.captions.tree import Token, before, below, replace_with
from diht_k8s.stages.filter.captions.wordlists import words

OF_THE_VERB: Final = words("from into onto through across along past during before after")
PICTURES: Final = words(
    "photo photograph picture image portrait painting drawing illustration close-up closeup map diagram footage "
    "snapshot screenshot sketch view shot"
)
"""What follows "a photo of a boat" says where the boat is, not the photo."""
OFFERS: Final = words("rent sale hire")


def correct_attachment(tokens: Sequence[Token]) -> None:
    """Apply the rules for heads."""
    for token in tokens:
        _correct_coordination(tokens, token)
    for token in tokens:
        if token.tag == "VBG":
            _attach_to_subject(tokens, token)
    for token in tokens:
        if token.dep == "prep":
            _correct_preposition(tokens, token)


def _correct_coordination(tokens: Sequence[Token], token: Token) -> None:
    """Correct coordinations.

    In "holds a laptop and two books" the books depend on the head of "and"; "valve and tank boot" are two things, not
    one.
    """
    if token.dep == "nmod" and token.is_noun and token.kids("cc") and token.head.i > token.i and token.head.is_noun:
        other = token.head
        replace_with(other, token)
        other.attach(token, "conj")
        return
    if token.dep != "conj" or not token.is_noun:
        return
    link = next((t for t in reversed(tokens[: token.i]) if t.tag == "CC"), None)
    if (
        link is not None
        and link.head.dep in ("dobj", "pobj")
        and token.head.i < link.head.i < link.i
        and link.head.is_noun
        and link.head not in below(token)
    ):
        token.attach(link.head, "conj")


def _attach_to_subject(tokens: Sequence[Token], token: Token) -> None:
    """Correct the subject of a bare participle: the nearest noun before it that can be one.

    "woman in a red dress holding an umbrella": the woman; "silhouette of a man standing": the man.
    """
    if token.kids("aux"):
        return
    subjects = token.kids("nsubj")
    if subjects:
        top = subjects[0]
    elif token.dep in ("acl", "amod", "advcl", "xcomp") and token.head.is_noun and token.head.i < token.i:
        top = token.head
    else:
        return
    nearest = _nearest_noun(tokens, token)
    if nearest is None or nearest is top or top not in nearest.ancestors():
        chain = list(_chain_up(top))
    else:
        chain = list(_chain_up(nearest))
    subject = next((noun for noun in chain if is_animate(noun.lower)), None)
    if subject is None:
        only_of = nearest is not None and nearest is not top and _joined_by_of(nearest, top)
        subject = nearest if only_of else top
    if subject is None or subject is top:
        return
    if subjects:
        replace_with(token, top)
        top.dep = token.dep if not token.is_root else "ROOT"
    token.attach(subject, "acl")


def _nearest_noun(tokens: Sequence[Token], token: Token) -> Token | None:
    left = before(tokens, token)
    while left is not None and left.tag == "RB":
        left = before(tokens, left)
    return left if left is not None and left.is_noun else None


def _chain_up(noun: Token) -> Iterator[Token]:
    """A noun, then the nouns above it in a chain of prepositions."""
    yield noun
    while noun.dep in ("pobj", "conj"):
        noun = noun.head if noun.dep == "conj" else noun.head.head
        if not noun.is_noun:
            return
        yield noun


def _joined_by_of(noun: Token, top: Token) -> bool:
    while noun is not top:
        if noun.dep != "pobj" or noun.head.lower != "of" or not noun.head.head.is_noun:
            return False
        noun = noun.head.head
    return True


def _correct_preposition(tokens: Sequence[Token], token: Token) -> None:
    """Correct what a preposition belongs to: "a painting of boats in a harbor", "stage 12 of the tour"."""
    left, head = before(tokens, token), token.head
    if head.tag == "CD" and head.dep == "nummod" and head.head.is_noun and head.head.i < head.i:
        token.attach(head.head, "prep")  # "stage 12 of the tour"
        left, head = head.head, head.head
    if left is None or not left.is_noun:
        return
    if head is left:
        _correct_preposition_of_neighbour(token)
    elif token.lower != "of" and head.lower in PICTURES and _joined_by_of(left, head):
        token.attach(left, "prep")


def _correct_preposition_of_neighbour(token: Token) -> None:
    """Correct "pulls a cart through mud", "house for sale in Lyon": a preposition after a noun may belong to the verb or the
    owner of that noun.
    """
    noun = token.head
    if noun.dep == "dobj" and token.lower in OF_THE_VERB and noun.head.is_verb:
        token.attach(noun.head, "prep")
    elif noun.dep == "pobj" and noun.lower in OFFERS and (noun.head.head.is_noun or noun.head.head.tag == "JJ"):
        token.attach(noun.head.head, "prep")
