"""Attach participles, prepositions and coordinated nouns as captions use them, which the parser does not know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from diht_k8s.recipe.filter.captions.lexicon import Lexicon
from diht_k8s.recipe.filter.captions.tree import Token, after, before, below, replace_with
from diht_k8s.recipe.filter.captions.wordlists import AUXILIARIES, INTRANSITIVE, is_animate, words

SHOWING = words("show depict display feature contain include illustrate represent picture portray")
OF_THE_VERB = words("from into onto through across along past during before after")
BESIDE = frozenset(("next to", "beside", "near", "close to"))
PLACES = (
    BESIDE
    | words("behind beyond beneath underneath below above opposite against outside nearby")
    | {"in front of", "across from"}
)
"""After a noun, these give the place of that noun, not of the noun that owns it."""
VIEWS = words("background foreground distance sky")
PICTURES = words(
    "photo photograph picture image portrait painting drawing illustration close-up closeup map diagram footage "
    "snapshot screenshot sketch view shot"
)
"""What follows "a photo of a boat" says where the boat is, not the photo."""
TAKEN = words("take capture shoot snap photograph film record paint draw")
STATUES = words("statue sculpture bust monument figurine")
"""Unlike an image, these can do what a participle says: "statue of a king overlooking the bay"."""
TOOLS = words(
    "knife hammer spoon fork brush pin saw chainsaw axe pencil pen marker scissors stick shovel rake broom whisk "
    "needle drill net rod hose chopsticks roller ladle wrench screwdriver tweezers mop rope sword spatula trowel "
    "hand hands finger fingers camera microscope magnifier torch paddle oar racket bat club tool tools"
)
MOVING = words("carry bring take throw pass send deliver hand tie attach pull push drag move lead fix")
HOLDING = words("hold have carry wear own contain include feature show fill buy sell") | SHOWING
TIMES = words("sunset sunrise dawn dusk night noon midday midnight daybreak nightfall")
OFFERS = words("rent sale hire")
PLACED = words("with in at near on by")
PATHS = words("down off along around past over through across up")


def correct_attachment(tokens: Sequence[Token], lexicon: Lexicon) -> None:
    """Apply the rules for heads."""
    for token in tokens:
        _correct_coordination(tokens, token)
        _correct_path(token, lexicon)
        if token.tag in ("IN", "TO", "RP"):
            _correct_lone_preposition(tokens, token)
        elif token.lower in ("who", "that", "which"):
            _correct_relative(tokens, token)
    for token in tokens:
        if token.tag == "VBG":
            _attach_to_subject(tokens, token)
        elif token.tag == "VBN" and token.dep == "acl":
            _attach_to_pictured(tokens, token)
            _attach_to_picture(token, lexicon)
            _attach_to_work(tokens, token)
    for token in tokens:
        if token.dep == "prep":
            _correct_preposition(tokens, token, lexicon)


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
    if link is None or _part_from_possession(tokens, token, link):
        return
    if link.head is token.head:
        _join_possessions(token, link)
    elif (
        link.head.dep in ("dobj", "pobj")
        and token.head.i < link.head.i < link.i
        and link.head.is_noun
        and link.head not in below(token)
    ):
        token.attach(link.head, "conj")


def _possession(owner: Token, link: Token, preposition: str = "with") -> Token | None:
    """The object of the owner's last "with" before "and"."""
    links = [child for child in owner.kids("prep") if child.lower == preposition and owner.i < child.i < link.i]
    things = links[-1].kids("pobj") if links and owner.is_noun else []
    return things[0] if things else None


def _join_possessions(token: Token, link: Token) -> None:
    """Correct "a bicycle with fat tires and a leather saddle".

    Both belong to the bicycle, unless the second one is animate ("a man with a hat and his dog").
    """
    first = _possession(token.head, link)
    if first is None and not token.kids("det"):
        first = _possession(token.head, link, "in")  # "a man in a suit and tie"
    if first is not None and not is_animate(token.lower):
        token.attach(first, "conj")
        link.attach(first, "cc")


def _part_from_possession(tokens: Sequence[Token], token: Token, link: Token) -> bool:
    """Correct the owner of a coordinated noun that is no possession; returns whether it did.

    It does in "a boat with a sail and the sunset" and "a car with a trailer and a house in the background", but not in
    "the house with the red door and the blue roof".
    """
    head = token.head
    owner = head.head.head if head.dep == "pobj" else head
    first = _possession(owner, link)
    if first is None or (head is not owner and head is not first):
        return False
    if not (_has_place(tokens, token) or (_has_the(token) and not _has_the(first))):
        return False
    token.attach(owner, "conj")
    link.attach(owner, "cc")
    return True


def _has_the(noun: Token) -> bool:
    return any(child.lower == "the" for child in noun.kids("det"))


def _has_place(tokens: Sequence[Token], noun: Token) -> bool:
    """Whether a place follows that belongs to this noun: "behind it", "nearby", "in the background"."""
    right = after(tokens, noun)
    if right is None or right.head is not noun:
        return False
    return right.lower in PLACES or (right.lower in ("in", "on") and any(t.lower in VIEWS for t in right.kids("pobj")))


def _correct_path(token: Token, lexicon: Lexicon) -> None:
    """Correct "skiing down a hill": the particle of an intransitive verb is a preposition."""
    if token.dep != "prt" or not token.head.is_verb:
        return
    if token.kids("pobj"):
        token.dep = "prep"
    elif token.lower in PATHS and lexicon.verb(token.head.lower) in INTRANSITIVE:
        places = [child for child in token.head.kids("dobj") if child.i > token.i]
        if places:
            token.dep = "prep"
            places[0].attach(token, "pobj")


def _correct_lone_preposition(tokens: Sequence[Token], token: Token) -> None:
    """Correct "brings a guitar to every party", "things to keep in your pantry": a preposition has the noun after it as
    its object.
    """
    if token.dep == "dative" and token.kids("pobj"):
        token.dep = "prep"
    if token.dep != "prep" or token.children or not token.head.is_verb:
        return
    thing = next((child for child in token.head.kids("dobj") if child.i > token.i), None)
    if thing is not None and min(part.i for part in below(thing)) == token.i + 1:
        thing.attach(token, "pobj")


def _correct_relative(tokens: Sequence[Token], token: Token) -> None:
    """Correct "the plot of a movie to my grandma who wanted to watch", "photo of cars that were sold": the one before "who"
    is meant, and what is in the image.
    """
    clause, nearest = token.head, before(tokens, token)
    if clause.dep != "relcl" or nearest is None or not nearest.is_noun or clause in nearest.ancestors():
        return
    person = token.lower == "who" and is_animate(nearest.lower) and not is_animate(clause.head.lower)
    if nearest is not clause.head and (
        person or (clause.head.lower in PICTURES and _joined_by_of(nearest, clause.head))
    ):
        clause.attach(nearest, "relcl")


def _attach_to_subject(tokens: Sequence[Token], token: Token) -> None:
    """Correct the subject of a bare participle: the nearest noun before it that can be one.

    "woman in a red dress holding an umbrella": the woman; "silhouette of a man standing": the man.
    """
    if token.kids("aux"):
        return
    if token.dep == "pcomp" and any(noun.i < token.i for noun in token.head.kids("pobj")):
        token.attach(token.head.kids("pobj")[0], "acl")
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
    if top.lower in STATUES and nearest is not None and _joined_by_of(nearest, top):
        subject = top
    if subject is None:
        only_of = nearest is not None and nearest is not top and _joined_by_of(nearest, top)
        subject = nearest if only_of else top
    if subject is None or subject is top:
        return
    if subjects:
        replace_with(token, top)
        top.dep = token.dep if not token.is_root else "ROOT"
    token.attach(subject, "acl")


def _attach_to_pictured(tokens: Sequence[Token], token: Token) -> None:
    """Correct "portrait of Ada Holm seated in a chair": the participle describes the one in the image."""
    nearest, top = _nearest_noun(tokens, token), token.head
    if nearest is None or nearest is top or top.lower not in PICTURES or nearest.tag not in ("NNP", "NNPS"):
        return
    if _joined_by_of(nearest, top):
        token.attach(nearest, "acl")


def _attach_to_work(tokens: Sequence[Token], token: Token) -> None:
    """Correct "a novel by Ann Lee narrated by Tim Ray", "a teapot with a handle, engraved with a crest": the participle
    describes the work, not its author, and after a comma the whole, not a part of it.
    """
    part = token.head
    if part.dep != "pobj" or part.i > token.i:
        return
    by_author = part.head.lower == "by" and part.tag.startswith("NNP") and bool(token.kids("agent"))
    after_comma = tokens[min(child.i for child in below(token)) - 1].lower == ","
    if (by_author or after_comma) and _owner(part) is not part:
        token.attach(_owner(part), "acl")


def _attach_to_picture(token: Token, lexicon: Lexicon) -> None:
    """Correct "image of the pole taken by a spacecraft": the image was taken."""
    if lexicon.verb(token.lower) in TAKEN:
        picture = next((noun for noun in token.head.ancestors() if noun.lower in PICTURES), None)
        if picture is not None and _joined_by_of(token.head, picture):
            token.attach(picture, "acl")


def _nearest_noun(tokens: Sequence[Token], token: Token) -> Token | None:
    left = before(tokens, token)
    while left is not None and left.tag == "RB":
        left = before(tokens, left)
    return left if left is not None and left.is_noun else None


def _owner(noun: Token) -> Token:
    """What a noun is a part of or near to, or the noun itself."""
    while noun.dep == "pobj" and noun.head.lower in PLACED and noun.head.head.is_noun:
        noun = noun.head.head
    return noun


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


def _correct_preposition(tokens: Sequence[Token], token: Token, lexicon: Lexicon) -> None:
    """Correct what a preposition belongs to: "photo shows a cat on a chair", "sits on a bench next to a tree", "a painting
    of boats in a harbor", "rolling dough with a pin".
    """
    left, head = before(tokens, token), token.head
    if head.tag == "CD" and head.dep == "nummod" and head.head.is_noun and head.head.i < head.i:
        token.attach(head.head, "prep")  # "stage 12 of the tour"
        left, head = head.head, head.head
    if left is not None and left.tag == "CD" and left.dep == "pobj" and left.head.lower == "of":
        left = left.head.head  # "portrait of the class of 1924 on the steps"
    if left is None or not left.is_noun:
        return
    if head is left:
        _correct_preposition_of_neighbour(token, lexicon)
    elif head.is_verb and head.lower not in AUXILIARIES:
        if _is_of_shown_object(token, left, lexicon) or _is_beside_place(token, left):
            token.attach(left, "prep")
    elif token.lower != "of" and head.lower in PICTURES and _joined_by_of(left, head):
        token.attach(left, "prep")  # "a painting of boats in a harbor"


def _correct_preposition_of_neighbour(token: Token, lexicon: Lexicon) -> None:
    """Correct "carries a leaf to the nest", "rolling out dough with a pin", "house for sale in Lyon": a preposition after a
    noun may belong to the verb or the owner of that noun.
    """
    noun = token.head
    if noun.dep == "dobj" and token.lower in OF_THE_VERB:
        if noun.head.is_verb and lexicon.verb(noun.head.lower) not in SHOWING:
            token.attach(noun.head, "prep")
    elif noun.dep == "dobj":
        if _is_goal_of_verb(token, lexicon) or (token.lower == "with" and _is_tool_of_verb(token, lexicon)):
            token.attach(noun.head, "prep")
    elif noun.dep == "pobj" and _is_of_owner(token):
        token.attach(noun.head.head, "prep")
    else:
        _correct_preposition_of_part(token)


def _correct_preposition_of_part(token: Token) -> None:
    """Correct "a house with a garage for sale", "a chef in uniform with a teapot": a preposition after a part is of the
    whole.
    """
    noun = token.head
    if token.lower == "with" and noun.dep == "pobj" and noun.head.lower == "in" and is_animate(noun.head.head.lower):
        token.attach(noun.head.head, "prep")
    elif token.lower == "for" and any(offer.lower in OFFERS for offer in token.kids("pobj")):
        if _owner(noun) is not noun:
            token.attach(_owner(noun), "prep")
    elif token.lower == "at" and any(time.lower in TIMES for time in token.kids("pobj")):
        clause = noun.head.head if noun.dep == "pobj" else noun.head
        if clause.is_verb:
            token.attach(clause, "prep")  # "ride camels past the pyramids at sunset"


def _is_goal_of_verb(preposition: Token, lexicon: Lexicon) -> bool:
    """Whether a phrase says where the object of a verb goes: "carries a leaf to the nest"."""
    return preposition.lower == "to" and lexicon.verb(preposition.head.head.lower) in MOVING


def _is_of_owner(preposition: Token) -> bool:
    """Whether a preposition belongs to what its noun belongs to: "house for sale in Lyon", "interview with a chef about
    street food".
    """
    noun = preposition.head
    if preposition.lower == "about" and noun.head.lower in ("with", "by"):
        return True
    return noun.lower in OFFERS and (noun.head.head.is_noun or noun.head.head.tag == "JJ")


def _is_tool_of_verb(preposition: Token, lexicon: Lexicon) -> bool:
    """Whether a phrase names the tool of a verb: "rolling out dough with a wooden pin"."""
    thing = preposition.head
    verb, tools = thing.head, preposition.kids("pobj")
    if thing.dep != "dobj" or not verb.is_verb or not tools or lexicon.verb(verb.lower) in HOLDING:
        return False
    return all(tool.lower in TOOLS for tool in tools)


def _is_of_shown_object(preposition: Token, left: Token, lexicon: Lexicon) -> bool:
    """Whether a preposition belongs to the object that an image shows: "photo shows a cat on a chair"."""
    verb = preposition.head
    return left.dep == "dobj" and left.head is verb and lexicon.verb(verb.lower) in SHOWING


def _is_beside_place(preposition: Token, left: Token) -> bool:
    """Whether a preposition says what a place is near: "sits on a bench next to a tree"."""
    return preposition.lower in BESIDE and left.dep == "pobj" and left.head.head is preposition.head


def follows_comma(tokens: Sequence[Token], token: Token) -> bool:
    """Whether a punctuation mark precedes the token."""
    left = before(tokens, token)
    return left is not None and not left.lower[-1].isalnum() and left.lower not in ("'s", "'", '"', "``", "(")
