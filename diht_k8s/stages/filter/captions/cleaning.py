"""Caption text for the parser: without the markup of its page, and with non-language parts blanked out.

Alt-texts keep the markup of the pages that they stand in ("Kids&#39; Boots", "<b>Solid Brass</b> Handle"), often
escaped twice. The tagger would read it as words. `plain` removes HTML entities and tags and hashtags, and keeps where
each character came from. `clean` then keeps the length, so spans stay valid.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from diht_k8s.stages.filter.captions.lexicon import UNITS, words

MARKUP_CUE: Final = re.compile(r"&[#\w]|<[a-zA-Z/!]|#\w|(?<!\S)w/|(?<!\S)RT @")
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
    if not MARKUP_CUE.search(caption):
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


def _one_blank(_: str) -> str:
    return " "


_STEPS: Final[tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]] = (
    (ENTITY, html.unescape),
    (ENTITY, html.unescape),  # "&amp;quot;"
    (TAG, _one_blank),
    (RETWEET, _gone),
    (CLOSING_HASHTAGS, _gone),
    (HASHTAG, _gone),
    (WITH, lambda _: "with "),
    (BLANKS, _one_blank),
)


FOREIGN: Final = words(
    "le la les un une des du et sur avec dans pour el los las una y con por del der die das und auf dem den mit ein "
    "eine im il gli di per van het een de en em"
)
"""Function words of other languages."""
URL: Final = re.compile(
    r"(?:https?://|www\.)\S+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|co\.uk|de|io|example|info)\b(?:/\S*)?", re.I
)
EMAIL_OR_HANDLE: Final = re.compile(r"\S+@\S+|(?<!\S)@\w+")
FILE_NAME: Final = re.compile(
    r"(?:^|(?<=\s))\S*\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?|pdf|psd|eps|mp4|zip)\b|(?<!\S)\w+_\w+(?!\S)", re.I
)
MARKS: Final = re.compile("[\u00ae\u2122\u00a9]|(?<!\\S)(?:<3|[:;]-?[)(DP])(?!\\S)")
"""Signs of trade marks and emoticons."""
PRICE: Final = re.compile(r"(?:[$€£¥]\s?\d[\d.,]*|\d[\d.,]*\s?(?:[$€£¥%]|USD|EUR|GBP)(?!\w))(?:\s+off\b)?", re.I)
DATE: Final = re.compile(r"\b\d{1,4}[./-]\d{1,2}[./-]\d{2,4}\b|\b\d{1,2}:\d{2}\b(?:\s?[ap]\.?m\.?)?", re.I)
SEPARATOR: Final = re.compile(
    r"(?<=\s)[|/•·~»>*+\u2013\u2014-]+(?=\s)|[|•·»]|(?<=[^\W\d])-(?=\s)|(?<=\s)-(?=[^\W\d])|(?<=\w)[\u2013\u2014](?=\w)"
)
SEPARATOR_CUE: Final = re.compile(r"[|/\u2022\u00b7~\u00bb>*+\u2013\u2014-]")
"""Characters of which every separator contains one."""
NOISE: Final = tuple(
    (pattern, re.compile(cue))
    for pattern, cue in (
        (MARKS, "[\u00ae\u2122\u00a9<:;]"),
        (EMAIL_OR_HANDLE, "@"),
        (URL, r"://|\.\S"),
        (FILE_NAME, r"\.\S|_"),
        (PRICE, r"[$€£¥%]|(?i:USD|EUR|GBP)"),
        (DATE, r"\d[./:-]\d"),
    )
)
"""Patterns to blank out, in order, each with a shorter one that every match contains: searching for that first is far
quicker.
"""
CUE: Final = re.compile(r"[<@.:;_\d|/\u2022\u00b7~\u00bb>*+\u2013\u2014\u00ae\u2122\u00a9-]")
"""Characters of which every match of a noise pattern or separator contains one."""
SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
"""A lone surrogate, from a broken file or a shell argument, which spaCy cannot encode."""
TITLED: Final = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?\.?")
ABBREVIATIONS: Final = words("dr. mr. mrs. ms. prof. st. jr. sr.")
ENGLISH: Final = words("the a an of and with in on at for is are to from by his her their your my")
WORD: Final = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
SMALL_WORDS: Final = words(
    "a an and are as at be but by for from has in into is it its near of off on onto or over that the this to under up "
    "was were with while who which without not no your our my his her their"
)
NOT_IN_TITLES: Final = SMALL_WORDS | UNITS | {"x"}
"""Words without a capital in titles, too: "45 x 45 cm"."""


def clean(caption: str) -> tuple[str, str]:
    """Blank out addresses, file names, prices, dates and lone surrogates; lower ALL CAPS and Title Case. The caption
    comes without markup (see `markup`).

    The tagger takes every capitalised word for a name, which hides verbs and adjectives in titles ("Little Bird
    Singing").

    Returns:
        The text; and the text with its capitals if it is a title, else "".
    """
    if not caption.isascii():
        caption = SURROGATE.sub(" ", caption)
    text = _without_noise(caption) if CUE.search(caption) else caption
    found = WORD.findall(text)
    return (_lowered(text, found), text) if _is_title(found) else (text, "")


def _without_noise(text: str) -> str:
    for pattern, cue in NOISE:
        if cue.search(text):
            text = pattern.sub(_blank, text)
    return SEPARATOR.sub(_mark, text) if SEPARATOR_CUE.search(text) else text


def _is_title(found: Sequence[str]) -> bool:
    """Whether (nearly) every content word starts with a capital, so capitals do not mark names."""
    capitals = [word[0].isupper() for word in found if word.lower() not in NOT_IN_TITLES]
    return 1 < sum(capitals) >= 0.8 * len(capitals)


def _lowered(text: str, found: Sequence[str]) -> str:
    """Lower case of the same length. In a title that is not ALL CAPS, words in capitals (LED) stay as names."""
    shouted = sum(word.isupper() for word in found) > len(found) / 2
    if text.isascii() and "." not in text and (shouted or not any(word.isupper() and len(word) > 1 for word in found)):
        return text.lower()  # there is no name or abbreviation to keep
    lowered = TITLED.sub(lambda match: _lower(match, shouted=shouted), text)
    return lowered if len(lowered) == len(text) else text


def _lower(match: re.Match[str], *, shouted: bool) -> str:
    word = match[0]
    if word.lower() in ABBREVIATIONS:
        return word.capitalize()
    return word if word.isupper() and len(word) > 1 and not shouted else word.lower()


def is_foreign(text: str) -> bool:
    """Whether a text has function words of other languages but no English ones."""
    found = {word.lower() for word in WORD.findall(text)}
    return len(found & FOREIGN) >= 2 and not found & ENGLISH


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _mark(match: re.Match[str]) -> str:
    """Replace a dash or bar between parts of a title by a mark that the parser takes for a boundary."""
    return ";".ljust(len(match[0]))
