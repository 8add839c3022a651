"""Noun phrases of a caption, its objects with their attributes: runs of neighbouring nouns, adjectives and numbers.

Each word has a role first: noun, adjective, number, skipped, or break between phrases.

On captions, runs are more reliable than the parser's labels: it splits the noun chains of product titles and names
arbitrarily.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.stages.filter.captions.lexicon import (
    ADJECTIVES,
    COLOURS,
    COUNTS,
    INTRANSITIVE,
    LOOKS_IN_ING,
    NUMBER_WORDS,
    OBJECT_NOT_ADVERB,
    PLURAL_ONLY,
    PURPOSE,
    THINGS_IN_ING,
    UNITS,
    Lexicon,
    by_first_word,
    is_animate,
    phrases,
    words,
)
from diht_k8s.stages.filter.captions.tree import LABEL, Token, after, before

SHADES: Final = words(
    "dark light pale bright deep navy mint sky royal baby hot olive forest lime neon medium pastel off jet mustard "
    "rose warm powder steel slate emerald ruby cobalt midnight ocean sea sage electric army hunter dusty burnt "
    "chocolate lemon cherry"
)
PLAIN_ADJECTIVES: Final = words(
    "smart limited dark cold cool short long high low heavy dry wet clear perfect sweet old new little big great small "
    "large giant young good best fine standard open secret smooth blind makeshift cozy cosy latest triple double "
    "single quick fast ancient whole deep regular funny thick thin shallow common wild rich raw full evil blank "
    "extreme lean petite solid rear front upper lower daily weekly monthly analog analogue male female holy military "
    "hidden hot cute pretty happy ultimate favorite favourite private"
)
"""Adjectives that the tagger takes for nouns; capitalised inside a sentence they belong to a name ("Great Barrier
Reef").
"""
SURE_ADJECTIVE_ENDINGS: Final = ("able", "ible", "less", "proof", "ic", "al", "ous", "ive", "ful", "ish", "ern")
"""Endings that make a word that WordNet lists as adjective and noun an adjective before a noun."""
NOUN_MODIFIERS: Final = words(
    "plastic ceramic leather rubber cotton steel glass metal stone paper brick porcelain velvet silk denim copper "
    "brass iron linen wool bamboo oak pine marble granite concrete cardboard nylon polyester pet side animal crystal "
    "mineral material capital music fabric maxi midi signal tabby mosaic olive baby kitchen summer winter home master "
    "luxury comic graphic picnic clinic traffic attic topic"
)
"""Nouns that WordNet also lists as adjectives; before a noun they are part of its name."""
DETERMINERS: Final = words(
    "a an the this that these those some any all every each both no another other others such same own more most less "
    "least much either neither what which whose enough half"
)
CALENDAR: Final = words(
    "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
    "september october november december jan feb mar apr jun jul aug sep sept oct nov dec today tomorrow yesterday "
    "tonight mon tue tues wed thu thur thurs fri"
)
MONTH_WORDS: Final = words("march may")
HYPHENATED_NOUNS: Final = words(
    "t-shirt t-shirts e-book e-books x-ray x-rays co-op pop-up pop-ups pull-up make-up check-in close-up close-ups "
    "tee-shirt"
)
STREETS: Final = words(
    "lane ln street st avenue ave road rd drive dr boulevard blvd court ct terrace highway hwy parkway pkwy circle"
)
PARTS: Final = words("piece pieces")
"""Units between a number and a noun: "12 piece cookware set"."""
IDENTIFIER_WORDS: Final = words("no no. nr series model size vol vol. volume part ref sku art. type")
FIXED_NAMES: Final = phrases(
    "polar bear;grizzly bear;brown bear;hot dog;hot dogs;hot air;guinea pig;guinea pigs;bald eagle;golden "
    "retriever;french fry;french fries;sweet potato;sweet potatoes;high school;real estate;social media;stainless "
    "steel;cast iron;still life;slow cooker;cell phone;mobile phone;prime minister;new year;polar bears;grizzly "
    "bears;bald eagles;golden retrievers;cell phones;mobile phones;first aid;living room;common sense;red cross;ice "
    "cream;black hole;fire engine;teddy bear;ferris wheel;high street;high schools;cardinal directions;roller "
    "coaster;new york;new zealand;new delhi;new jersey;new mexico;new england;new orleans;new hampshire;new "
    "brunswick;great britain;great lakes;united states;united kingdom;south africa;south korea;south carolina;south "
    "dakota;north korea;north carolina;north dakota;west virginia;sri lanka;costa rica;puerto rico;big ben;grand "
    "canyon;red sea;black sea;dead sea;green bay;white house;rocky mountains;golden gate;black friday;sour cream;light "
    "bulb;light bulbs;light switch;light fixture;light fixtures"
)
ADVERBIALS: Final = by_first_word(
    phrases(
        "for example;side by side;hand in hand;arm in arm;face to face;back to back;day by day;one by one;at least;at "
        "last;of course;last night;last week;last year"
    )
)
"""first word -> fixed adverbials that begin with it."""
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
    """Whether a colour describes the noun chain that it ends: "wool coat brown", but not "larry brown", "sour
    cream".
    """
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
