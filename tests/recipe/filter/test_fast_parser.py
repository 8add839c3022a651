"""Our words, tags and heads must equal those of spaCy's own tokenizer and pipeline; where they do not, spaCy parses."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from spacy.attrs import NORM, PREFIX, SHAPE, SUFFIX  # type: ignore[attr-defined]

from diht_k8s.stages.filter.captions import dependency_parsers, encoder, vocab
from diht_k8s.stages.filter.captions.dependency_parsers import (
    FIXED,
    FastParser,
    SpacyParser,
    fast_or_spacy,
    load_parser,
)
from diht_k8s.stages.filter.captions.parser import CaptionParser
from diht_k8s.stages.filter.captions.transition_parser import DECORATION
from diht_k8s.stages.filter.captions.tree import Token
from diht_k8s.stages.filter.captions.vocab import MARKS

DEV = Path(__file__).parent / "captions" / "dev.jsonl"


@pytest.fixture(scope="module")
def parser() -> FastParser:
    return FastParser()


def captions() -> list[str]:
    lines = [json.loads(line)["caption"] for line in DEV.read_text().splitlines()]
    return [*lines, *TOUGH]


ACROSS = "whom the boys say they saw"
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
    "one  two   three ",
    " \t tabs\tand\n\nlines ",
    "no-break\u00a0space, wide\u2003space \u2028",
    "don't stop; we're gonna see cannot's",
    'say "hello"... :) :( 8-) <3',
    "https://example.org/a?b=c and x@example.org",
    "caf\u00e9, na\u00efve \u2014 \u6211\u4eec \U0001f600!",
    "non-stick 2-in-1 rock'n'roll C++ U.S.A.",
    "10km for US$5 (e.g. at 9 a.m.) :) \u2014 caf\u00e9!",
    "A dog runs. The cat sleeps! Is it raining? It is",
    ACROSS,
    ", ; . - ( ) ! " * 30,
    f"A dog runs. The cat sleeps! Is it raining? It is: {ACROSS}",
]
"""All kinds of blanks, empty text, a thousand characters, words that the tokenizer splits, several sentences, and a
head across another arc.
"""


def test_trees_equal_those_of_spacy_in_batches_of_any_size(parser: FastParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependency_parsers, "AT_ONCE", 500)
    texts = captions()
    for text, ours, theirs in zip(texts, parser.parse(texts), load_parser("Spacy").parse(texts), strict=True):
        assert dependency_parsers._plain(ours) == dependency_parsers._plain(theirs), text


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


def test_a_head_beyond_another_arc_is_found(parser: FastParser) -> None:
    (found,) = parser.parse([ACROSS])
    assert (found[0].head, found[0].dep) == (found[5], "dobj")
    assert not any(DECORATION in token.dep for token in found)


FOUR = ["dobj||xcomp", "nsubj", "ROOT", "xcomp", "xcomp"]


@pytest.mark.parametrize(
    ("heads", "labels", "blank", "expected"),
    [
        ([2, 1, 0, -1, -2], FOUR, None, (3, "dobj")),
        ([2, 1, 0, -1, -2], FOUR, 3, (4, "dobj")),
        ([2, 1, 0, -1, -1, -3], ["dobj||xcomp", "nsubj", "ROOT", "advcl", "xcomp", "xcomp"], None, (5, "dobj")),
        ([2, 1, 0, -1, -1], ["dobj||xcomp", "nsubj", "ROOT", "advcl", "xcomp"], None, (4, "dobj")),
        ([2, 1, 0, -1, -1], ["dobj||xcomp", "nsubj", "ROOT", "advcl", "advcl"], None, (2, "dobj")),
        ([2, -1, 0, -1, -1], ["dobj||xcomp", "xcomp", "ROOT", "advcl", "advcl"], None, (2, "dobj")),
    ],
    ids=["first in order", "no blank", "child before grandchild", "grandchild", "none", "not below itself"],
)
def test_the_nearest_word_with_the_label_becomes_the_head(
    parser: FastParser, heads: list[int], labels: list[str], blank: int | None, expected: tuple[int, str]
) -> None:
    ours = parser._transition_parser
    places = [ours.labels.index(label) for label in labels]
    ours.uncross(heads, places, [place == blank for place in range(len(heads))])
    assert (heads[0], ours.labels[places[0]]) == expected


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


FEATURES = [NORM, PREFIX, SUFFIX, SHAPE]


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
