"""Relations and actions: what the nouns of a corrected tree do, what is done to them, and where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from diht_k8s.stages.filter.captions.graph import Action, Attribute, CaptionGraph, Mention, Relation
from diht_k8s.stages.filter.captions.lexicon import AUXILIARIES, Lexicon, can_act, words
from diht_k8s.stages.filter.captions.noun_phrases import Phrase, Phrases
from diht_k8s.stages.filter.captions.tree import Token, follows_comma

CAUSATIVES: Final = words(
    "teach help watch see hear let make ask tell want allow force train encourage invite show feel notice observe "
    "catch find keep leave order send call lead"
)
"""After these the infinitive belongs to the object: "teaches a boy to swim"."""
COPULAS: Final = words("become seem appear remain look feel stay get smell taste sound turn keep grow fall")
"""Verbs whose adjective describes their subject: "tastes salty"."""
DROPPED_PREPOSITIONS: Final = words("as than")
RELATIVES: Final = words("that which who whom")
SHARED_CLAUSES: Final = words("while when after before until as since whilst once")
INSTITUTIONS: Final = words(
    "bank banks chain chains council city county school schools university college firm firms airline airlines club "
    "clubs union museum hospital church agency ministry charity group groups store stores retailer maker carmaker "
    "giant startup league network state states country countries party parliament senate committee band orchestra "
    "choir organisation organization"
)
"""Institutions whose plans headlines announce ("Bank to close branches")."""
ANNOUNCED: Final = words(
    "begin start open close launch return continue end resume remain become host benefit receive get air debut feature"
)
"""Verbs of headlines that announce things: "new lane to open in spring"."""
AUXILIARIES_BUT_DO: Final = AUXILIARIES - words("do does did")
CLAUSES_OF_NOUNS: Final = ("acl", "relcl")


def build_graph(tokens: Sequence[Token], phrases: Phrases, lexicon: Lexicon) -> CaptionGraph:
    """The graph of a caption from its corrected tokens and their noun phrases."""
    return _Builder(tokens, phrases, lexicon).build()


@dataclass
class _Clause:
    """A verb with its subjects and objects."""

    verb: Token
    subjects: list[Token] = field(default_factory=list)
    """nouns that act (active) or are acted on (passive), with coordination resolved."""
    objects: list[Token] = field(default_factory=list)
    passive: bool = False
    imperative: bool = False


class _Builder:
    def __init__(self, tokens: Sequence[Token], phrases: Phrases, lexicon: Lexicon) -> None:
        self._tokens, self._phrases, self._lexicon = tokens, phrases, lexicon
        self._order = {id(phrase): index for index, phrase in enumerate(sorted(phrases.phrases, key=lambda p: p.start))}
        self._relations: dict[Relation, None] = {}
        self._actions: list[Action] = []
        self._clauses: dict[int, _Clause] = {}

    def build(self) -> CaptionGraph:
        for token in self._tokens:
            if self._is_action(token):
                self._clause(token)
        for token in self._tokens:
            if token.i in self._clauses:
                self._emit_verb(self._clauses[token.i])
            elif token.lower in AUXILIARIES and token.is_verb:
                self._emit_copula(token)
        for token in self._tokens:
            if self._is_object(token):
                self._emit_prepositions_of_noun(token)
            if token.i in self._phrases.of_adjective:
                self._emit_prepositions_of_adjective(token, [self._phrases.of_adjective[token.i].head], token.lower)
        ordered = sorted(self._phrases.phrases, key=lambda phrase: phrase.start)
        return CaptionGraph(
            objects=tuple(Mention(phrase.name, phrase.start, phrase.end) for phrase in ordered),
            attributes=tuple(
                Attribute(index, name)
                for index, phrase in enumerate(ordered)
                for name in dict.fromkeys(phrase.attributes)
            ),
            relations=tuple(self._relations),
            actions=tuple(self._actions),
        )

    def _is_action(self, token: Token) -> bool:
        if not token.is_verb or token.tag == "MD" or token.dep in ("aux", "auxpass", "amod", "compound", "nmod"):
            return False
        if token.tag == "VBN" and token.kids("neg") and not token.kids("aux", "auxpass"):
            return False  # "hourglass not done"
        if self._stands_alone(token) or self._is_loose_infinitive(token):
            return False
        return token.i not in self._phrases.of_adjective and token.lower not in AUXILIARIES_BUT_DO

    def _is_loose_infinitive(self, verb: Token) -> bool:
        """Whether an infinitive gives a purpose, not an action: "a place to visit", "easy to clean", but not "Bank to
        close branches".
        """
        if verb.tag != "VB" or not any(child.tag == "TO" for child in verb.kids("aux")) or verb.kids("auxpass"):
            return False
        subjects = verb.kids("nsubj")
        noun = subjects[-1] if subjects else verb.head
        if noun.is_verb or self._lexicon.verb(verb.lower) in ANNOUNCED:
            return False
        is_name = noun.is_noun and (
            noun.tag.startswith("NNP") or self._lexicon.noun(noun.lower) not in self._lexicon.nouns
        )
        return not (is_name or noun.lower in INSTITUTIONS or can_act(noun, self._lexicon))

    def _stands_alone(self, verb: Token) -> bool:
        """Whether a verb is a keyword between marks: "wood, binding, page"."""
        right = self._tokens[verb.i + 1] if verb.i + 1 < len(self._tokens) else None
        return follows_comma(self._tokens, verb) and (right is None or right.lower in (",", ";"))

    def _clause(self, verb: Token) -> _Clause:
        """The clause of a verb, built once; it inherits subjects from the verb above it."""
        if verb.i in self._clauses:
            return self._clauses[verb.i]
        clause = self._clauses[verb.i] = _Clause(verb)
        passive = bool(verb.kids("auxpass", "nsubjpass")) or (verb.tag == "VBN" and not verb.kids("aux"))
        clause.passive = passive
        own = verb.kids("nsubj", "nsubjpass", "csubj")
        clause.objects = self._nouns(verb.kids("dobj", "attr", "oprd", "dative"))
        if own and verb.tag in ("VB", "VBP") and self._cut_off(own[-1], verb):
            clause.imperative = True
        elif own:
            self._own_subject(clause, own)
        elif verb.tag in ("VB", "VBN") and not verb.kids("aux") and self._opens_part(verb):
            clause.imperative = not self._describes_before_comma(verb)
            clause.subjects = [] if clause.imperative else self._group(verb.head, passive=True)
        elif verb.dep in CLAUSES_OF_NOUNS and self._is_object(verb.head):
            if not self._parted(verb.head, verb):
                clause.subjects = self._acting(verb.head, self._group(verb.head, passive=passive), verb)
        else:
            self._inherit(clause)
        if verb.dep == "relcl" and self._is_object(verb.head) and own and own[-1].lower not in RELATIVES:
            self._relative_object(clause)
        return clause

    def _acting(self, noun: Token, group: list[Token], verb: Token) -> list[Token]:
        """Those of a group that do what a participle says: the people in "a beach with umbrellas and people
        swimming".
        """
        if verb.tag != "VBG" or not can_act(noun, self._lexicon):
            return group
        return [member for member in group if can_act(member, self._lexicon) or member.tag.startswith("NNP")]

    def _opens_part(self, verb: Token) -> bool:
        """Whether a mark separates a verb from its possible subject: "Mug | Handcrafted in Portugal", "The Foxes - Live
        at Union Hall".
        """
        return verb.i == 0 or follows_comma(self._tokens, verb)

    def _describes_before_comma(self, verb: Token) -> bool:
        """Whether a participle after a comma says more of its noun: "a teapot, engraved with a crest"."""
        if verb.tag != "VBN" or verb.dep != "acl" or not self._is_object(verb.head) or verb.head.i > verb.i:
            return False
        return self._tokens[verb.i - 1].lower == "," and bool(verb.kids("prep", "agent", "neg"))

    def _cut_off(self, subject: Token, verb: Token) -> bool:
        """Whether the only mark between subject and verb is right before the verb."""
        marks = [token for token in self._tokens[subject.i : verb.i] if token.lower in (",", ":", ";")]
        return len(marks) == 1 and marks[0].i == verb.i - 1

    def _own_subject(self, clause: _Clause, own: Sequence[Token]) -> None:
        subject = own[-1]
        if subject.lower in RELATIVES and clause.verb.dep == "relcl":
            clause.subjects = self._group(clause.verb.head, passive=clause.passive)
        elif subject.lower not in RELATIVES and self._is_object(subject) and not self._parted(subject, clause.verb):
            clause.subjects = self._nouns([subject])
            if clause.verb.dep == "conj" and self._is_object(
                clause.verb.head
            ):  # "neither the lion nor the zebra moves"
                clause.subjects = [*self._group(clause.verb.head, passive=False), *clause.subjects]

    def _relative_object(self, clause: _Clause) -> None:
        """Find the object in "the fence my uncle built".

        It is the noun before the clause, unless the clause has an object or starts with where, when, why or how.
        """
        verb = clause.verb
        asks = any(child.lower in ("where", "when", "why", "how") for child in verb.children)
        if (
            not clause.objects
            and not asks
            and not clause.passive
            and not verb.kids("acomp")
            and not any(p for p in verb.kids("prep") if not p.children)
        ):
            clause.objects = self._group(verb.head, passive=False)

    def _inherit(self, clause: _Clause) -> None:
        verb, head = clause.verb, clause.verb.head
        if verb.is_root:
            clause.imperative = verb.tag in ("VB", "VBP") or (verb.tag == "VBN" and not clause.objects)
            return
        if verb.dep == "conj" and self._is_object(head) and not head.is_verb:
            clause.subjects = self._group(head, passive=clause.passive)
        elif head.is_verb and head.i in self._action_tokens():
            self._inherit_from(clause, self._clause(head))
        elif head.is_verb and verb.dep in ("xcomp", "ccomp", "advcl", "conj") and head.lower in AUXILIARIES:
            subjects = head.kids("nsubj", "nsubjpass")
            clause.subjects = self._nouns(subjects)
        elif verb.dep == "pcomp" and head.lower in SHARED_CLAUSES and head.head.is_verb:
            self._inherit_from(clause, self._clause(head.head))

    def _action_tokens(self) -> set[int]:
        return {token.i for token in self._tokens if self._is_action(token)}

    def _inherit_from(self, clause: _Clause, outer: _Clause) -> None:
        verb = clause.verb
        clause.imperative = outer.imperative
        if verb.dep == "conj" and outer.passive and verb.tag in ("VBN", "VBD") and not clause.objects:
            clause.passive = True  # "was built and later painted"
        after_object = (
            verb.dep in ("xcomp", "ccomp", "advcl")
            and outer.objects
            and self._lexicon.verb(outer.verb.lower) in CAUSATIVES
            and min(o.i for o in outer.objects) < verb.i
            and not clause.passive
        )
        agents = self._agents(outer.verb) if outer.passive and verb.dep == "xcomp" else []
        if after_object:
            clause.subjects = outer.objects
        elif agents and outer.verb.lower == "used":
            clause.subjects = agents  # "a net used by fishermen to catch"
        elif self._acts_on_pronoun(clause, outer):
            clause.subjects = []
        elif verb.dep in ("conj", "xcomp", "advcl", "ccomp", "dep", "parataxis", "pcomp"):
            clause.subjects = outer.subjects
        self._share_object(clause, outer)

    def _acts_on_pronoun(self, clause: _Clause, outer: _Clause) -> bool:
        """Whether a verb belongs to a pronoun that is no object: "foods that help you sleep"."""
        causes = clause.verb.dep in ("xcomp", "ccomp", "advcl") and self._lexicon.verb(outer.verb.lower) in CAUSATIVES
        return causes and any(child.tag == "PRP" and child.i < clause.verb.i for child in outer.verb.kids("dobj"))

    def _share_object(self, clause: _Clause, outer: _Clause) -> None:
        """Share the object in "peels and chops onions": it belongs to both verbs."""
        verb, first = clause.verb, outer.verb
        near = verb.i - first.i <= 2 and not first.kids("prep", "punct")
        if verb.dep == "conj" and clause.objects and not outer.objects and near:
            outer.objects = clause.objects

    def _is_object(self, token: Token) -> bool:
        return token.i in self._phrases.of_token

    def _nouns(self, tokens: Iterable[Token]) -> list[Token]:
        """The tokens that are objects, with all objects coordinated with them."""
        found: list[Token] = []
        for token in tokens:
            if self._is_object(token):
                found.append(token)
            found += self._nouns(
                child for child in token.kids("conj") if not child.is_verb and not self._parted(token, child)
            )
        return found

    def _group(self, noun: Token, *, passive: bool) -> list[Token]:
        """A noun with all nouns coordinated with it, on both sides."""
        first = noun
        while first.dep == "conj" and self._is_object(first.head):
            first = first.head
        group = self._nouns([first])
        if not any(member.kids("cc") for member in group):
            return [noun] if self._is_object(noun) else []  # a list of titles is not a coordination
        return group if noun in group or not self._is_object(noun) else [noun]

    def _parted(self, one: Token, other: Token) -> bool:
        """Whether a dash, bar or colon stands between two tokens, since parts of a title have no relation."""
        first, last = sorted((one.i, other.i))
        return any(token.lower in (";", ":") for token in self._tokens[first + 1 : last])

    def _index(self, token: Token) -> int:
        return self._order[id(self._phrases.of_token[token.i])]

    def _add(self, subject: Token | None, predicate: str, other: Token | None) -> None:
        one = None if subject is None else self._index(subject)
        two = None if other is None else self._index(other)
        self._relations.setdefault(Relation(one, predicate, two))

    def _emit_verb(self, clause: _Clause) -> None:
        if clause.imperative:
            self._emit_freed_prepositions(clause)
            return
        verb = clause.verb
        name = self._lexicon.action(verb.lower)
        particles = verb.kids("prt")
        if particles and (clause.objects or clause.passive):
            name = f"{name} {particles[0].lower}"
        before = len(self._relations)
        if clause.passive:
            has_subject = self._emit_passive(clause, name)
            attached = bool(clause.subjects)
        else:
            has_subject = bool(clause.subjects)
            attached = has_subject or bool(clause.objects)
            self._emit_active(clause, name)
        if attached:
            for subject in clause.subjects if len(self._relations) == before else []:
                self._add(*((None, name, subject) if clause.passive else (subject, name, None)))
            self._actions.append(Action(name, has_subject))

    def _emit_active(self, clause: _Clause, name: str) -> None:
        for other in clause.objects:
            for subject in clause.subjects or [None]:
                self._add(subject, name, other)
        if clause.subjects:
            self._emit_prepositions_of_verb(clause.verb, clause.subjects, name)
            if name in COPULAS and not clause.objects:
                self._describe_all(clause.subjects, clause.verb)
        else:
            self._emit_freed_prepositions(clause)

    def _emit_passive(self, clause: _Clause, name: str) -> bool:
        agents = self._agents(clause.verb)
        for agent in agents:
            for theme in clause.subjects:
                self._add(agent, name, theme)
        self._emit_prepositions_of_verb(clause.verb, clause.subjects, name)
        return bool(agents)

    def _agents(self, verb: Token) -> list[Token]:
        return self._nouns(agent for by in verb.kids("agent") for agent in by.kids("pobj"))

    def _emit_freed_prepositions(self, clause: _Clause) -> None:
        """Add the prepositions right after the object of a dropped verb as relations of that object."""
        for preposition in clause.verb.kids("prep"):
            before = self._tokens[preposition.i - 1] if preposition.i else None
            if (
                before is not None
                and before in clause.objects
                and preposition.lower in ("of", "for", "with", "in", "from")
            ):
                self._emit_preposition([before], preposition, "")

    def _emit_prepositions_of_verb(self, verb: Token, subjects: Sequence[Token], name: str) -> None:
        plain = name.split()[0]
        for preposition in self._prepositions(verb):
            self._emit_preposition(subjects, preposition, plain)

    def _prepositions(self, token: Token) -> list[Token]:
        """Prepositions of a verb, including those below its particles and adverbs ("walks away from")."""
        found = token.kids("prep")
        for child in token.kids("advmod", "prt"):
            found += child.kids("prep")
        return found

    def _emit_preposition(self, subjects: Sequence[Token], preposition: Token, name: str) -> None:
        if preposition.lower in DROPPED_PREPOSITIONS:
            return
        label = f"{name} {preposition.lower}".strip()
        for other in self._nouns(preposition.kids("pobj")):
            for subject in subjects:
                if subject is not other:
                    self._add(subject, label, other)
        for inner in preposition.kids("prep"):
            self._emit_preposition(subjects, inner, name)

    def _emit_prepositions_of_noun(self, noun: Token) -> None:
        for preposition in noun.kids("prep", "agent"):
            group = [noun] if preposition.lower == "of" else self._group(noun, passive=False)
            sharing = [member for member in group if member is noun or not self._has_with(member, noun)]
            self._emit_preposition([member for member in sharing if member.i < preposition.i], preposition, "")

    def _has_with(self, owner: Token, later: Token) -> bool:
        """Whether the owner has a "with" before a noun that is coordinated with it.

        A place after that noun is then its own: "a car with a trailer and a house behind it".
        """
        return any(child.lower == "with" and child.i < later.i for child in owner.kids("prep"))

    def _emit_prepositions_of_adjective(self, adjective: Token, nouns: Sequence[Token], name: str) -> None:
        for preposition in adjective.kids("prep"):
            own = preposition.i == adjective.i + 1  # "full of water", but not "healthy food on a table"
            self._emit_preposition(nouns, preposition, name if own else "")

    def _emit_copula(self, be: Token) -> None:
        """Add the attributes and places of "the dog is small and fluffy", "the keys are on the desk"."""
        subjects = self._nouns(be.kids("nsubj", "nsubjpass"))
        if be.dep == "relcl" and not subjects:
            subjects = self._group(be.head, passive=False) if self._is_object(be.head) else []
        if not subjects:
            return
        self._describe_all(subjects, be)
        for preposition in be.kids("prep"):
            self._emit_preposition(subjects, preposition, "")

    def _describe_all(self, subjects: Sequence[Token], verb: Token) -> None:
        also = [
            child for child in verb.kids("conj") if child.tag.startswith("JJ")
        ]  # "is close to the office and quiet"
        for adjective in [*verb.kids("acomp", "oprd"), *also]:
            for each in [adjective, *adjective.kids("conj")]:
                if each.tag.startswith("JJ") or each.tag in ("VBN", "VBG"):
                    self._describe(subjects, each)

    def _describe(self, subjects: Sequence[Token], adjective: Token) -> None:
        for subject in subjects:
            phrase: Phrase = self._phrases.of_token[subject.i]
            if adjective.lower not in phrase.attributes:
                phrase.attributes.append(adjective.lower)
        self._emit_prepositions_of_adjective(adjective, subjects, adjective.lower)
