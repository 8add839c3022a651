"""Corrections of verbs that the parser took for nouns, and of nouns and modifiers that it took for verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from diht_k8s.stages.filter.captions.lexicon import (
    INTRANSITIVE,
    LOOKS_IN_ING,
    PURPOSE,
    THINGS_IN_ING,
    Lexicon,
    is_animate,
    words,
)
from diht_k8s.stages.filter.captions.tree import Token, after, before, below, demote, replace_with

MANNERS: Final = words("hand home machine laser oven sun kiln")
"""Nouns that give the manner of making: "hand drawn elements"."""
COMMANDS: Final = words(
    "buy shop click order visit get see find learn read watch make add download print use save try enjoy keep check "
    "discover choose call follow join stop start come go look take tell thank wish wear share subscribe sign register "
    "explore book browse compare contact create customize design do eat drink give have help hang let listen live love "
    "meet open pay pick play please press pin put request reserve say search select sell send show stay swipe switch "
    "tap think touch travel turn view vote wait walk win work write zoom don't donate"
)
"""Verbs that open a caption as a command to the reader."""
COMMANDS_OR_THINGS: Final = words(
    "stop shop print book play search call contact design work walk travel touch press pin post sign love watch share"
)
"""Of these, verbs that name things before a bare singular noun: "stop sign", "book cover"."""
MASS: Final = words(
    "dough pasta bread water milk coffee tea wine beer rice soup meat food music paper wood wool clay paint hair money "
    "grass snow fire breakfast lunch dinner football soccer basketball baseball tennis golf chess guitar piano yoga "
    "cheese fruit salad chocolate cake pizza jam butter flour sugar salt honey juice corn wheat hay metal iron steel "
    "gold leather fabric cloth jewelry furniture laundry homework work business time life love english history art "
    "traffic weather smoke air sand soil dirt mud ice rain garbage trash"
)
"""Nouns that need no article as objects: "kneading dough" is an action, "a frying pan" and "saluting face" are not."""
SINGULAR_DETERMINERS: Final = words("a an each every this neither another")
WAYS: Final = words(
    "into through across over along past towards toward down up out off away around behind under against onto to"
)


def correct_verbs(tokens: Sequence[Token], lexicon: Lexicon) -> None:
    """Apply the rules around verbs."""
    for token in tokens:
        if token.is_verb:
            _correct_opening(tokens, token, lexicon)
        if token.lower.endswith("ing"):
            _correct_participle(tokens, token, lexicon)
        if token.tag in ("NNS", "NNPS"):
            _correct_finite_verb(tokens, token, lexicon)
    for token in tokens:
        if token.tag in ("VBZ", "VBP", "VBD"):
            _correct_subject_with_article(tokens, token)


def become_noun_before(token: Token) -> None:
    """Correct a verb to a noun ("rock climbing", "phone charging cable"); if it has an object, it becomes part of the
    object's name.
    """
    token.retag("NN")
    for child in token.kids("nsubj"):
        child.dep = "compound"
    things = [child for child in token.kids("dobj", "attr") if child.i > token.i]
    if things:
        replace_with(token, things[0])
        token.attach(things[0], "compound")
        things[0].dep = "pobj" if things[0].dep == "pcomp" else things[0].dep


def _correct_opening(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct the word that opens a caption or a part of it.

    It is a modifier ("Raised fist") or a noun ("Fall scene").
    """
    left, right = before(tokens, token), after(tokens, token)
    if left is not None and token.tag in ("VBN", "VBD") and left.is_noun and _is_manner(left, token, right):
        token.retag("VBN")
        left.dep = "npadvmod"
        become_modifier(tokens, token, "amod")
        left.attach(token, "npadvmod")
    elif left is not None and _is_between_adjective_and_noun(left, token, right):
        become_modifier(tokens, token, "amod")  # "Portable folding chair", "Spicy pulled pork"
    elif left is not None and _continues_phrase(left):
        return
    elif right is not None and _is_bare_verb(token):
        _correct_opening_verb(tokens, token, lexicon)


def _is_between_adjective_and_noun(left: Token, token: Token, right: Token | None) -> bool:
    is_participle = token.tag in ("VBG", "VBD", "VBN")
    return left.tag == "JJ" and is_participle and left.head is token and right is not None and right.is_noun


def _continues_phrase(left: Token) -> bool:
    """Whether the word before belongs to the same part of the caption, so no new part opens after it."""
    return (left.lower.isalnum() or left.lower == "'s") and left.tag not in ("IN", "CC", "DT")


def _is_bare_verb(token: Token) -> bool:
    return token.is_verb and token.dep not in ("amod", "aux", "compound") and not token.kids("nsubj", "aux")


def _correct_opening_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "Raised fist", "Saluting face", "stop sign": a verb that opens a caption before a noun describes it."""
    left, right = before(tokens, token), after(tokens, token)
    assert right is not None, "the caller checked that a word follows"
    if not (right.is_noun or right.tag.startswith("JJ") or (right.tag == "VBN" and right.dep == "amod")):
        if token.tag == "VBZ" and left is None and lexicon.noun(token.lower) in lexicon.nouns:
            token.retag("NNS")  # "thumbs up"
        return
    is_past = token.tag in ("VBN", "VBD") or (token.lower.endswith("ed") and token.lower not in lexicon.verbs)
    with_things = left is not None and left.lower == "with" and token.dep == "pcomp" and right.is_noun
    if is_past or (token.tag == "VBG" and (with_things or _describes_next(token, right, lexicon))):
        become_modifier(tokens, token, "amod")
    elif left is None and token.tag in ("VB", "VBP") and _names_thing(token, right, lexicon):
        token.retag("NN")
        become_modifier(tokens, token, "compound")


def _names_thing(token: Token, right: Token, lexicon: Lexicon) -> bool:
    """Whether a base verb form is part of the name of what follows: "stop sign", "fall scene"."""
    if token.lower in COMMANDS_OR_THINGS and right.tag == "NN":
        return True
    return token.lower not in COMMANDS and token.lower in lexicon.nouns


def _describes_next(token: Token, right: Token, lexicon: Lexicon) -> bool:
    """Whether an -ing word describes the noun phrase after it or its purpose: "Saluting face", "Cutting badge set"."""
    if lexicon.verb(token.lower) in INTRANSITIVE or token.lower in LOOKS_IN_ING:
        return True
    if right.tag != "NN" or right.lower in MASS:
        return False
    in_compound = token.lower in PURPOSE and right.dep == "compound" and right.head.head is token
    return right.head is token or in_compound


def _is_manner(noun: Token, participle: Token, right: Token | None) -> bool:
    """Whether a noun gives the manner of a participle: "hand carved wooden bowl", "gold plated ring"."""
    bare = noun.tag == "NN" and not noun.children and not is_animate(noun.lower)
    bare = bare and (noun.head is participle or (noun.lower in MANNERS and participle.head is not noun))
    phrase_continues = right is not None and (right.is_noun or right.tag.startswith("JJ") or right.dep == "amod")
    return bare and phrase_continues and not participle.kids("aux")


def become_modifier(tokens: Sequence[Token], token: Token, dep: str) -> None:
    """Attach a wrong head to the head of the noun phrase that it opens."""
    noun = next((t for t in tokens[token.i + 1 :] if t.is_noun and t.dep not in ("compound", "amod", "nmod")), None)
    if noun is None or noun not in below(token):
        noun = after(tokens, token)
    if noun is None or noun not in below(token):
        return
    demote(token, noun, dep)
    noun.dep = "pobj" if noun.dep == "pcomp" else noun.dep


def _correct_participle(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "giraffe standing near trees", "person biking": an -ing word after a noun is its action."""
    left, right = before(tokens, token), after(tokens, token)
    if left is None or not left.is_noun or not lexicon.is_verb_form(token.lower):
        return
    if token.tag == "VBG" and token.dep not in ("amod", "compound", "nmod"):
        if left.head is token and left.dep in ("compound", "npadvmod", "nmod", "amod", "dep"):
            if is_animate(left.lower):
                left.dep = "nsubj"  # "a seal swimming"
            elif token.dep != "acl":
                become_noun_before(token)  # "rock climbing", "phone charging cable"
        return
    noun_after = right is not None and (right.is_noun or right.tag.startswith("JJ"))
    animate = is_animate(left.lower)
    acts = animate or left.tag == "NNS" or (lexicon.verb(token.lower) in INTRANSITIVE and token.lower not in PURPOSE)
    if (
        (not animate and token.lower in THINGS_IN_ING)
        or (noun_after and (token.lower in PURPOSE or not animate))
        or not acts
    ):
        return
    if right is None or right.lower != "of":
        _make_participle(token, left)


def _make_participle(token: Token, noun: Token) -> None:
    """Turn a token into a participle of the noun before it. If both modified a later noun, that becomes its object."""
    if noun in below(token):
        replace_with(token, noun)
    elif token.head.i > token.i and token.head in noun.ancestors():
        following = token.head
        replace_with(following, noun)
        following.attach(token, "dobj")
    token.retag("VBG")
    token.attach(noun, "acl")


def _correct_finite_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "a pianist plays", "blanket folds into a bag": a plural noun after a singular one may be its verb."""
    left, right = before(tokens, token), after(tokens, token)
    if left is None or left.tag not in ("NN", "NNP") or not lexicon.is_verb_form(token.lower):
        return
    opener = next(
        (t for t in reversed(tokens[: left.i]) if not (t.is_noun or t.tag.startswith("JJ") or t.tag == "CD")), None
    )
    singular = opener is not None and opener.lower in SINGULAR_DETERMINERS
    moves = lexicon.verb(token.lower) in INTRANSITIVE and (is_animate(left.lower) or left.tag == "NNP")
    verb_continues = right is not None and (right.tag in ("DT", "PRP$") or right.lower in WAYS) and token.dep != "pobj"
    other_verb = any(
        t.tag in ("VBZ", "VBP", "VBD") and t is not token and not _is_second(tokens, t, token) for t in tokens
    )
    if (
        not (singular and not other_verb)
        and not (moves and (right is None or not right.is_noun))
        and (other_verb or not verb_continues)
    ):
        return
    if left in below(token):
        for child in list(token.children):
            if child.i < left.i:
                child.attach(left, child.dep)
        left.attach(token, "nsubj")
    elif token in below(left):
        token.attach(left.head if not left.is_root else token, left.dep if not left.is_root else "ROOT")
        left.attach(token, "nsubj")
    token.retag("VBZ")


def _is_second(tokens: Sequence[Token], verb: Token, first: Token) -> bool:
    """Whether a verb is coordinated with one before it: "a gymnast balances on the beam and smiles"."""
    link = before(tokens, verb)
    return first.i < verb.i and link is not None and link.lower == "and"


def _correct_subject_with_article(tokens: Sequence[Token], token: Token) -> None:
    """Correct "when the code compiles", "Tim Vale dribbles": a noun between an article and a verb, or a name before it,
    is its subject.
    """
    noun = before(tokens, token)
    if noun is None or noun.dep != "compound" or noun.head is not token or token.kids("nsubj", "nsubjpass"):
        return
    if not token.kids("det") and (noun.tag != "NNP" or token.tag != "VBZ"):
        return
    noun.attach(token, "nsubj")
    for child in token.kids("det", "amod", "compound", "poss"):
        if child.i < noun.i:
            child.attach(noun, child.dep)
