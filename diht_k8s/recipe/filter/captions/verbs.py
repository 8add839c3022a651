"""Correct verbs that the parser took for nouns, and nouns and modifiers that it took for verbs."""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.recipe.filter.captions.lexicon import Lexicon
from diht_k8s.recipe.filter.captions.tree import Token, after, before, below, demote, replace_with
from diht_k8s.recipe.filter.captions.wordlists import (
    COMMANDS,
    COMMANDS_OR_THINGS,
    INTRANSITIVE,
    LOOKS_IN_ING,
    MANNERS,
    MASS,
    PURPOSE,
    SINGULAR_DETERMINERS,
    THINGS_IN_ING,
    is_animate,
    words,
)

DEEDS = words(
    "tackle chase hold carry eat kiss hug feed pull push catch throw kick hit beat meet greet lick bite steal ride wear "
    "win lose save score sell rescue guard follow lead teach help attack celebrate visit release receive open close"
)
"""Verbs of captions without articles: "Defender tackles striker"."""
WAYS = words(
    "into through across over along past towards toward down up out off away around behind under against onto to"
)


VIEWS = words("view photograph sketch shot")


def find_verbs(tokens: Sequence[Token], lexicon: Lexicon) -> None:
    """Apply the rules around verbs, in two passes over the caption."""
    for token in tokens:
        if token.is_verb or token.lower in COMMANDS:
            _correct_opening(tokens, token, lexicon)
        if token.lower.endswith("ing"):
            _correct_participle(tokens, token, lexicon)
        if token.tag in ("NNS", "NNPS"):
            _correct_finite_verb(tokens, token, lexicon)
        if token.children and token.is_noun:
            _correct_hidden_verb(tokens, token, lexicon)
    for token in tokens:
        if token.tag == "NN" and token.lower.endswith("ing"):
            _correct_second_participle(tokens, token, lexicon)
        elif token.tag == "NNS":
            _correct_second_verb(tokens, token, lexicon)
        elif token.is_verb:
            _correct_two_subjects(token)


def become_noun_before(token: Token) -> None:
    """Correct a verb to a noun ("rock climbing", "phone charging cable"); if it has an object, it becomes part of the object's name."""
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

    It is a modifier ("Raised fist"), a noun ("Fall scene") or a command ("Shop now").
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
    elif left is None and _is_lone_command(token, right):
        token.retag("VB")
    elif left is None and token.lower in VIEWS and right is not None and right.tag == "VBG":
        token.retag("NN")  # "View looking north"
        right.attach(token, "acl")
    elif right is not None and _is_bare_verb(token):
        _correct_opening_verb(tokens, token, lexicon)


def _is_between_adjective_and_noun(left: Token, token: Token, right: Token | None) -> bool:
    is_participle = token.tag in ("VBG", "VBD", "VBN")
    return left.tag == "JJ" and is_participle and left.head is token and right is not None and right.is_noun


def _continues_phrase(left: Token) -> bool:
    """Whether the word before belongs to the same part of the caption, so no new part opens after it."""
    return (left.lower.isalnum() or left.lower == "'s") and left.tag not in ("IN", "CC", "DT")


def _is_lone_command(token: Token, right: Token | None) -> bool:
    """Whether a first word tagged as a noun is a command: "Shop now", "Visit our store"."""
    return token.lower in COMMANDS and token.is_noun and (right is None or right.tag in ("RB", "PRP$", "DT"))


def _is_bare_verb(token: Token) -> bool:
    return token.is_verb and token.dep not in ("amod", "aux", "compound") and not token.kids("nsubj", "aux")


def _correct_opening_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "Raised fist", "Saluting face", "stop sign": a verb that opens a caption before a noun describes it."""
    left, right = before(tokens, token), after(tokens, token)
    assert right is not None, "the caller checked that a word follows"
    if not (right.is_noun or right.tag.startswith("JJ") or (right.tag == "VBN" and right.dep == "amod")):
        if token.tag == "VBZ" and left is None and lexicon.noun(token.lower) in lexicon.nouns:
            token.retag("NNS")
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
                left.dep = "nsubj"
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
    verb_continues = right is not None and (right.tag in ("DT", "PRP$") or right.lower in WAYS)
    acts_on = opener is None and is_animate(left.lower) and lexicon.verb(token.lower) in DEEDS
    acts_on = acts_on and token.dep == "compound" and right is not None and right.is_noun
    verb_continues = (verb_continues and token.dep != "pobj") or acts_on
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
    elif acts_on:
        _act_on(token, left)
    for thing in token.kids("appos"):
        thing.dep = "dobj" if thing.kids("det") else thing.dep
    token.retag("VBZ")


def _act_on(token: Token, subject: Token) -> None:
    """Correct "defender tackles striker": a name of three nouns is a subject, a verb and an object."""
    thing = token.head
    replace_with(thing, token)
    for child in list(token.children):
        if child.i < subject.i:
            child.attach(subject, child.dep)
    subject.attach(token, "nsubj")
    thing.attach(token, "dobj")


def _is_second(tokens: Sequence[Token], verb: Token, first: Token) -> bool:
    """Whether a verb is coordinated with one before it: "a gymnast balances on the beam and smiles"."""
    link = before(tokens, verb)
    return first.i < verb.i and link is not None and link.lower == "and"


def _correct_hidden_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "two brothers bake rye bread": if a noun has a subject, the word after that subject is the verb."""
    for subject in token.kids("nsubj"):
        verb = after(tokens, subject)
        thing = token.head if verb is token and token.dep == "compound" and token.head.i > token.i else token
        if verb is None or verb is thing or verb.i >= thing.i or not _agree(subject, verb, lexicon):
            continue
        replace_with(thing, verb)
        subject.attach(verb, "nsubj")
        thing.attach(verb, "dobj")
        verb.retag("VBP")


def _agree(subject: Token, verb: Token, lexicon: Lexicon) -> bool:
    """Whether a noun could be the verb of a subject: "brothers bake", "brother bakes", but not "RPG map"."""
    plural = subject.tag in ("NNS", "NNPS") or bool(subject.kids("conj"))
    return verb.is_noun and lexicon.is_verb_form(verb.lower) and plural != (verb.tag in ("NNS", "NNPS"))


def _correct_second_participle(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "resting on a rock and drinking water": an -ing word after "and" is coordinated with the participle
    before it.
    """
    left, right = before(tokens, token), after(tokens, token)
    if left is None or right is None or left.lower != "and":
        return
    if (
        token.lower in THINGS_IN_ING
        or not lexicon.is_verb_form(token.lower)
        or not (right.is_noun or right.tag == "DT")
    ):
        return
    first = next((t for t in reversed(tokens[: left.i]) if t.tag == "VBG" and t.dep not in ("amod", "compound")), None)
    if first is None or token in first.ancestors():
        return
    token.retag("VBG")
    token.attach(first, "conj")
    if right.is_noun and right.head.i < token.i:
        right.attach(token, "dobj")


def _correct_second_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "a man peels and chops onions": a plural noun between "verb and" and a noun is a verb too."""
    link, right = before(tokens, token), after(tokens, token)
    if link is None or right is None or link.lower != "and" or not lexicon.is_verb_form(token.lower):
        return
    first = before(tokens, link)
    if first is None or first.tag != "VBZ" or not (right.is_noun or right.tag in ("DT", "PRP$")):
        return
    thing = token.head if token.dep == "compound" and token.head.i > token.i else right
    token.retag("VBZ")
    token.attach(first, "conj")
    if thing.is_noun and token not in below(thing):
        thing.attach(token, "dobj")


def _correct_two_subjects(token: Token) -> None:
    """Correct "the fence my uncle built": of two subjects in a row, the clause describes the first."""
    subjects = token.kids("nsubj")
    if len(subjects) != 2 or not all(subject.is_noun for subject in subjects) or not token.is_root:
        return
    first, second = subjects
    if any(child.i > first.i for child in first.children) or any(
        first.i < mark.i < second.i for mark in token.kids("punct", "cc")
    ):
        return
    replace_with(token, first)
    token.attach(first, "relcl")
