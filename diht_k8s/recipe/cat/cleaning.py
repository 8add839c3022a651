"""Caption text as the parser should see it: same length, so that spans stay valid, with what is no language blanked out. Pure."""

from __future__ import annotations

import re
from typing import Final

from diht_k8s.recipe.cat.wordlists import words

URL: Final = re.compile(
    r"(?:https?://|www\.)\S+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|co\.uk|de|io|example|info)\b(?:/\S*)?", re.I
)
EMAIL_OR_HANDLE: Final = re.compile(r"\S+@\S+|(?<!\S)@\w+")
FILE_NAME: Final = re.compile(
    r"(?:^|(?<=\s))\S*\.(?:jpe?g|png|gif|webp|svg|bmp|tiff?|pdf|psd|eps|mp4|zip)\b|(?<!\S)\w+_\w+(?!\S)", re.I
)
HASHTAG: Final = re.compile(r"#(\w+)")
CLOSING_HASHTAGS: Final = re.compile(r"(?:\s*#\w+)+\s*$")
PRICE: Final = re.compile(r"(?:[$€£¥]\s?\d[\d.,]*|\d[\d.,]*\s?(?:[$€£¥%]|USD|EUR|GBP)(?!\w))(?:\s+off\b)?", re.I)
DATE: Final = re.compile(r"\b\d{1,4}[./-]\d{1,2}[./-]\d{2,4}\b|\b\d{1,2}:\d{2}\b(?:\s?[ap]\.?m\.?)?", re.I)
SEPARATOR: Final = re.compile(r"(?<=\s)[|/•·~»>*+\u2013\u2014-]+(?=\s)|[|•·»]|(?<=\w)[\u2013\u2014](?=\w)")
WORD: Final = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
SMALL_WORDS: Final = words(
    "a an and are as at be but by for from has in into is it its near of off on onto or over that the this to under up was were with "
    "while who which without not no your our my his her their"
)


def clean(caption: str) -> str:
    """Blank out addresses, file names, prices, dates and closing hashtags; take ALL CAPS and Title Case down to lower case.

    The tagger takes every capitalised word for a name, which hides verbs and adjectives of titles ("Little Bird Singing").
    """
    text = caption
    for pattern in (EMAIL_OR_HANDLE, URL, FILE_NAME, CLOSING_HASHTAGS, PRICE, DATE):
        text = pattern.sub(_blank, text)
    text = HASHTAG.sub(r" \1", text)
    text = SEPARATOR.sub(_comma, text)
    lowered = text.lower()
    return lowered if is_title(text) and len(lowered) == len(text) else text


def is_title(text: str) -> bool:
    """Whether (nearly) every word of some weight starts with a capital, so that capitals say nothing about names."""
    words = [word for word in WORD.findall(text) if word.lower() not in SMALL_WORDS]
    capitals = sum(word[0].isupper() for word in words)
    return len(words) >= 2 and capitals >= 0.8 * len(words) and capitals > 1


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _comma(match: re.Match[str]) -> str:
    return ",".ljust(len(match[0]))
