"""Correct clauses beside and below the first one: second verbs, which the parser takes for nouns, and their subjects.

Captions coordinate short clauses without repeating a subject ("binds the substrate and releases water"), and lists
leave out relative pronouns ("9 gadgets chefs actually use").
"""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.recipe.filter.captions.lexicon import Lexicon
from diht_k8s.recipe.filter.captions.titles import ACTS, VERBS
from diht_k8s.recipe.filter.captions.tree import Token, after, before, below, replace_with
from diht_k8s.recipe.filter.captions.verbs import DEEDS
from diht_k8s.recipe.filter.captions.wordlists import CAUSATIVES, INTRANSITIVE, is_animate, words

FINITE = ("VBZ", "VBP", "VBD")
LINKS = ("and", ",")
OF_CLAUSES = words(
    "say think show believe know hope claim prove mean suggest find reveal report warn fear wish feel see hear watch let "
    "make help ensure argue explain announce bet love"
)
"""Verbs whose object may be a clause: "experts say cats and dogs sleep"."""
MOVES = INTRANSITIVE | words("cool trip stumble tumble land shoot settle fade vanish explode score")
SECOND_VERBS = VERBS | ACTS | INTRANSITIVE | DEEDS


def correct_clauses(tokens: Sequence[Token], lexicon: Lexicon) -> None:
    """Apply the rules for verbs and subjects of coordinated clauses and of those without a relative pronoun."""
    for token in tokens:
        if token.lower == "other":
            _correct_each_other(tokens, token)
        if token.tag in FINITE:
            _correct_subject_with_article(tokens, token)
        if token.tag in ("VBP", "VB"):
            _correct_listed_things(tokens, token)
            _correct_listed_by_others(token)
            _correct_help(tokens, token, lexicon)
        if token.tag == "NNS":
            _correct_listed_verb(tokens, token, lexicon)
        elif token.tag in FINITE and token.dep == "ccomp":
            _correct_clause_of_verb(tokens, token, lexicon)
        elif token.is_verb and token.dep == "conj":
            _correct_conjunct(tokens, token)


def _correct_conjunct(tokens: Sequence[Token], token: Token) -> None:
    """Apply the rules for a verb after "and"."""
    if token.head.is_noun and _join_earlier(tokens, token):
        return
    if token.tag not in FINITE or token.kids("nsubj", "nsubjpass"):
        return
    if token.head.is_verb:
        _correct_subject(tokens, token)
    elif token.head.is_noun:
        _correct_verb_of_noun(tokens, token)


def _correct_listed_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "opens the door, steals a sausage and runs": a plural noun after a comma or "and" is a verb if the verb
    before it is one of one subject, and if it could have what follows as its object.
    """
    link, right = before(tokens, token), after(tokens, token)
    if link is None or link.lower not in LINKS or token.kids("det", "amod", "poss", "nummod"):
        return
    first = next((verb for verb in reversed(tokens[: link.i]) if verb.tag in FINITE), None)
    if first is None or first.tag != "VBZ" or first.dep in ("aux", "auxpass") or not _has_one_subject(first):
        return
    verb = lexicon.verb(token.lower)
    thing = token.head if token.dep == "compound" and token.head.i > token.i else right
    if right is None or not (right.is_noun or right.tag in ("DT", "PRP$")):
        if verb in MOVES and (right is None or right.tag in ("IN", "CC", "RB", "TO")):
            _become_verb(token, first)
    elif verb in SECOND_VERBS and lexicon.is_verb_form(token.lower):
        _become_verb(token, first)
        while thing is not None and thing.dep in ("compound", "det", "poss", "amod") and thing.head.i > thing.i:
            thing = thing.head
        if thing is not None and thing.is_noun and token not in thing.ancestors():
            _part_objects(thing, before(tokens, link), token)


def _has_one_subject(verb: Token) -> bool:
    subjects = verb.kids("nsubj")
    return not subjects or subjects[-1].tag in ("NN", "NNP", "WDT", "WP", "PRP")


def _become_verb(token: Token, first: Token) -> None:
    token.retag("VBZ")
    for child in list(token.children):
        if child.dep == "compound":
            child.attach(first, "dep")
    token.attach(first, "conj")


def _correct_subject(tokens: Sequence[Token], token: Token) -> None:
    """Correct "cats rule the house and humans pay the rent": the noun between "and" and a verb is that verb's subject."""
    noun = before(tokens, token)
    while noun is not None and noun.tag == "RB":
        noun = before(tokens, noun)
    if noun is None or not noun.is_noun or noun.dep != "conj" or noun.i < token.head.i:
        return
    if token.tag != "VBD" and (token.tag == "VBZ") != (noun.tag in ("NN", "NNP")):
        return
    for link in noun.head.kids("cc"):
        if link.i < noun.i:
            link.attach(token.head, "cc")
    noun.attach(token, "nsubj")


def _correct_clause_of_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "boys rule the yard and girls own the garden": the yard is an object, not a subject beside the girls."""
    first, subjects, noun = token.head, token.kids("nsubj"), before(tokens, token)
    if len(subjects) != 1 or noun is None or noun.dep != "conj" or noun.head is not subjects[0]:
        return
    if first.tag not in FINITE or first.kids("dobj") or lexicon.verb(first.lower) in OF_CLAUSES:
        return
    thing = subjects[0]
    if first.i < thing.i and any(link.i < noun.i for link in thing.kids("cc")):
        thing.attach(first, "dobj")
        token.attach(first, "conj")
        noun.attach(token, "nsubj")
        for link in thing.kids("cc"):
            link.attach(first, "cc")


def _correct_verb_of_noun(tokens: Sequence[Token], token: Token) -> None:
    """Correct "binds the substrate and releases water": a verb after "and" is coordinated with a verb, not a noun."""
    link, noun = before(tokens, token), token.head
    first = next((head for head in noun.ancestors() if head.tag in FINITE), None)
    if link is None or link.lower != "and" or first is None or first.i > noun.i or token.tag != first.tag:
        return
    thing = noun.head if noun.dep in ("amod", "compound", "nmod") and noun.head.i > token.i else None
    token.attach(first, "conj")
    link.attach(first, "cc")
    if thing is not None and thing.dep in ("dobj", "pobj"):
        _part_objects(thing, noun, token)


def _join_earlier(tokens: Sequence[Token], token: Token) -> bool:
    """Apply the rules for a verb that the parser coordinates with a noun; returns whether one fired."""
    noun = token.head
    if token.tag in ("VBN", "VBD") and not token.kids("nsubj", "nsubjpass", "aux", "auxpass", "dobj"):
        _correct_second_of_participles(tokens, token)
    elif any(subject.i < token.i for subject in token.kids("nsubj")):
        _correct_second_of_clauses(tokens, token)
    return token.head is not noun


def _correct_second_of_participles(tokens: Sequence[Token], token: Token) -> None:
    """Correct "a bowl of soup topped with basil and served with bread": both participles describe the soup."""
    _join(tokens, token, [one for one in below(token.head) if one.tag == "VBN" and one.dep == "acl"])


def _correct_second_of_clauses(tokens: Sequence[Token], token: Token) -> None:
    """Correct "a yard where the kids can play and the dog can run": both clauses describe the yard."""
    _join(tokens, token, token.head.kids("relcl"))


def _join(tokens: Sequence[Token], second: Token, candidates: Sequence[Token]) -> None:
    """Coordinate a verb with the last candidate before the "and" that opens its clause."""
    start = min(part.i for part in below(second))
    link = tokens[start - 1] if start else None
    earlier = [first for first in candidates if first.i < start]
    if link is not None and link.lower in ("and", "but") and earlier:
        second.attach(max(earlier, key=lambda first: first.i), "conj")
        link.attach(second.head, "cc")


def _part_objects(thing: Token, noun: Token | None, second: Token) -> None:
    """Give the second verb its object, and the first one the noun before "and" if that was taken for a part of it."""
    if noun is not None and noun.head is thing and noun.dep in ("amod", "compound", "nmod") and noun.i < second.i:
        noun.attach(thing.head, thing.dep)
        for child in list(thing.children):
            if child.i < noun.i:
                child.attach(noun, child.dep)
    thing.attach(second, "dobj")


def _correct_each_other(tokens: Sequence[Token], token: Token) -> None:
    """Correct "standing next to each other holding rackets": "other" is a pronoun, and a participle may follow."""
    right, noun, each = after(tokens, token), token.head, before(tokens, token)
    if (
        each is None
        or each.lower != "each"
        or right is None
        or right.tag != "VBG"
        or right.dep != "amod"
        or right.head is not noun
        or noun.dep != "pobj"
    ):
        return
    preposition = noun.head
    subject = next((head for head in preposition.ancestors() if head.is_noun), None)
    token.retag("PRP")
    token.attach(preposition, "pobj")
    each.attach(token, "det")
    right.attach(subject if subject is not None else preposition.head, "acl")
    noun.attach(right, "dobj")


def _correct_subject_with_article(tokens: Sequence[Token], token: Token) -> None:
    """Correct "when the code compiles", "Tim Vale dribbles": a noun between an article and a verb, or a name before it, is
    its subject.
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


def _correct_listed_things(tokens: Sequence[Token], token: Token) -> None:
    """Correct "9 kitchen gadgets chefs actually use": the clause describes the things before its subject."""
    subjects = token.kids("nsubj")
    if len(subjects) != 1 or not is_animate(subjects[0].lower) or not token.is_root or token.kids("dobj"):
        return
    subject = subjects[0]
    things = before(tokens, subject)
    if things is None or things.tag != "NNS" or things.head is not subject or is_animate(things.lower):
        return
    replace_with(token, things)
    for child in list(subject.children):
        if child.i < things.i:
            child.attach(things, child.dep)
    subject.attach(token, "nsubj")
    token.attach(things, "relcl")


def _correct_listed_by_others(token: Token) -> None:
    """Correct "top 10 beaches every surfer should visit": the noun before "should" is the subject."""
    helpers, things = token.kids("aux"), token.kids("nsubj")
    if len(things) != 1 or things[0].tag != "NNS" or not helpers or helpers[0].tag != "MD" or not token.is_root:
        return
    subject = next((noun for noun in things[0].kids("npadvmod", "appos", "dep") if noun.i == helpers[0].i - 1), None)
    if subject is not None and is_animate(subject.lower):
        replace_with(token, things[0])
        subject.attach(token, "nsubj")
        token.attach(things[0], "relcl")


def _correct_help(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "5 foods that help you sleep": the infinitive is of the pronoun before it."""
    left, subjects = before(tokens, token), token.kids("nsubj")
    if left is None or left.dep != "dobj" or not token.is_root or len(subjects) != 1:
        return
    cause = left.head
    if cause.dep != "relcl" or cause.head is not subjects[0] or lexicon.verb(cause.lower) not in CAUSATIVES:
        return
    replace_with(token, subjects[0])
    token.attach(cause, "ccomp")
