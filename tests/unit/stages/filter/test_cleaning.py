from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.stages.filter.captions.cleaning import clean, plain


@pytest.mark.parametrize(
    ("caption", "seen"),
    [
        ("a dog at www.example.org/dogs today", "a dog at today"),
        ("Contact: hello@mapleprint.example", "Contact:"),
        ("IMG_2034.jpg", ""),
        ("my_file_name of a cat", "of a cat"),
        ("Brick\u00ae set \u2122 \u00a9 2019", "Brick set 2019"),
        ("we built a treehouse <3", "we built a treehouse"),
        ("dinner :) at home", "dinner at home"),
        ("Sandals $29.99 - 50% off", "Sandals ;"),
        ("Sandals for 30 EUR", "Sandals for"),
        ("Park, 02/11/2018 at 10:30 pm", "Park, at"),
        ("lamp at example.com", "lamp at"),
        ("lamp at https://lamps", "lamp at"),
        ("lamp.jpg", ""),
        ("lamp, 5 usd", "lamp,"),
        ("lamp, 5 eur", "lamp,"),
        ("lamp, 5 gbp", "lamp,"),
        ("lamp, 20% off", "lamp,"),
        ("lamp, $5", "lamp,"),
        ("lamp, \u20ac5", "lamp,"),
        ("lamp, \u00a35", "lamp,"),
        ("lamp, \u00a55", "lamp,"),
        ("lamp, 2018-02-11", "lamp,"),
        ("lamp, 11.02.2018", "lamp,"),
        ("lamp, 11/02/2018", "lamp,"),
        ("lamp, 10:30", "lamp,"),
        *((f"lamp {sign} table", "lamp ; table") for sign in "|/\u2022\u00b7~\u00bb>*+\u2013\u2014-"),
        ("RED FOX IN SNOW", "red fox in snow"),
        ("Little Bird Singing on a Branch", "little bird singing on a branch"),
        ("Bedside LED Lamp", "bedside LED lamp"),
        ("Portrait of Dr. Maya Lind", "portrait of Dr. maya lind"),
        ("Singer Maya Lind performs on stage", "Singer Maya Lind performs on stage"),
        ("Mug | Blue", "mug ; blue"),
        ("rock-n-roll", "rock-n-roll"),
        ("a dog \udcff on\ud83d grass", "a dog on grass"),
        ("Pattern- apple -pear", "Pattern; apple ;pear"),
        ("size -3 to 4-", "size -3 to 4-"),
    ],
)
def test_clean_leaves_language(caption: str, seen: str) -> None:
    assert clean(caption)[0].split() == seen.split()


@pytest.mark.parametrize(
    ("caption", "title"),
    [("Little Bird | Blue", "Little Bird ; Blue"), ("a little bird", ""), ("LED LAMP 5W", "LED LAMP 5W")],
)
def test_clean_returns_the_capitals_of_a_title(caption: str, title: str) -> None:
    assert clean(caption)[1] == title


@pytest.mark.parametrize(
    "caption",
    ["a dog at www.example.org", "İSTANBUL BRIDGE", "A - B | C", "a <3 b", "a \ud83d dog", "\U0001d538 \uff22\uff23"],
)
def test_clean_keeps_the_length_so_that_spans_stay_valid(caption: str) -> None:
    assert len(clean(caption)[0]) == len(caption)


@pytest.mark.parametrize(
    ("text", "title"),
    [("Big Truck", True), ("Big truck", False), ("A Man And a Dog", True), ("Dog", False), ("a dog runs", False)],
)
def test_title_case_is_recognised(text: str, title: bool) -> None:
    assert bool(clean(text)[1]) is title


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("Kids&#39; Boots &ndash; Yellow", "Kids' Boots \u2013 Yellow"),
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Tom &amp;amp; Vera", "Tom & Vera"),
        ("caf&eacute; at night", "caf\u00e9 at night"),
        ("a 2&nbsp;m cable", "a 2 m cable"),
        ("<b>Solid Brass</b> Handle", " Solid Brass Handle"),
        ("one<br />two", "one two"),
        ('<div class="meta">a dog</div>', " a dog "),
        ("&lt;b&gt;a dog&lt;/b&gt;", " a dog "),
        ("a dog <!-- 12 -->", "a dog "),
        ("Print &lt;Sunset over the Bay&gt;", "Print <Sunset over the Bay>"),
        ("New tattoo #ink #blackwork", "New tattoo"),
        ("#ink #blackwork", ""),
        ("The kids build a #snowman here", "The kids build a snowman here"),
        ("Poster #10 of a city", "Poster 10 of a city"),
        ("RT @petlover: a kitten", " a kitten"),
        ("Drill w/ 2 Batteries", "Drill with 2 Batteries"),
        ("Paisley w/Pink Trim", "Paisley with Pink Trim"),
    ],
)
def test_markup_becomes_the_text_that_it_stands_for(caption: str, text: str) -> None:
    found = plain(caption)
    assert found is not None
    assert found.text == text


@pytest.mark.parametrize(
    "caption", ["a dog", "R&B singer", "AT&T store", "Poster # 10", "a < b", "1/2 cup w/", "&foo; bar", "<完売>"]
)
def test_text_without_markup_stays_as_it_is(caption: str) -> None:
    assert plain(caption) is None


def test_places_are_those_in_the_caption() -> None:
    caption = "a caf&eacute; &amp; <b>bar</b> #here"
    found = plain(caption)
    assert found is not None
    start = found.text.index("caf\u00e9")
    assert caption[slice(*found.span(start, start + 4))] == "caf&eacute;"
    start = found.text.index("bar")
    assert caption[slice(*found.span(start, start + 3))] == "bar"


@given(st.text(alphabet="ab &;#<>/b39xamp", max_size=60))
def test_any_text_keeps_its_places_within_the_caption_and_in_order(caption: str) -> None:
    found = plain(caption)
    if found is not None:
        assert len(found.starts) == len(found.ends) == len(found.text)
        assert list(found.starts) == sorted(found.starts)
        assert all(0 <= a < b <= len(caption) for a, b in zip(found.starts, found.ends, strict=True))
