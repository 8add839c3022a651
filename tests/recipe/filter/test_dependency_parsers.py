"""Fast and Spacy give the same trees; where they do not, Fast steps back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest

from diht_k8s.stages.filter.captions.dependency_parsers import (
    FIXED,
    FastParser,
    SpacyParser,
    fast_or_spacy,
    load_parser,
)
from diht_k8s.stages.filter.captions.tree import Token


def test_fixed_captions_are_twenty_and_parse_alike(caplog: pytest.LogCaptureFixture) -> None:
    assert len(set(FIXED)) == 20
    assert isinstance(load_parser("Fast"), FastParser)
    assert not caplog.records


@pytest.mark.parametrize("field", ["tag", "dep", "lower"])
def test_another_tree_of_one_fixed_caption_makes_spacy_parse_with_a_warning(
    field: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = FastParser.parse

    def wrong(self: FastParser, texts: Sequence[str]) -> Iterator[list[Token]]:
        for text, tokens in zip(texts, right(self, texts), strict=True):
            if text == FIXED[-1]:
                setattr(tokens[-1], field, "other")
            yield tokens

    monkeypatch.setattr(FastParser, "parse", wrong)
    with caplog.at_level(logging.WARNING):
        parser = fast_or_spacy(FastParser())
    assert type(parser) is SpacyParser
    assert "read 'the temple was built" in caplog.text
