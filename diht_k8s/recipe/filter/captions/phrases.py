"""Objects and their attributes: noun phrases found as runs of neighbouring nouns, adjectives and numbers.

On captions, runs are more reliable than the parser's labels: it splits the noun chains of product titles and names
arbitrarily.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.recipe.filter.captions.lexicon import Lexicon
from diht_k8s.recipe.filter.captions.token_roles import ADJECTIVE, BREAK, NOUN, NUMBER, between_marks, roles_of
from diht_k8s.recipe.filter.captions.tree import LABEL, Token
from diht_k8s.recipe.filter.captions.wordlists import COLOURS, FIXED_NAMES, LOOKS_IN_ING, PLURAL_ONLY, SHADES, words

FIXED_FIRST: Final = frozenset(first for first, _ in FIXED_NAMES)
WEARERS: Final = words("men women kids children boys girls ladies babies")
OF_PEOPLE: Final = words(
    "young old older younger little elderly adult teenage pregnant happy unhappy sad angry proud shy lonely hungry "
    "sleepy sick naughty cheerful joyful curious brave excited tired scared frightened worried bored surprised amazed "
    "shocked delighted disappointed annoyed"
)
"""Adjectives of people, not of products for them; so are -ing words outside `LOOKS_IN_ING`."""
LINKS: Final = ("and", "or", "but", ",", "&", "/")
FREE_OF: Final = words(
    "royalty sugar gluten dairy fat smoke duty lead cruelty oil nut grain acid stress alcohol caffeine lactose"
)
"""What a thing may be free of ("sugar free"); not part of its name."""
DRINKS: Final = words("wine drinking shot beer martini champagne cocktail water juice whiskey whisky pint")


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
    """The objects of a corrected caption, in order, with the attributes in their noun phrases."""
    roles = roles_of(tokens, lexicon)
    found, waiting = Phrases(), list[Token]()
    for run in _runs(roles):
        if not any(roles[index] == NOUN for index in run):
            waiting = _waiting(tokens, roles, run, waiting, found)
            continue
        for number, part in enumerate(_parts(tokens, roles, run)):
            _add_phrase(tokens, roles, part, waiting if number == 0 else [], found, lexicon)
        waiting = _of_wearers(tokens, roles, run, found)
    _add_lone_adjectives(tokens, roles, found)
    return found


def _runs(roles: Sequence[str]) -> Iterator[range]:
    """Runs of tokens without a break."""
    start = None
    for index, role in enumerate([*roles, BREAK]):
        if role == BREAK and start is not None:
            yield range(start, index)
            start = None
        elif role != BREAK and start is None:
            start = index


def _waiting(
    tokens: Sequence[Token], roles: Sequence[str], run: range, before: list[Token], found: Phrases
) -> list[Token]:
    """Adjectives of a run without a noun that describe the noun after "and" or a comma ("tall and short candles")."""
    link = tokens[run.stop].lower if run.stop < len(tokens) else ""
    after = run.stop + 1
    while after < len(tokens) and tokens[after].tag == "RB":
        after += 1  # "empty, brightly lit"
    if link == "," and found.phrases and between_marks(tokens, run.start):
        return []  # "table, extendable, natural finish"
    joined = link in LINKS and after < len(tokens) and roles[after] in (ADJECTIVE, NUMBER)
    joined = joined and _leads_to_noun(tokens, roles, after)
    adjectives = [tokens[index] for index in run if roles[index] == ADJECTIVE]
    predicate = any(token.dep == "acomp" or _hangs_on_be(token) for token in adjectives)
    return [*before, *adjectives] if joined and not predicate else []


def _leads_to_noun(tokens: Sequence[Token], roles: Sequence[str], start: int) -> bool:
    """Whether only modifiers and conjunctions precede the next noun; a lone colour is not a noun ("hat, grey/royal
    blue").
    """
    for index in range(start, len(tokens)):
        if roles[index] == NOUN and not _is_colour(tokens, index):
            return True
        if roles[index] == BREAK and tokens[index].lower not in LINKS:
            return False
    return False


def _of_wearers(tokens: Sequence[Token], roles: Sequence[str], run: range, found: Phrases) -> list[Token]:
    """Adjectives before a wearer that describe the product: "vintage men's watch", but not "the little girl's hat"."""
    if run.stop == len(tokens) or tokens[run.stop].tag != "POS" or tokens[run.stop - 1].lower not in WEARERS:
        return []
    if run.start and tokens[run.start - 1].tag in ("DT", "PRP$"):
        return []
    start = run.stop + 1
    while _is_wearer_too(tokens[start : start + 3]):
        start += 3
    thing = next((part for part in _runs(roles) if part.start == start), range(0))
    if not any(roles[index] == NOUN for index in thing):
        return []
    phrase = found.phrases[-1]
    own = [token for token in tokens[: run.stop] if found.of_adjective.get(token.i) is phrase]
    kept = [token for token in own if _is_of_people(token.lower)]
    phrase.attributes = [token.lower for token in kept]
    return [token for token in own if token not in kept]


def _is_wearer_too(tokens: Sequence[Token]) -> bool:
    """Whether the tokens coordinate another wearer: "men's and women's watches"."""
    return len(tokens) == 3 and tokens[0].lower in LINKS and tokens[1].lower in WEARERS and tokens[2].tag == "POS"


def _is_of_people(word: str) -> bool:
    return word in OF_PEOPLE or (word.endswith("ing") and word not in LOOKS_IN_ING)


def _hangs_on_be(token: Token) -> bool:
    return any(head.lower in ("is", "are", "was", "were", "be") for head in token.ancestors())


def _parts(tokens: Sequence[Token], roles: Sequence[str], run: range) -> Iterator[list[int]]:
    """The noun phrases of a run: after a noun, an adjective or number may begin the next one."""
    part: list[int] = []
    has_noun = False
    for index in run:
        role = roles[index]
        if has_noun and (
            (role in (ADJECTIVE, NUMBER) and _begins_phrase(tokens, roles, index, run))
            or (role == NOUN and _second_object(tokens, index))
        ):
            yield part
            part, has_noun = [], False
        part.append(index)
        has_noun = has_noun or role == NOUN
    if part:
        yield part


def _begins_phrase(tokens: Sequence[Token], roles: Sequence[str], index: int, run: range) -> bool:
    later = [item for item in range(index + 1, run.stop) if roles[item] == NOUN]
    if not later:
        return False
    before = tokens[index - 1]
    if roles[index] == NUMBER or tokens[index].tag == "VBN" or tokens[index].lower.endswith("ed"):
        return False
    if tokens[index].lower == "free" and before.lower in FREE_OF:
        return False
    return before.tag in ("NNS", "NNPS") or before.dep not in ("compound", "nmod", "amod", "npadvmod")


def _second_object(tokens: Sequence[Token], index: int) -> bool:
    """Whether a noun is another object, not part of a compound: "gives children toys", "crafts kids can make"."""
    before, token = tokens[index - 1], tokens[index]
    if any(child.dep == LABEL and child.i - index <= 3 for child in before.children):
        return True
    if token.dep == "nsubj" and token.head.dep == "relcl" and token.head.head is before:
        return True
    return before.dep == "dative" and token.head is before.head


def _add_phrase(
    tokens: Sequence[Token],
    roles: Sequence[str],
    part: list[int],
    waiting: list[Token],
    found: Phrases,
    lexicon: Lexicon,
) -> None:
    nouns = [index for index in part if roles[index] == NOUN]
    if not nouns:
        return
    head = nouns[-1]
    in_name = set(nouns)
    for index in [part[0] - 1, *part[:-1]] if part[0] else part[:-1]:
        if (
            tokens[index].lower in FIXED_FIRST
            and (tokens[index].lower, tokens[index + 1].lower) in FIXED_NAMES
            and index + 1 in in_name
        ):
            in_name.add(index)
    for index in nouns[:-1]:
        if (
            index + 1 not in in_name
            and not (index and roles[index - 1] == NUMBER)  # "4 bedroom detached house"
            and tokens[index + 1].tag in ("VBN", "VBD", "JJ")
            and tokens[index + 1].lower.endswith("ed")
        ):
            in_name.discard(index)  # "gold plated ring": the plating is not part of the name
        elif tokens[index + 1].lower == "free" and tokens[index].lower in FREE_OF:
            in_name.discard(index)
    named = [tokens[index] for index in sorted(in_name)]
    phrase = Phrase(tokens[head], _name(named, lexicon), named)
    modifiers = [token for token in waiting] + [
        tokens[index] for index in part if roles[index] in (ADJECTIVE, NUMBER) and index not in in_name
    ]
    phrase.attributes += _attributes(modifiers, tokens, head, roles)
    found.phrases.append(phrase)
    found.of_token.update({word.i: phrase for word in named})
    found.of_adjective.update({token.i: phrase for token in modifiers})


def _attributes(modifiers: Sequence[Token], tokens: Sequence[Token], head: int, roles: Sequence[str]) -> list[str]:
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
            and any(roles[index] == NOUN for index in range(max(0, head - 6), head) if tokens[index].i < token.i)
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


def _name(named: Sequence[Token], lexicon: Lexicon) -> str:
    *compound, head = (word.lower for word in named)
    if head == "glasses" and compound and compound[-1] in DRINKS:
        return " ".join([*compound, "glass"])
    if compound and all(word.tag in ("NNP", "NNPS") for word in named) and _is_full_name(named):
        return " ".join([*compound, head])
    if named[-1].tag == "NNP" and head not in PLURAL_ONLY and head in lexicon.nouns:
        return " ".join([*compound, head])
    return " ".join([*compound, lexicon.noun(head)])


def _is_full_name(named: Sequence[Token]) -> bool:
    """Whether a name stays as it is written: "Las Vegas", "Donald Evans", "the Detroit Lions"."""
    last = named[-1]
    if named[-2].lower == "stock":
        return False
    return last.tag == "NNP" or any(child.lower == "the" for child in last.kids("det")) or last.head.lower == "by"


def _add_lone_adjectives(tokens: Sequence[Token], roles: Sequence[str], found: Phrases) -> None:
    """Attach lone adjectives to the object before: "Mug - White", "dress in navy", "black and white" after a comma."""
    for run in _runs(roles):
        if any(roles[index] == NOUN and not _is_colour(tokens, index) for index in run):
            continue
        before = [phrase for phrase in found.phrases if phrase.head.i < run.start]
        if not before or not _stands_alone(tokens, run):
            continue
        coloured = [tokens[index] for index in run if roles[index] in (ADJECTIVE, NOUN)]
        if not coloured or _is_predicate(coloured[0]):
            continue
        own = [found.of_token[token.i] for token in coloured if token.i in found.of_token]
        described = found.of_adjective.get(coloured[0].i)
        if described is not None and described not in own:
            continue
        for index in run:
            found.of_token.pop(index, None)
        found.phrases[:] = [phrase for phrase in found.phrases if phrase not in own]
        target = next((phrase for phrase in reversed(before) if phrase not in own), None)
        if target is not None:
            target = _described_phrase(target, found)
            target.attributes += _attributes(coloured, tokens, target.head.i, roles)
            found.of_adjective.update({token.i: target for token in coloured})


def _is_predicate(token: Token) -> bool:
    top = token.head if token.dep == "conj" else token
    return (top.dep == "acomp" and top.head.is_verb) or (token.dep == "conj" and token.head.is_verb)


def _is_colour(tokens: Sequence[Token], index: int) -> bool:
    following = tokens[index + 1].lower if index + 1 < len(tokens) else ""
    return tokens[index].lower in COLOURS or (tokens[index].lower in SHADES and following in COLOURS)


def _described_phrase(nearest: Phrase, found: Phrases) -> Phrase:
    """The object that a late colour describes: the frame in "Bed Frame with Storage, White", the hands in "pair of
    hands, black".
    """
    head = nearest.head
    while head.dep == "pobj" and head.head.lower != "of" and head.head.head.i in found.of_token:
        head = head.head.head
    return found.of_token[head.i]


def _stands_alone(tokens: Sequence[Token], run: range) -> bool:
    before = tokens[run.start - 1].lower
    after = tokens[run.stop].lower if run.stop < len(tokens) else ""
    ends = after in ("", ",", ".", ")", ";", "|", "and", "&", "/") or (
        tokens[run.stop].tag == "IN" and tokens[run.stop].head is tokens[run.stop - 1]  # "compatible with"
    )
    if before == "in":
        return all(tokens[index].lower in COLOURS | SHADES for index in run)
    return ends and before in (",", ":", "(", ";", "and", "&", "/")
