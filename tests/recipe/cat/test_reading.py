"""Tags and heads found by our products must be the ones that spaCy's own pipeline finds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diht_k8s.recipe.cat import encoder, reading
from diht_k8s.recipe.cat.parser import CaptionParser
from diht_k8s.recipe.cat.reading import Reader

DEV = Path(__file__).parent / "captions" / "dev.jsonl"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def captions() -> list[str]:
    lines = [json.loads(line)["caption"] for line in DEV.read_text().splitlines()]
    return [*lines, "", " ", "dog", "two  blanks", "word " * 400, "LED  Lamp\twith tab", "don't stop"]


def found_by_spacy(text: str) -> list[tuple[str, str, str, str]]:
    language, _ = reading.load()
    return [
        (word.lower_, word.tag_, word.dep_, word.head.lower_)
        for word in language(text)
        if not word.is_space and not (word.tag_.startswith("VB") and word.is_upper)
    ]


def test_words_tags_and_heads_are_the_ones_that_spacy_finds(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    language, _ = reading.load()
    monkeypatch.setattr(reading, "load", lambda: (language, reader.lexicon))
    texts = captions()
    for text, tokens in zip(texts, reader.read(texts), strict=True):
        names = [token for token in tokens if not (token.tag == "NNP" and token.lower.upper() in text)]
        found = {(token.lower, token.tag, token.dep, token.head.lower) for token in names}
        assert found <= set(found_by_spacy(text)), text


def test_vectors_are_the_ones_that_spacy_computes(reader: Reader) -> None:
    language, _ = reading.load()
    texts = [text for text in captions() if text.strip()]
    docs = [language.make_doc(text) for text in texts]
    wanted = np.concatenate(language.get_pipe("tok2vec").predict(docs))  # type: ignore[attr-defined]
    words = reading._Words(reader._encoder.width)
    rows = words.rows(docs, language.vocab.strings, reader._encoder)
    vectors = reader._encoder.encode(words.vectors_MD[rows], [len(doc) for doc in docs])
    np.testing.assert_allclose(vectors, wanted, atol=2e-5)


def test_captions_do_not_see_each_other_however_they_are_batched(reader: Reader) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 30, 2, encoder.ROWS + 5, 3]
    vectors = rng.normal(size=(sum(lengths), reader._encoder.width)).astype("f")
    together = reader._encoder.encode(vectors, lengths)
    parts = np.split(vectors, np.cumsum(lengths)[:-1])
    alone = np.concatenate([reader._encoder.encode(part, [len(part)]) for part in parts])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_words_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_WORDS", 8)
    reader = Reader()
    texts = ["a small dog chases a ball", "two cats sleep on that sofa", "a small dog chases a ball"]
    lower = [[token.lower for token in tokens] for text in texts for tokens in reader.read([text])]
    assert lower == [text.split() for text in texts]
    assert len(reader._words.texts) <= 8


def test_model_with_too_many_strings_is_loaded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = CaptionParser(cached=0)
    first = parser.parse(["a man riding a horse"])
    before = parser._reader
    monkeypatch.setattr(reading, "MAX_STRINGS", 1)
    assert parser.parse(["a man riding a horse"]) == first
    assert parser._reader is not before
