"""Brace ranges of patterns, as Bash has them: `{000..127}`, `{a..f}`, `{train,test}`, also one in another.

A pattern is read once into a tree, of which texts are counted before any is made: `{0..99999999999}` and `{a,b}` thirty
times over are a few bytes each, and no machine holds what they stand for. Own code, because the package braceexpand
makes the texts in order to count them. Pure.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MAX_TEXTS: Final = 1_000_000
"""Of all patterns of a list together: as many shards as a run reads."""
MAX_DEPTH: Final = 16
"""Braces within braces."""
_LETTERS: Final = string.ascii_uppercase + string.ascii_lowercase
_NUMBERS: Final = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)(?:\.\.-?([0-9]+))?")
_LETTER_RANGE: Final = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.-?([0-9]+))?")
_TOKENS: Final = re.compile(r"\\.|[{},]", re.DOTALL)


class BracesError(ValueError):
    """A pattern's braces cannot be expanded; the message says why and what to write."""


def expanded(pattern: str) -> list[str]:
    r"""The texts of a pattern, in order; `\` takes the meaning from the character behind it.

    Raises:
        BracesError: the braces are not balanced, nested too deep, or stand for more than `MAX_TEXTS` texts.
    """
    tree = _counted(pattern, MAX_TEXTS)
    return list(tree.texts())


def check_braces(patterns: Iterable[str]) -> None:
    """Count what patterns stand for, together; nothing is expanded.

    Raises:
        BracesError: see `expanded`; or all together are more than `MAX_TEXTS` texts.
    """
    left = MAX_TEXTS
    for pattern in patterns:
        left -= _counted(pattern, left).count


def _counted(pattern: str, most: int) -> _Joined:
    tree = _Reader(pattern).read()
    if tree.count > most:
        others = "" if most == MAX_TEXTS else f", {MAX_TEXTS - most:,} of which the patterns before it take"
        raise BracesError(
            f"the braces of {_short(pattern)} stand for {_shown(tree.count)} names, at most {MAX_TEXTS:,} are "
            f"allowed{others}: write smaller ranges, or a glob such as *.tar"
        )
    return tree


def _short(pattern: str) -> str:
    return pattern if len(pattern) <= 100 else f"{pattern[:97]}..."


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"at least 10^{len(str(count)) - 1}"


@dataclass(frozen=True)
class _Text:
    """A text without braces."""

    text: str
    count = 1

    def texts(self) -> Iterator[str]:
        yield self.text


@dataclass(frozen=True)
class _Numbers:
    """A range of numbers, in either direction."""

    first: int
    last: int
    step: int
    digits: int
    """to which the numbers are filled up with zeros."""

    @property
    def count(self) -> int:
        return abs(self.last - self.first) // self.step + 1

    def texts(self) -> Iterator[str]:
        sign = 1 if self.first < self.last else -1
        return (f"{number:0{self.digits}d}" for number in range(self.first, self.last + sign, sign * self.step))


@dataclass(frozen=True)
class _Choice:
    """One of several texts."""

    options: Sequence[_Tree]

    @property
    def count(self) -> int:
        return sum(option.count for option in self.options)

    def texts(self) -> Iterator[str]:
        return itertools.chain.from_iterable(option.texts() for option in self.options)


@dataclass(frozen=True)
class _Joined:
    """Texts one behind the other."""

    parts: Sequence[_Tree]

    @property
    def count(self) -> int:
        count = 1
        for part in self.parts:
            count *= part.count
        return count

    def texts(self) -> Iterator[str]:
        return map("".join, itertools.product(*(part.texts() for part in self.parts)))


_Tree = _Text | _Numbers | _Choice | _Joined


class _Reader:
    """Reads a pattern into its tree."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0
        self._tokens = [match.span() for match in _TOKENS.finditer(pattern)]
        self._next = 0

    def read(self) -> _Joined:
        (tree,) = self._options(0)
        return tree

    def _options(self, depth: int) -> list[_Joined]:
        """What stands between two braces, at its commas; the whole pattern at depth 0, where commas are text."""
        if depth > MAX_DEPTH:
            raise BracesError(f"the braces of {_short(self._pattern)} are nested deeper than {MAX_DEPTH}: write fewer")
        options, parts = list[_Joined](), list[_Tree]()
        while self._next < len(self._tokens):
            begin, end = self._tokens[self._next]
            mark = self._pattern[begin]
            if mark == "\\" or (mark == "," and depth == 0):
                self._next += 1
                continue
            self._take_text(begin, parts)
            self._next, self._at = self._next + 1, end
            if mark == ",":
                options.append(_Joined(parts))
                parts = []
            elif mark == "{":
                parts.append(self._braces(end, depth))
            elif depth == 0:
                raise self._unbalanced()
            else:
                return [*options, _Joined(parts)]
        if depth > 0:
            raise self._unbalanced()
        self._take_text(len(self._pattern), parts)
        return [_Joined(parts)]

    def _take_text(self, end: int, parts: list[_Tree]) -> None:
        if end > self._at:
            parts.append(_Text(re.sub(r"\\(.)", r"\1", self._pattern[self._at : end], flags=re.DOTALL)))
            self._at = end

    def _braces(self, begin: int, depth: int) -> _Tree:
        """What braces stand for whose content begins here; their reading ends behind them."""
        options = self._options(depth + 1)
        inside = self._pattern[begin : self._at - 1]
        if found := _NUMBERS.fullmatch(inside):
            padded = any(text.lstrip("-").startswith("0") and text not in ("0", "-0") for text in found.group(1, 2))
            digits = max(map(len, found.group(1, 2))) if padded else 0
            return _Numbers(int(found[1]), int(found[2]), int(found[3] or 1) or 1, digits)
        if found := _LETTER_RANGE.fullmatch(inside):
            return _Choice([_Text(letter) for letter in _letters(found[1], found[2], int(found[3] or 1) or 1)])
        if len(options) > 1:
            return _Choice(options)
        return _Joined([_Text("{"), *options, _Text("}")])  # braces around one text are text

    def _unbalanced(self) -> BracesError:
        return BracesError(f"the braces of {_short(self._pattern)} are not balanced: close each {{ by a }}")


def _letters(first: str, last: str, step: int) -> str:
    begin, end = _LETTERS.index(first), _LETTERS.index(last)
    if begin < end:
        return _LETTERS[begin : end + 1 : step]
    return _LETTERS[end : begin + 1][::-1][::step]
