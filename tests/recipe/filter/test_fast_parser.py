"""Our tags and heads must equal those of spaCy's own pipeline."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Token as SpacyToken

from diht_k8s.stages.filter.captions import dependency_parsers, encoder, vocab
from diht_k8s.stages.filter.captions.dependency_parsers import FastParser
from diht_k8s.stages.filter.captions.parser import CaptionParser

DEV = Path(__file__).parent / "captions" / "dev.jsonl"


@pytest.fixture(scope="module")
def parser() -> FastParser:
    return FastParser()


def captions() -> list[str]:
    lines = [json.loads(line)["caption"] for line in DEV.read_text().splitlines()]
    return [*lines, *TOUGH]


TOUGH = [
    "",
    " ",
    "dog",
    "two  blanks",
    "  \t leading and trailing \n ",
    "word " * 400,
    "a red box, " * 90,
    "LED  Lamp\twith tab",
    "no-break\u00a0space and\u2003wide",
    "don't stop, gonna cannot",
    "10km for US$5 (e.g. at 9 a.m.) :) \u2014 caf\u00e9!",
    "A dog runs. The cat sleeps! Is it raining? It is",
    "whom the boys say they saw",
]
"""All kinds of blanks, empty text, a thousand characters, words that the tokenizer splits, several sentences, and a
head across another arc.
"""


Found = list[tuple[str, str, str, str]]


def found_by_spacy(language: Language, text: str) -> Found:
    """Word, tag, label and head of each word; children of blanks get the heads of the blanks."""
    return [
        (word.lower_, name_or_tag(word), word.dep_, head_beyond_blanks(word).lower_)
        for word in language(text)
        if not word.is_space
    ]


def name_or_tag(word: SpacyToken) -> str:
    """We never tag words in capitals as verbs."""
    return "NNP" if word.tag_.startswith("VB") and word.text.isupper() and len(word) > 1 else word.tag_


def head_beyond_blanks(word: SpacyToken) -> SpacyToken:
    head = word.head
    while head.is_space and head.head != head:
        head = head.head
    return word if head.is_space else head


def test_words_tags_and_heads_equal_those_of_spacy(parser: FastParser) -> None:
    language, _ = dependency_parsers.load()
    texts = captions()
    for text, tokens in zip(texts, parser.parse(texts), strict=True):
        found = [(token.lower, token.tag, token.dep, token.head.lower) for token in tokens]
        assert found == found_by_spacy(language, text), text


def test_vectors_equal_those_of_spacy(parser: FastParser) -> None:
    language, _ = dependency_parsers.load()
    texts = [text for text in captions() if text.strip()]
    docs = [language.make_doc(text) for text in texts]
    wanted = np.concatenate(language.get_pipe("tok2vec").predict(docs))  # type: ignore[attr-defined]
    rows = parser._vocab.rows(texts)
    vectors = parser._encoder.encode(parser._vocab.vectors_MD[np.concatenate(rows)], [len(doc) for doc in docs])
    np.testing.assert_allclose(vectors, wanted, atol=2e-5)


def test_captions_do_not_affect_each_other_in_any_batch(parser: FastParser) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 30, 2, encoder.ROWS + 5, 3]
    vectors = rng.normal(size=(sum(lengths), parser._encoder.width)).astype("f")
    together = parser._encoder.encode(vectors, lengths)
    parts = np.split(vectors, np.cumsum(lengths)[:-1])
    alone = np.concatenate([parser._encoder.encode(part, [len(part)]) for part in parts])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_words_are_cleared_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab, "MAX_WORDS", 8)
    parser = FastParser()
    texts = ["a small dog chases a ball", "two cats sleep on that sofa", "a small dog chases a ball"]
    lower = [[token.lower for token in tokens] for text in texts for tokens in parser.parse([text])]
    assert lower == [text.split() for text in texts]
    assert len(parser._vocab.known) == 5


def test_parse_does_not_depend_on_the_batch(parser: FastParser, monkeypatch: pytest.MonkeyPatch) -> None:
    together = [[(token.lower, token.tag, token.dep, token.head.i) for token in text] for text in parser.parse(TOUGH)]
    monkeypatch.setattr(dependency_parsers, "AT_ONCE", 1)
    alone = [[(token.lower, token.tag, token.dep, token.head.i) for token in text] for text in parser.parse(TOUGH)]
    assert together == alone


def test_model_with_too_many_strings_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = CaptionParser(cached=0)
    first = parser.parse(["a man riding a horse"])
    before = parser._dependency_parser
    monkeypatch.setattr(dependency_parsers, "MAX_STRINGS", 1)
    assert parser.parse(["a man riding a horse"]) == first
    assert parser._dependency_parser is not before


def test_a_second_model_unfreezes_the_objects_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.unfreeze()
    monkeypatch.setattr(FastParser, "_freezes", None)
    monkeypatch.setattr(dependency_parsers, "MAX_STRINGS", 1)
    parser = CaptionParser(cached=0)
    parser.parse(["a dog"])
    first = gc.get_freeze_count()
    parser.parse(["a dog"])
    assert 100_000 < gc.get_freeze_count() < first + 1000, "nothing of the first is kept with the second"


def test_objects_that_other_code_froze_stay_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastParser, "_freezes", None)
    gc.freeze()
    frozen = gc.get_freeze_count()
    try:
        FastParser()
        assert frozen // 2 < gc.get_freeze_count() <= frozen, "neither let go nor added to"
    finally:
        gc.unfreeze()
