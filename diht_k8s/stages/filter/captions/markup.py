"""Text behind the markup of a caption: HTML entities and tags, hashtags, and where each character came from.

Alt-texts keep the markup of the pages that they stand in ("Kids&#39; Boots", "<b>Solid Brass</b> Handle"), often
escaped twice. The tagger would read it as words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

CUE: Final = re.compile(r"&[#\w]|<[a-zA-Z/!]|#\w|(?<!\S)w/|(?<!\S)RT @")
"""Every caption with markup has a match; searching for it first is far quicker."""
ENTITY: Final = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]\w{1,30});")
TAG: Final = re.compile(
    r"<(?:/?(?:a|abbr|b|big|blockquote|br|center|cite|code|div|em|font|h[1-6]|hr|i|img|ins|li|ol|p|pre|q|s|small|span|"
    r"strike|strong|sub|sup|table|tbody|td|th|tr|tt|u|ul)(?:\s[^<>]{0,300})?/?|!--[^<>]{0,300}--)>",
    re.I,
)
"""Tags of HTML by name, so "Print <Sunset over the Bay>" keeps its title."""
HASHTAG: Final = re.compile(r"#(?=\w)")
CLOSING_HASHTAGS: Final = re.compile(r"(?:\s*#\w+)+\s*$")
RETWEET: Final = re.compile(r"^\s*RT @\w+:?")
WITH: Final = re.compile(r"(?<!\S)w/ ?(?=\w)")
BLANKS: Final = re.compile(r"[^\S\n]{2,}|\xa0")


@dataclass(frozen=True)
class PlainText:
    """A caption without markup."""

    text: str
    starts: Sequence[int]
    """place in the caption of each character's first character."""
    ends: Sequence[int]
    """place after each character's last one: an entity is several characters of the caption."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The place in the caption of a part of the text that is not empty."""
        return self.starts[start], self.ends[end - 1]


def plain(caption: str) -> PlainText | None:
    """A caption without its markup; None where it has none.

    Entities become what they stand for, tags and the hashtags at the end go, and a hashtag inside becomes its word.
    """
    if not CUE.search(caption):
        return None
    found = PlainText(caption, range(len(caption)), range(1, len(caption) + 1))
    for pattern, replacement in _STEPS:
        found = _replaced(found, pattern, replacement)
    return None if found.text == caption else found


def _replaced(old: PlainText, pattern: re.Pattern[str], replacement: Callable[[str], str]) -> PlainText:
    matches = list(pattern.finditer(old.text))
    if not matches:
        return old
    text, starts, ends, last = list[str](), list[int](), list[int](), 0
    for match in matches:
        start, stop = match.span()
        new = replacement(match[0])
        text += [old.text[last:start], new]
        starts += [*old.starts[last:start], *([old.starts[start]] * len(new))]
        ends += [*old.ends[last:start], *([old.ends[stop - 1]] * len(new))]
        last = stop
    return PlainText("".join([*text, old.text[last:]]), [*starts, *old.starts[last:]], [*ends, *old.ends[last:]])


def _gone(_: str) -> str:
    return ""


def _blank(_: str) -> str:
    return " "


_STEPS: Final[tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]] = (
    (ENTITY, html.unescape),
    (ENTITY, html.unescape),  # "&amp;quot;"
    (TAG, _blank),
    (RETWEET, _gone),
    (CLOSING_HASHTAGS, _gone),
    (HASHTAG, _gone),
    (WITH, lambda _: "with "),
    (BLANKS, _blank),
)
