from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diht_k8s.stages.filter.captions.cleaning import plain


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
