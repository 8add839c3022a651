from __future__ import annotations

import pytest

from diht_k8s.stages.filter.captions.cleaning import clean


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
