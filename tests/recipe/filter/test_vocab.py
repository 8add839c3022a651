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


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "one  two   three ",
        " \t tabs\tand\n\nlines ",
        "no-break\u00a0space, wide\u2003space \u2028",
        "don't stop; we're gonna see cannot's",
        "a 10km run for US$5 (e.g. at 9a.m.)",
        'say "hello"... :) :( 8-) <3',
        "https://example.org/a?b=c and x@example.org",
        "caf\u00e9, na\u00efve \u2014 \u6211\u4eec \U0001f600!",
        "non-stick 2-in-1 rock'n'roll C++ U.S.A.",
    ],
)
def test_words_and_positions_equal_those_of_spacy(parser: FastParser, text: str) -> None:
    doc = parser.language.make_doc(text)
    words = [parser._vocab.known[row] for row in parser._vocab.rows([text])[0]]
    assert [(word.lower, word.is_space) for word in words] == [(word.lower_, word.is_space) for word in doc]
    assert [word.width for word in words] == [len(word.text_with_ws) for word in doc]


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
