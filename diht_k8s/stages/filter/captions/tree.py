"""The dependency tree of a caption in plain Python, which the rules correct. Labels are spaCy's English ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LABEL = "label"
"""Our dependency of "stock photo" on the last word of a caption that it ends."""


class Token:
    """A word or punctuation mark."""

    __slots__ = ("children", "dep", "end", "head", "i", "is_noun", "is_verb", "lower", "start", "tag")

    def __init__(self, lower: str, tag: str, dep: str, start: int, end: int) -> None:
        """A token outside any tree. Not a dataclass, for speed: there are a dozen per caption."""
        self.lower, self.dep, self.start, self.end = lower, dep, start, end
        self.tag, kind = tag, tag[:2]
        """Penn tag; only `retag` changes it."""
        self.is_noun, self.is_verb = kind == "NN", kind == "VB"
        """a common noun or name; a form of a full or auxiliary verb."""
        self.i: int
        """index in the caption."""
        self.head: Token
        """the token itself for a root."""
        self.children: list[Token] = []
        """in the order of the caption."""

    def retag(self, tag: str) -> None:
        """Change the tag."""
        self.tag, kind = tag, tag[:2]
        self.is_noun, self.is_verb = kind == "NN", kind == "VB"

    @property
    def is_root(self) -> bool:
        """Whether the token has no head."""
        return self.head is self

    def attach(self, head: Token, dep: str) -> None:
        """Attach this token to a head; given itself, it becomes a root."""
        if not self.is_root:
            self.head.children.remove(self)
        self.head, self.dep = head, dep
        if head is not self:
            head.children.append(self)
            head.children.sort(key=lambda child: child.i)

    def kids(self, *deps: str) -> list[Token]:
        """Children with one of the labels."""
        return [child for child in self.children if child.dep in deps] if self.children else []

    def ancestors(self) -> Iterator[Token]:
        """Heads, upwards."""
        token = self
        while not token.is_root:
            token = token.head
            yield token


def link(words: Sequence[Token | None], heads: Sequence[int]) -> list[Token]:
    """Link the words of a caption to a tree; returns its tokens.

    Args:
        words: tokens, or None for blanks, which are dropped; their children are attached to their heads.
        heads: distance from each word to its head, 0 for a root.
    """
    tokens: list[Token] = []
    for index, token in enumerate(words):
        if token is None:
            continue
        token.i = len(tokens)
        tokens.append(token)
        head = index + heads[index]
        while words[head] is None and heads[head]:
            head += heads[head]
        token.head = head_token = words[head] or token
        if head_token is not token:
            head_token.children.append(token)
    return tokens


def unlink(tokens: Sequence[Token]) -> None:
    """Unlink a tree. Its cycles would otherwise cost Python's collector a fifth of the time of the rules."""
    for token in tokens:
        token.children.clear()
        del token.head


def before(tokens: Sequence[Token], token: Token) -> Token | None:
    """The neighbour on the left."""
    return tokens[token.i - 1] if token.i else None


def after(tokens: Sequence[Token], token: Token) -> Token | None:
    """The neighbour on the right."""
    index = token.i + 1
    return tokens[index] if index < len(tokens) else None


def follows_comma(tokens: Sequence[Token], token: Token) -> bool:
    """Whether a punctuation mark precedes the token."""
    left = before(tokens, token)
    return left is not None and not left.lower[-1].isalnum() and left.lower not in ("'s", "'", '"', "``", "(")


def below(token: Token) -> list[Token]:
    """A token with all its descendants."""
    found = [token]
    for child in token.children:
        found += below(child)
    return found


def replace_with(old: Token, new: Token) -> None:
    """Move a token to the place of one above it. The children of the old one to the left of the new one move too."""
    if old.is_root:
        new.attach(new, "ROOT")
    else:
        new.attach(old.head, old.dep)
    for child in list(old.children):
        if child.i < new.i:
            child.attach(new, child.dep)


def demote(token: Token, head: Token, dep: str) -> None:
    """Make a token part of one below it, which takes its place and all of its children."""
    replace_with(token, head)
    for child in list(token.children):
        child.attach(head, child.dep)
    token.attach(head, dep)
