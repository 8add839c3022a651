"""Relations that rules of the parser attach to the right noun or verb, one caption a rule."""

from __future__ import annotations

import pytest

from diht_k8s.recipe.filter import CaptionParser

PARSER = CaptionParser()
Triple = tuple[str | None, str, str | None]


@pytest.mark.parametrize(
    ("caption", "expected", "not_expected"),
    [
        (
            "a teapot with a handle, engraved with flowers",
            ("teapot", "engrave with", "flower"),
            ("handle", "engrave with", "flower"),
        ),
        ("a girl who brings a kite to every picnic", ("girl", "bring to", "picnic"), None),
        ("a jug of milk filled to the brim and served with bread", ("milk", "serve with", "bread"), None),
        ("Filter for vacuum XV-200", ("filter", "for", "vacuum"), None),
        ("a house with a barn, a pond and a view", ("house", "with", "pond"), None),
        ("bride and groom kiss in front of a chapel", ("groom", "kiss in front of", "chapel"), None),
        ("a house with a garage for sale", ("house", "for", "sale"), ("garage", "for", "sale")),
        ("a chef in uniform with a teapot", ("chef", "with", "teapot"), ("uniform", "with", "teapot")),
        ("picture of a lake taken by a drone", ("drone", "take", "picture"), ("drone", "take", "lake")),
        ("Novel by Ann Lee narrated by Tim Ray", ("tim ray", "narrate", "novel"), ("tim ray", "narrate", "ann lee")),
        ("a glass of milk royalty free stock photo", ("glass", "of", "milk"), None),
        ("Tourists ride camels past the pyramids at sunset", ("tourist", "ride at", "sunset"), None),
        ("a net used by sailors to catch crabs", ("sailor", "catch", "crab"), ("net", "catch", "crab")),
        ("people walk in Las Vegas", ("people", "walk in", "las vegas"), None),
        (
            "the plot of a movie for my uncle who repairs clocks",
            ("uncle", "repair", "clock"),
            ("movie", "repair", "clock"),
        ),
        ("That one uncle who brings a lantern to every picnic", ("uncle", "bring to", "picnic"), None),
        ("9 Things You Should Never Put in Your Oven", (None, "put", "thing"), (None, "put", "oven")),
        ("Fenced yard where the kids can play and the dog can run", ("dog", "run", None), ("yard", "run", None)),
        ("Fog stops play as wardens cover the court", ("fog", "stop", "play"), ("fog", "play", None)),
        ("a nurse biopsies the sample", ("nurse", "biopsy", "sample"), None),
    ],
)
def test_relation_belongs_to_the_right_words(caption: str, expected: Triple, not_expected: Triple | None) -> None:
    (graph,) = PARSER.parse([caption])
    names = graph.names
    found = [
        (None if one is None else names[one], predicate, None if two is None else names[two])
        for one, predicate, two in graph.relations
    ]
    assert expected in found
    assert not_expected not in found
