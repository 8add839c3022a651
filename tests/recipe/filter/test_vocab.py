"""Words must equal those of spaCy's tokenizer, with or without its help."""

from __future__ import annotations

import numpy as np
import pytest
from spacy.attrs import NORM, PREFIX, SHAPE, SUFFIX  # type: ignore[attr-defined]

from diht_k8s.stages.filter.captions.dependency_parsers import FastParser
from diht_k8s.stages.filter.captions.vocab import MARKS

FEATURES = [NORM, PREFIX, SUFFIX, SHAPE]


@pytest.fixture(scope="module")
def parser() -> FastParser:
    return FastParser()


def test_plain_words_have_the_features_that_spacy_gives_them(parser: FastParser) -> None:
    lexicon = parser.lexicon
    lower = sorted(word for word in lexicon.nouns | lexicon.verbs | lexicon.adjectives if word.isalpha())[::40]
    plain = [form for word in lower if word.isascii() for form in (word, word.title(), word.upper())]
    doc = parser.language.make_doc(" ".join(plain))
    assert len(plain) > 3000
    parts = dict(parser._vocab._tokenize_pieces(plain))
    assert [parts[word] for word in plain] == [
        [(word, features)] for word, features in zip(plain, doc.to_array(FEATURES).tolist(), strict=True)
    ]
    assert [word.text for word in doc] == plain


@pytest.mark.parametrize("mark", ["", ".", *sorted(MARKS)])
@pytest.mark.parametrize(
    "word", ["dog", "Dog", "LEDs", "LED", "MMMMMMix", "colour", "Mr", "e", "I", "cannot", "8", "1912", "a" * 100]
)
def test_letters_or_digits_and_a_mark_are_the_words_that_spacy_finds(parser: FastParser, word: str, mark: str) -> None:
    doc = parser.language.make_doc(word + mark)
    (found,) = dict(parser._vocab._tokenize_pieces([word + mark])).values()
    assert found == list(zip([each.text for each in doc], doc.to_array(FEATURES).tolist(), strict=True))


def test_plain_words_are_not_stored_by_spacy(parser: FastParser) -> None:
    before = len(parser.language.vocab.strings)
    list(parser.parse(["blorptastic zwinkerly, thingamabobbles. 190817?"]))
    assert len(parser.language.vocab.strings) == before


def test_a_failing_tokenizer_does_not_affect_later_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    words = FastParser()._vocab
    before = len(words.known)
    with monkeypatch.context() as patch:
        patch.setattr(words, "_tokenize", lambda text: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            words.rows(["a zwinkerly dog", "don't"])
    assert len(words.known) == before
    rows = words.rows(["a zwinkerly dog"])[0]
    unharmed = FastParser()._vocab
    np.testing.assert_array_equal(words.vectors_MD[rows], unharmed.vectors_MD[unharmed.rows(["a zwinkerly dog"])[0]])
