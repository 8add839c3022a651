"""Relations that rules of the parser attach to the right noun or verb, one caption a rule."""

from __future__ import annotations

import pytest

from diht_k8s.stages.filter import CaptionParser

PARSER = CaptionParser()
Triple = tuple[str | None, str, str | None]


@pytest.mark.parametrize(
    ("caption", "expected", "not_expected"),
    [
        ("a girl who brings a kite to every picnic", ("girl", "bring to", "picnic"), None),
        ("Filter for vacuum XV-200", ("filter", "for", "vacuum"), None),
        ("a chef in uniform with a teapot", ("chef", "with", "teapot"), ("uniform", "with", "teapot")),
        ("Novel by Ann Lee narrated by Tim Ray", ("tim ray", "narrate", "novel"), ("tim ray", "narrate", "ann lee")),
        ("a glass of milk royalty free stock photo", ("glass", "of", "milk"), None),
        ("a net used by sailors to catch crabs", ("sailor", "catch", "crab"), ("net", "catch", "crab")),
        ("people walk in Las Vegas", ("people", "walk in", "las vegas"), None),
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
