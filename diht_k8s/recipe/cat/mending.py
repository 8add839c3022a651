"""Mend the parser's word classes on captions, before any object or relation is read off the tree.

It was trained on news and conversation; captions are fragments, where "giraffe standing near trees" looks like a compound noun
and "evergreen wreath" like a command. Each rule names the captions that it is for.
"""

from __future__ import annotations

from collections.abc import Sequence

from diht_k8s.recipe.cat.attaching import attach_better
from diht_k8s.recipe.cat.lexicon import Lexicon
from diht_k8s.recipe.cat.tree import Token, after, before, below, replace_with
from diht_k8s.recipe.cat.wordlists import (
    ANIMATE,
    AUXILIARIES,
    COMMANDS,
    COMPLEX_PREPOSITIONS,
    INTRANSITIVE,
    MISTAKEN_VERBS,
    PURPOSE,
    SINGULAR_DETERMINERS,
    THINGS_IN_ING,
    words,
)

WAYS = words(
    "into through across over along past towards toward down up out off away around behind under against onto to"
)


def mend(tokens: list[Token], lexicon: Lexicon) -> list[Token]:
    """The same caption with mended tags and heads, complex prepositions as one token."""
    tokens = _join_prepositions(tokens)
    for token in tokens:
        _mend_word(tokens, token, lexicon)
    for token in tokens:
        _mend_opening(tokens, token, lexicon)
        _mend_participle(tokens, token, lexicon)
        _mend_finite_verb(tokens, token, lexicon)
        _mend_hidden_verb(tokens, token, lexicon)
    for token in tokens:
        _mend_second_participle(tokens, token, lexicon)
    attach_better(tokens, lexicon)
    return tokens


def _join_prepositions(tokens: list[Token]) -> list[Token]:
    """Join "in front of": it becomes one preposition whose object is that of its last word."""
    index = 0
    kept: list[Token] = []
    while index < len(tokens):
        words = next(
            (
                words
                for words in COMPLEX_PREPOSITIONS.get(tokens[index].lower, ())
                if tuple(token.lower for token in tokens[index : index + len(words)]) == words
            ),
            None,
        )
        if words is None:
            kept.append(tokens[index])
            index += 1
            continue
        kept.append(_joined(tokens, index, len(words)))
        index += len(words)
    for position, token in enumerate(kept):
        token.i = position
    return kept


def _joined(tokens: Sequence[Token], start: int, length: int) -> Token:
    parts = tokens[start : start + length]
    first = parts[0]
    outside = next((token.head for token in parts if token.head not in parts), None)
    if outside is None:
        outside = next((token for token in reversed(tokens[:start]) if token.is_noun or token.is_verb), first)
    first.lower = " ".join(token.lower for token in parts)
    first.end, first.tag = parts[-1].end, "IN"
    for child in [child for part in parts for child in part.children if child not in parts]:
        child.attach(first, child.dep)
    if outside in below(first):
        outside.attach(outside, "ROOT")
    first.attach(outside, "prep")
    for part in parts[1:]:
        part.attach(part, "fixed")
    return first


def _mend_word(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Words of which WordNet knows better what they are: "screwdriver" is no verb, "haircut" no adjective."""
    word, left = token.lower, before(tokens, token)
    is_thing = lexicon.noun(word) in lexicon.nouns
    if token.tag == "FW" and token.dep == "amod":
        token.tag = "JJ"
    elif (
        token.is_verb
        and word not in AUXILIARIES
        and not lexicon.is_verb_form(word)
        and not word.endswith(("ing", "ed"))
    ):
        _become_noun(token, "NNS" if word.endswith("s") else "NN")
    elif word in MISTAKEN_VERBS and token.tag == "VBD" and left is not None and left.is_noun:
        _join_compound(token, left)
    elif token.tag in ("JJ", "RB") and token.kids("compound") and not word.endswith("ing") and token.dep != "amod":
        token.tag = "NN"
    elif token.tag == "JJ" and is_thing and word not in lexicon.adjectives and token.dep == "acomp":
        if token.head.lower not in AUXILIARIES:
            token.tag, token.dep = "NN", "dobj"
    elif token.tag == "RB" and left is not None and left.tag == "JJ" and is_thing and word not in lexicon.adverbs:
        token.tag = "NN"
        replace_with(left, token)
        left.attach(token, "amod")
    elif token.tag == "VB" and left is not None and left.is_noun and left.dep == "npadvmod" and is_thing:
        _join_compound(token, left)


def _become_noun(token: Token, tag: str) -> None:
    token.tag = tag
    for child in token.kids("nsubj", "dobj"):
        child.dep = "compound" if child.i == token.i - 1 else "dep"


def _join_compound(token: Token, left: Token) -> None:
    """Mend "cookware set", "table saw": the last word of a compound that looks like a past tense."""
    token.tag = "NN"
    if left not in below(token):
        replace_with(left, token)
    left.attach(token, "compound")


def _mend_opening(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """The word that opens a caption or a part of it: a modifier ("Raised fist"), a noun ("Fall scene") or a command ("Shop now")."""
    left, right = before(tokens, token), after(tokens, token)
    if left is not None and (left.lower.isalnum() or left.lower == "'s") and left.tag not in ("IN", "CC", "DT"):
        return
    if (
        token.lower in COMMANDS
        and token.is_noun
        and left is None
        and (right is None or right.tag in ("RB", "PRP$", "DT"))
    ):
        token.tag = "VB"
        return
    if right is None or not token.is_verb or token.dep in ("amod", "aux", "compound") or token.kids("nsubj", "aux"):
        return
    if not (right.is_noun or right.tag.startswith("JJ")):
        if token.tag == "VBZ" and left is None and lexicon.noun(token.lower) in lexicon.nouns:
            token.tag = "NNS"
        return
    if token.tag in ("VBN", "VBD") or (token.tag == "VBG" and lexicon.verb(token.lower) in INTRANSITIVE):
        _become_modifier(tokens, token, "amod")
    elif token.tag in ("VB", "VBP") and token.lower not in COMMANDS and token.lower in lexicon.nouns and left is None:
        token.tag = "NN"
        _become_modifier(tokens, token, "compound")


def _become_modifier(tokens: Sequence[Token], token: Token, dep: str) -> None:
    """Hang a wrong head below the head of the noun phrase that it opens."""
    noun = next((t for t in tokens[token.i + 1 :] if t.is_noun and t.dep not in ("compound", "amod", "nmod")), None)
    if noun is None or noun not in below(token):
        noun = after(tokens, token)
    if noun is None or noun not in below(token):
        return
    replace_with(token, noun)
    for child in list(token.children):
        child.attach(noun, child.dep)
    token.attach(noun, dep)
    noun.dep = "pobj" if noun.dep == "pcomp" else noun.dep


def _mend_participle(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Mend "giraffe standing near trees", "person biking": a word in -ing after a noun is what that one does."""
    left, right = before(tokens, token), after(tokens, token)
    if left is None or not token.lower.endswith("ing") or not left.is_noun or not lexicon.is_verb_form(token.lower):
        return
    if token.tag == "VBG" and token.dep not in ("amod", "compound", "nmod"):
        if left.head is token and left.dep in ("compound", "npadvmod", "nmod", "amod"):
            if left.lower in ANIMATE:
                left.dep = "nsubj"
            elif token.dep != "acl":
                token.tag = "NN"  # "rock climbing"
        return
    noun_after = right is not None and (right.is_noun or right.tag.startswith("JJ"))
    animate = left.lower in ANIMATE
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
    """Turn a token into a participle of the noun before it; a noun that both stood before becomes its object."""
    if noun in below(token):
        replace_with(token, noun)
    elif token.head.i > token.i and token.head in noun.ancestors():
        following = token.head
        replace_with(following, noun)
        following.attach(token, "dobj")
    token.tag = "VBG"
    token.attach(noun, "acl")


def _mend_finite_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Mend "a pianist plays", "blanket folds into a bag": a plural noun after a singular one may be what that one does."""
    left, right = before(tokens, token), after(tokens, token)
    if (
        token.tag not in ("NNS", "NNPS")
        or left is None
        or left.tag not in ("NN", "NNP")
        or not lexicon.is_verb_form(token.lower)
    ):
        return
    opener = next(
        (t for t in reversed(tokens[: left.i]) if not (t.is_noun or t.tag.startswith("JJ") or t.tag == "CD")), None
    )
    singular = opener is not None and opener.lower in SINGULAR_DETERMINERS
    moves = lexicon.verb(token.lower) in INTRANSITIVE and (left.lower in ANIMATE or left.tag == "NNP")
    goes_on = right is not None and (right.tag in ("DT", "PRP$") or right.lower in WAYS)
    other_verb = any(t.tag in ("VBZ", "VBP", "VBD") and t is not token for t in tokens)
    if (
        not (singular and not other_verb)
        and not (moves and (right is None or not right.is_noun))
        and (other_verb or not goes_on)
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
    token.tag = "VBZ"


def _mend_hidden_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Mend "two brothers bake rye bread": a noun that has a subject hides a verb right after that subject."""
    if not token.is_noun:
        return
    for subject in token.kids("nsubj"):
        verb = after(tokens, subject)
        thing = token.head if verb is token and token.dep == "compound" and token.head.i > token.i else token
        if (
            verb is None
            or verb is thing
            or verb.i >= thing.i
            or not verb.is_noun
            or not lexicon.is_verb_form(verb.lower)
        ):
            continue
        replace_with(thing, verb)
        subject.attach(verb, "nsubj")
        thing.attach(verb, "dobj")
        verb.tag = "VBP"


def _mend_second_participle(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Mend "resting on a rock and drinking water": a word in -ing after "and" goes on with the participle before it."""
    left, right = before(tokens, token), after(tokens, token)
    if left is None or right is None or left.lower != "and" or token.tag != "NN" or not token.lower.endswith("ing"):
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
    token.tag = "VBG"
    token.attach(first, "conj")
    if right.is_noun and right.head.i < token.i:
        right.attach(token, "dobj")
