"""A caption's dependency tree in plain Python: what the rules read and mend. Labels are spaCy's English ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.tokens import Doc
    from spacy.tokens import Token as Word


@dataclass(eq=False, slots=True)
class Token:
    """A word or mark."""

    i: int
    lower: str
    tag: str
    """Penn tag, after mending."""
    dep: str
    start: int
    end: int
    head: Token = field(init=False, repr=False)
    """itself for a root."""
    children: list[Token] = field(default_factory=list, repr=False)
    """in the order of the caption."""

    @property
    def is_noun(self) -> bool:
        """Common noun or name."""
        return self.tag.startswith("NN")

    @property
    def is_verb(self) -> bool:
        """Full or auxiliary verb form."""
        return self.tag.startswith("VB")

    @property
    def is_root(self) -> bool:
        """Whether nothing governs it."""
        return self.head is self

    def attach(self, head: Token, dep: str) -> None:
        """Hang this token below another one (or, given itself, nowhere)."""
        if not self.is_root:
            self.head.children.remove(self)
        self.head, self.dep = head, dep
        if head is not self:
            head.children.append(self)
            head.children.sort(key=lambda child: child.i)

    def kids(self, *deps: str) -> list[Token]:
        """Children with one of the labels."""
        return [child for child in self.children if child.dep in deps]

    def ancestors(self) -> Iterator[Token]:
        """Heads, upwards."""
        token = self
        while not token.is_root:
            token = token.head
            yield token


def _tag(word: Word) -> str:
    """The tagger's tag; words of capitals only are names ("LED lamp"), since captions in capitals arrive in lower case."""
    return "NNP" if word.tag_.startswith("VB") and word.is_upper and len(word) > 1 else word.tag_


def tokens_of(doc: Doc) -> list[Token]:
    """The tokens of a parse, blanks left out."""
    made: dict[int, Token] = {}
    for word in doc:
        if not word.is_space:
            made[word.i] = Token(len(made), word.lower_, _tag(word), word.dep_, word.idx, word.idx + len(word))
    for word in doc:
        if word.i in made:
            token = made[word.i]
            head = word.head
            while head.i not in made and head.head is not head:
                head = head.head
            token.head = made.get(head.i, token)
            if token.head is not token:
                token.head.children.append(token)
    return list(made.values())


def before(tokens: Sequence[Token], token: Token) -> Token | None:
    """The neighbour on the left."""
    return tokens[token.i - 1] if token.i else None


def after(tokens: Sequence[Token], token: Token) -> Token | None:
    """The neighbour on the right."""
    return tokens[token.i + 1] if token.i + 1 < len(tokens) else None


def below(token: Token) -> list[Token]:
    """A token with everything that hangs on it."""
    found = [token]
    for child in token.children:
        found += below(child)
    return found


def replace_with(old: Token, new: Token) -> None:
    """Put a token in the place of one above it; that one's children on the left of the new one move to it."""
    if old.is_root:
        new.attach(new, "ROOT")
    else:
        new.attach(old.head, old.dep)
    for child in list(old.children):
        if child.i < new.i:
            child.attach(new, child.dep)
