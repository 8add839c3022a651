"""Corrections of words in titles that are not verbs: "Gold Plated Geometric Earrings", "Mood Changing LED Lanterns",
"Brakk Quartz Ladies Watch".

Titles of products and images, which are recognised by their capitals, are chains of nouns, participles and adjectives
without articles. The tagger expects a sentence and takes one of these words for its verb. Headlines are titles too
("Two Girls Share an Umbrella"), so a word stays a verb if its subject can act, if an article or a preposition follows,
or if it is neither a noun nor a participle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from diht_k8s.stages.filter.captions.lexicon import (
    INTRANSITIVE,
    PURPOSE,
    THINGS_IN_ING,
    Lexicon,
    can_act,
    is_animate,
    words,
)
from diht_k8s.stages.filter.captions.tree import Token, after, before, below, replace_with

IRREGULAR_PARTICIPLES: Final = words(
    "cut set built made woven knit hidden broken fallen frozen lost worn torn sewn drawn grown blown wound bound spun "
    "cast"
)
ASKING: Final = words("when how why where what who")
LOOKS: Final = words(
    "themed shaped printed inspired styled patterned framed autographed stamped embroidered lined trimmed colored "
    "coloured sized sleeved recessed tiled mounted ribbed quilted padded hooded striped embossed engraved plated "
    "insulated laminated distressed pleated ruffled beaded sequined scented animated revised sketched upholstered "
    "tufted personalised personalized customised customized refurbished"
)
"""Participles that describe a thing even after a noun that could act: "Owl Themed Cards"."""
ENDS_IN_ING: Final = THINGS_IN_ING | {"hanging"}
OF_THINGS: Final = words("with by of for")
"""What follows "lighting" in "Bathroom Lighting with Glass Shades"."""
ACTS: Final = words(
    "hold wear ride carry eat drink use look show feature depict contain pull push chase feed kiss hug promote "
    "celebrate star cultivate have do"
)
"""Verbs whose -ing form before a noun is an action, whatever precedes it."""
THINGS: Final = words(
    "set cut rose saw cast watch design wish bow force dress cover stand hang hook fall drop light play film picture "
    "dance drive shoot draw"
)
"""Words that usually name things after a noun in a title."""
VERBS: Final = words(
    "be have do go get make take give cause come see know say tell ask show find keep let want need like love hate "
    "think feel look seem become begin start stop end open close add allow appear announce answer argue arrive attack "
    "attend beat bring build buy call carry catch celebrate claim climb compete cook create cry dance deal debut "
    "deliver demand derive develop found feature harvest die discuss dominate draw drink drive eat employ empower "
    "enjoy enter escape explain explode express face fail fall feed fight fill fly follow gain grow guard hang happen "
    "hear help hit hold hope hug include increase inspire introduce invite join jump kick kill kiss launch lead learn "
    "leave lie listen live lose maintain march meet miss move offer order pay perform pitch play point pose present "
    "prevent produce promote protect provide pull push put raise reach read receive record reduce release remain "
    "replace retain return reveal ride rise run save score seek sell send serve set share shoot sign sing sit sleep "
    "smile speak spend stand star stay steal suffer support surprise survive talk target teach test throw touch train "
    "travel try turn unveil use visit vote wait walk warn wear welcome win wonder work write"
)
"""Words that usually are verbs, though some name things as well."""


def correct_title(tokens: Sequence[Token], lexicon: Lexicon, title: str) -> None:
    """Apply the rules for words of a title that are not verbs, but modifiers or nouns.

    Args:
        tokens: words of the title.
        lexicon: lemmas.
        title: the title with its capitals: a word without a capital is not part of a name.
    """
    if tokens and tokens[0].lower in ASKING:
        return
    for token in tokens:
        if not token.is_verb or token.dep in ("amod", "compound", "nmod", "aux", "auxpass"):
            continue
        if token.kids("aux", "auxpass", "neg", "mark", "prt") or (token.kids("agent") and token.lower != "set"):
            continue
        if title[token.start].islower() and token.lower not in LOOKS:
            continue
        _correct_verb(tokens, token, lexicon)


def correct_fragment(tokens: Sequence[Token], lexicon: Lexicon) -> None:
    """Correct words that are not verbs in captions without capitals: "clay bells royalty free drawing", "rubber lined
    valve".

    More careful than `correct_title`: only right after a bare common noun that cannot act, and before a noun or the
    end.
    """
    for token in tokens:
        if not token.is_verb or token.dep in ("amod", "compound", "nmod", "aux", "auxpass", "relcl", "xcomp"):
            continue
        left, right = before(tokens, token), after(tokens, token)
        if _is_look(token, left, right):
            _become_part(tokens, token, "amod")
            continue
        if left is None or left.tag not in ("NN", "NNS") or can_act(left, lexicon):
            continue
        if token.kids("aux", "auxpass", "neg", "agent", "mark", "prt") or _has_article(tokens, left):
            continue
        _correct_in_chain(tokens, token, lexicon)


def _correct_in_chain(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "rubber lined valve", "oak cabin floor plans": after a thing, a verb before a noun or the end is a part
    of the name.
    """
    left, right = before(tokens, token), after(tokens, token)
    assert left is not None, "a noun precedes it"
    noun_follows = _noun_follows(tokens, token)
    if _is_participle(token):
        if noun_follows and left.tag == "NN":
            _become_part(tokens, token, "amod")
    elif token.tag in ("VBZ", "VBP", "VB") and _is_thing(token, lexicon):
        if noun_follows:
            _become_part(tokens, token, "compound")
        elif right is None or not _is_word(right):
            _become_head(token, left)


def _is_look(token: Token, left: Token | None, right: Token | None) -> bool:
    """Whether a participle between nouns describes the second one: "a bronze mounted porcelain urn"."""
    between = left is not None and _is_nominal(left) and right is not None and _is_nominal(right)
    return (
        between and token.lower in LOOKS and token.tag in ("VBN", "VBD") and not token.kids("aux", "auxpass", "agent")
    )


def _has_article(tokens: Sequence[Token], noun: Token) -> bool:
    """Whether the noun phrase that ends with this noun has an article, as in a sentence."""
    index = noun.i
    while index >= 0 and _is_nominal(tokens[index]):
        index -= 1
    return index >= 0 and tokens[index].tag in ("DT", "PRP$", "WP", "WDT", "POS")


def _correct_verb(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct "Drum Set with Cymbal", "Quartz Ladies Watch": in a title, a verb after a thing is a part of the name."""
    left, noun_follows = before(tokens, token), _noun_follows(tokens, token)
    after_nominal = left is not None and _is_nominal(left)
    after_thing = left is not None and after_nominal and not can_act(left, lexicon)
    if not lexicon.is_verb_form(token.lower):
        token.retag("NNP" if token.lower.endswith("ing") else "JJ")  # "Genting Highlands", "Multicolored Mayhem"
    elif token.lower == "set" and after_nominal and not noun_follows:
        _become_head(token, tokens[token.i - 1])  # "Drum Set with Cymbal"
    elif _is_participle(token):
        _correct_past_participle(tokens, token, noun_follows=noun_follows, after_thing=after_thing)
    elif token.tag == "VBG":
        if after_thing:
            _correct_participle(tokens, token, lexicon, noun_follows=noun_follows)
    elif token.lower == "rose" or is_animate(token.lower) or (after_thing and _is_thing(token, lexicon)):
        if noun_follows:
            _become_part(tokens, token, "compound")
        elif after_nominal and _may_end_name(tokens, token):
            _become_head(token, tokens[token.i - 1])


def _correct_past_participle(tokens: Sequence[Token], token: Token, *, noun_follows: bool, after_thing: bool) -> None:
    """Correct "Gold Plated Earrings", "LED Brake Light Smoked": in a title, a participle describes the thing beside
    it.
    """
    left, right = before(tokens, token), after(tokens, token)
    opens_later_part = left is not None and not _is_word(left)
    if noun_follows and (after_thing or token.lower in LOOKS or opens_later_part):
        _become_part(tokens, token, "amod")
    elif after_thing and (right is None or not _is_word(right)) and all(c.i < token.i for c in token.children):
        token.retag("JJ")  # "LED Brake Light Smoked"


def _correct_participle(tokens: Sequence[Token], token: Token, lexicon: Lexicon, *, noun_follows: bool) -> None:
    """Correct "Mood Changing Lantern", "Cotton Door Hanging": in a title, an -ing word after a thing that cannot act is
    no action.
    """
    right = after(tokens, token)
    if noun_follows and token.lower in PURPOSE:
        _become_part(tokens, token, "compound")
    elif noun_follows and lexicon.verb(token.lower) not in ACTS and not token.kids("prep"):
        _become_part(tokens, token, "amod")
    elif (right is None or not _is_word(right) or right.lower in OF_THINGS) and token.lower in ENDS_IN_ING:
        _become_head(token, tokens[token.i - 1])


def _may_end_name(tokens: Sequence[Token], token: Token) -> bool:
    """Whether the next word, if any, allows a token to be the last word of a name."""
    right = after(tokens, token)
    return right is None or not _is_word(right) or right.tag in ("IN", "CC") or _is_nominal(right)


def _noun_follows(tokens: Sequence[Token], token: Token) -> bool:
    """Whether a noun follows, possibly after adjectives and numbers."""
    following = (item for item in tokens[token.i + 1 :] if item.tag not in ("JJ", "CD"))
    return next((item.is_noun for item in following), False)


def _is_word(token: Token) -> bool:
    return token.lower[0].isalnum() or token.lower == "'s"


def _is_nominal(token: Token) -> bool:
    return token.is_noun or token.tag in ("JJ", "CD")


def _is_participle(token: Token) -> bool:
    return token.tag in ("VBN", "VBD") and (token.lower.endswith("ed") or token.lower in IRREGULAR_PARTICIPLES)


def _is_thing(token: Token, lexicon: Lexicon) -> bool:
    if lexicon.noun(token.lower) not in lexicon.nouns:
        return False
    verb = lexicon.verb(token.lower)
    if verb in INTRANSITIVE and token.kids("prep"):
        return False
    return lexicon.noun(token.lower) in THINGS or (verb not in VERBS and verb not in INTRANSITIVE)


def _become_head(token: Token, left: Token) -> None:
    """Make a token the last word of a name: "Quartz Ladies Watch"."""
    token.retag("NNS" if token.tag == "VBZ" else "NN")
    for child in token.kids("nsubj", "nsubjpass"):
        child.dep = "compound"
    if left not in below(token):
        replace_with(left, token)
        left.attach(token, "compound")


def _become_part(tokens: Sequence[Token], token: Token, dep: str) -> None:
    """Make a token part of the noun phrase that continues after it."""
    stop = token.i + 1
    while stop < len(tokens) and _is_nominal(tokens[stop]):
        stop += 1
    nouns = [item for item in tokens[token.i + 1 : stop] if item.is_noun]
    if not nouns:
        return
    noun = next((item for item in nouns if item.dep not in ("compound", "amod", "nmod")), nouns[-1])
    left = before(tokens, token)
    if noun in below(token):
        replace_with(token, noun)
    for child in list(token.children):
        child.attach(noun, "compound" if child.is_noun and child.i < noun.i else child.dep)
    if dep == "compound":
        token.retag("NNS" if token.tag == "VBZ" else "NN")
    elif token.tag == "VBD":
        token.retag("VBN")
    token.attach(noun, dep)
    if left is not None and left in noun.ancestors():
        replace_with(left, noun)
        left.attach(noun, "compound")
