"""Corrections of the parser's tags and heads, made before objects and relations are read from a caption's tree.

The model was trained on news and conversation. Captions are fragments, in which it takes "giraffe standing near trees"
for a compound noun and "evergreen wreath" for a command. Each rule quotes the captions that it is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from diht_k8s.stages.filter.captions.lexicon import (
    ADJECTIVES,
    AUXILIARIES,
    COLOURS,
    COUNTS,
    NUMBER_WORDS,
    OBJECT_NOT_ADVERB,
    PLURAL_ONLY,
    Lexicon,
    by_first_word,
    is_animate,
    phrases,
    words,
)
from diht_k8s.stages.filter.captions.titles import correct_fragment, correct_title
from diht_k8s.stages.filter.captions.tree import LABEL, Token, after, before, below, demote, replace_with
from diht_k8s.stages.filter.captions.verbs import become_modifier, become_noun_before, correct_verbs

INVARIANT: Final = words("fish sheep deer bison moose salmon trout shrimp squid offspring")
"""Nouns whose plural equals their singular."""
ORIGIN_ENDINGS: Final = ("ean", "ian", "ese", "ish", "ing", "ed")
"""Endings of adjectives that WordNet lists as nouns only ("Caribbean", "vegetarian")."""
ADJECTIVE_ENDINGS: Final = (
    *[
        "able",
        "ible",
        "less",
        "proof",
        "ic",
        "al",
        "ous",
        "ive",
        "ful",
        "ern",
        "ary",
        "ory",
        "ant",
        "ent",
        "ite",
        "like",
        "some",
        "y",
    ],
    *ORIGIN_ENDINGS,
)
"""Endings that make a word unknown to WordNet an adjective."""
PERSONAL_PRONOUNS: Final = words("i me you he him she her it we us they them mine yours his hers its ours theirs")
COMPLEX_PREPOSITIONS: Final = by_first_word(
    phrases(
        "in front of;on top of;at the top of;at the bottom of;in the middle of;in the center of;in the centre "
        "of;on the side of;on the edge of;next to;close to;out of;inside of;outside of;in between;across "
        "from;ahead of;at the edge of;at the side of;on the bottom of;on the top of;at the end of;at the foot "
        "of;by the side of;in the back of;at the back of;on the back of;instead of;because of;along with;together "
        "with;up to;due to;according to;such as;off of;thanks to;away from;far from"
    )
)
"""first word -> the multi-word prepositions that begin with it, longest first."""
QUANTITIES: Final = COUNTS | words("lots plenty tons loads")
MISTAKEN_VERBS: Final = words("set saw cast cut")
LABELS: Final = words("photo photos image images photography illustration illustrations footage vector vectors")


def correct(tokens: list[Token], lexicon: Lexicon, *, title: str = "") -> list[Token]:
    """Apply all rules to tags and heads, and join each complex preposition into one token.

    Args:
        tokens: words of the caption; changed in place.
        lexicon: lemmas and word classes.
        title: the caption with its capitals if it is a title, else empty.
    """
    tokens = _join_prepositions(tokens)
    for token in tokens:
        if token.is_noun:
            _correct_quantity(token)
            _correct_noun(token, lexicon)
            _correct_identifier(tokens, token)
            _correct_label(tokens, token)
        if token.is_verb and token.lower not in AUXILIARIES:
            _correct_verb(tokens, token, lexicon)
        elif token.tag in ("JJ", "RB"):
            _correct_adjective(tokens, token, lexicon)
        elif token.tag == "PRP" and token.lower in lexicon.nouns and token.lower not in PERSONAL_PRONOUNS:
            token.retag("NN")  # "elf with light skin tone"
    correct_verbs(tokens, lexicon)
    if title:
        correct_title(tokens, lexicon, title)
    else:
        correct_fragment(tokens, lexicon)
    return tokens


def _correct_noun(token: Token, lexicon: Lexicon) -> None:
    """Correct "warm and crispy": a word that only names a property is an adjective."""
    if (
        token.tag == "NN"
        and token.lower in lexicon.adjectives
        and lexicon.noun(token.lower) not in lexicon.nouns
        and token.lower not in OBJECT_NOT_ADVERB
        and not token.kids("det")
    ):
        token.retag("JJ")


def _correct_identifier(tokens: Sequence[Token], token: Token) -> None:
    """Correct "filter for vacuum XV-200": the model number belongs to the vacuum, not the other way round."""
    left = before(tokens, token)
    if left is None or left.head is not token or not (left.is_noun or left.tag == "JJR") or not left.lower.isalpha():
        return
    if any(character.isdigit() for character in token.lower):
        left.retag("NN" if left.tag == "JJR" else left.tag)
        demote(token, left, "nummod")


def _correct_label(tokens: Sequence[Token], token: Token) -> None:
    """Correct "a glass of wine royalty free stock photo": the label at the end is no part of what the glass holds."""
    left = before(tokens, token)
    if token.dep not in ("pobj", "dobj") or token.lower not in LABELS or left is None or left.lower != "stock":
        return
    start = token.i - 1
    while start and tokens[start - 1].lower in ("royalty", "free"):
        start -= 1
    thing = tokens[start - 1]
    if not thing.is_noun or thing.i <= token.head.i or not (thing.head is token or token in thing.ancestors()):
        return
    replace_with(token, thing)
    token.attach(thing, LABEL)


def _join_prepositions(tokens: list[Token]) -> list[Token]:
    """Correct "in front of" to one preposition, whose object is that of its last word."""
    if not any(token.lower in COMPLEX_PREPOSITIONS for token in tokens):
        return tokens
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
    first.end = parts[-1].end
    first.retag("IN")
    for child in [child for part in parts for child in part.children if child not in parts]:
        child.attach(first, child.dep)
    if outside in below(first):
        outside.attach(outside, "ROOT")
    first.attach(outside, "prep")
    for part in parts[1:]:
        part.attach(part, "fixed")
    return first


def _correct_quantity(token: Token) -> None:
    """Correct "dozens of homes": the object is "homes", and "dozens of" is its number."""
    if not (token.lower in QUANTITIES or (token.lower == "lot" and token.kids("det"))):
        return
    links = [child for child in token.kids("prep") if child.lower == "of"]
    things = [thing for link in links for thing in link.kids("pobj")]
    if things:
        links[0].attach(links[0], "fixed")
        things[0].attach(token, "dep")
        demote(token, things[0], "nummod")
        token.retag("CD")


def _correct_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "phone case", "scissors": a word that WordNet knows as a noun only is no verb."""
    word, left = token.lower, before(tokens, token)
    is_thing = lexicon.noun(word) in lexicon.nouns
    if "-" in word and _opens(left) and token.tag != "VBP":
        become_modifier(tokens, token, "amod")  # "floor-to-ceiling windows"
    elif word in PLURAL_ONLY and word not in lexicon.verbs:
        _join_compound(token, left) if left is not None and left.is_noun else _become_noun(token, "NNS")
    elif not lexicon.is_verb_form(word) and _is_unlike_verb(token, lexicon):
        _become_noun(token, "NNS" if word.endswith("s") else "NN")
    elif is_thing:
        _correct_verb_or_thing(tokens, token)


def _correct_verb_or_thing(tokens: Sequence[Token], token: Token) -> None:
    """Correct "set of 6 glasses", "cookware set", "case cover for a phone": where no verb can stand, a word that can be
    a verb or a thing is a thing.
    """
    word, left, right = token.lower, before(tokens, token), after(tokens, token)
    if left is None and (right is None or right.lower == "."):
        token.retag("NN")  # "kiss": clip art has captions of one word, which labels need as objects
    elif (
        token.dep in ("dobj", "pobj")
        and not token.kids("aux", "auxpass", "nsubj", "dobj")
        and token.tag in ("VB", "VBP")
    ):
        token.retag("NN")  # "reveals smoke"
    elif _opens(left) and right is not None and right.lower == "of" and (token.is_root or word == "set"):
        token.retag("NN")  # "Set of 6 glasses"
    elif left is not None and left.is_noun and word in MISTAKEN_VERBS and _is_compound_head(token):
        _join_compound(token, left)
    elif token.tag in ("VB", "VBP") and _disagrees(token):
        become_noun_before(token)


def _is_unlike_verb(token: Token, lexicon: Lexicon) -> bool:
    """Whether a word that WordNet does not know as a verb is none: it may be a new one ("a chemist pipettes a
    sample").
    """
    if token.lower.endswith(("ing", "ed")):
        return token.dep == "dobj" and token.lower in lexicon.nouns  # "unloading herring"
    acts = any(subject.kids("det") and subject.i == token.i - 1 for subject in token.kids("nsubj"))
    return not (acts and token.tag == "VBZ" and any(thing.kids("det") for thing in token.kids("dobj")))


def _opens(left: Token | None) -> bool:
    return left is None or not left.lower[-1].isalnum()


def _correct_adjective(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "laundry hamper", "baked oatmeal", "baby Oliver": a word that WordNet or its form knows as a noun only is
    no adjective or adverb.
    """
    word, left = token.lower, before(tokens, token)
    is_thing = lexicon.noun(word) in lexicon.nouns
    if token.tag == "JJ" and _is_only_noun(word, lexicon):
        token.retag("NN" if is_thing else "NNP")
        token.dep = "compound" if token.dep == "amod" else token.dep
        return
    if token.kids("compound") and not word.endswith("ing") and token.dep != "amod":
        token.retag("NN")  # "Baby Oliver"
    elif is_thing and left is None and token.dep == "amod" and token.head.tag == "NNS" and is_animate(word):
        token.retag("NN")  # "Mechanic checks the oil"
        token.dep = "compound"
    elif not is_thing:
        return
    elif (
        token.tag == "RB"
        and word not in lexicon.adverbs
        and word not in lexicon.adjectives
        and not (left and left.lower == "no")
    ):
        token.retag("NN")  # "baked oatmeal"


def _is_only_noun(word: str, lexicon: Lexicon) -> bool:
    """Whether a word tagged as an adjective is not one by WordNet or by its form: "laundry hamper", "Randy Jackson"."""
    if word in lexicon.adjectives or word in ADJECTIVES or word in COLOURS or word in NUMBER_WORDS:
        return False
    if not word.isalpha() or len(word) < 3 or (lexicon.verb(word) != word and word not in lexicon.verbs):
        return False
    if word in lexicon.nouns:
        return not word.endswith(ORIGIN_ENDINGS) or word.endswith("fish")
    graded = next((word.removesuffix(ending) for ending in ("est", "er") if word.endswith(ending)), None)
    if graded is not None:
        return not {graded, f"{graded}e", graded[:-1], f"{graded[:-1]}y"} & lexicon.adjectives
    return not word.endswith(ADJECTIVE_ENDINGS)


def _is_compound_head(token: Token) -> bool:
    """Whether "set", "saw" or "cut" after a noun is the head of a compound ("cookware set"), not a verb."""
    return (
        token.is_verb
        and not token.kids("aux", "auxpass", "dobj", "agent")
        and (token.tag != "VBN" or token.lower == "set")
    )


def _disagrees(token: Token) -> bool:
    """Whether a base verb form stands where English has no verb: "case cover for a phone", "pattern and sketch"."""
    if token.kids("aux", "auxpass", "mark", "neg") or token.dep in ("ccomp", "xcomp", "advcl", "relcl", "acl", "aux"):
        return False
    if token.dep == "conj":
        return token.head.is_noun and not token.kids("dobj", "nsubj")
    subjects = token.kids("nsubj")
    return (
        len(subjects) == 1
        and subjects[0].tag in ("NN", "NNP", "JJ")
        and subjects[0].lower not in INVARIANT
        and not any(part.tag == "CC" and part.head.is_noun for part in below(subjects[0]))
        and token.is_root
    )


def _become_noun(token: Token, tag: str) -> None:
    token.retag(tag)
    for child in token.kids("nsubj", "dobj"):
        child.dep = "compound" if child.i == token.i - 1 else "dep"


def _join_compound(token: Token, left: Token) -> None:
    """Correct "cookware set", "table saw": the last word of a compound looks like a past tense."""
    token.retag("NN")
    if left not in below(token):
        replace_with(left, token)
    left.attach(token, "compound")
