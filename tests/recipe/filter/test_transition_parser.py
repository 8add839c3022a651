"""Heads and labels must equal those of spaCy's own transition parser on the same vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diht_k8s.stages.filter.captions.dependency_parsers import load
from diht_k8s.stages.filter.captions.transition_parser import DECORATION, TransitionParser

DEV = Path(__file__).parent / "captions" / "dev.jsonl"
SENTENCES = "A dog runs. The cat sleeps! Is it raining? It is"
ACROSS = "whom the boys say they saw"
TOUGH = [
    "",
    "dog",
    " ",
    "two  blanks  ",
    "word " * 200,
    ", ; . - ( ) ! " * 30,
    SENTENCES,
    ACROSS,
    f"{SENTENCES}: {ACROSS}",
]


class Bench:
    """spaCy's parser beside ours."""

    def __init__(self) -> None:
        self.language, _ = load()
        self.parser = self.language.get_pipe("parser")
        self.ours = TransitionParser(self.parser)

    def parse(self, texts: list[str]) -> tuple[list[list[tuple[int, str]]], list[list[tuple[int, str]]]]:
        """Distance of the head and label of each word, by spaCy and by us."""
        docs = [self.language.make_doc(text) for text in texts]
        vectors = self.language.get_pipe("tok2vec").predict(docs)  # type: ignore[attr-defined]
        for doc, vector in zip(docs, vectors, strict=True):
            doc.tensor = vector
        states = self.parser.predict(docs)  # type: ignore[attr-defined]
        self.parser.set_annotations(docs, states)  # type: ignore[attr-defined]
        theirs = [[(word.head.i - word.i, word.dep_) for word in doc] for doc in docs]
        lengths = [len(doc) for doc in docs]
        stacked = np.concatenate(vectors) if any(lengths) else np.empty((0, 96), "f")
        heads, labels = (found.tolist() for found in self.ours.parse(stacked, lengths))
        found, start = [], 0
        for doc in docs:
            part = slice(start, start + len(doc))
            own_heads, own_labels = heads[part], labels[part]
            self.ours.uncross(own_heads, own_labels, [word.is_space for word in doc])
            found.append([(head, self.ours.labels[label]) for head, label in zip(own_heads, own_labels, strict=True)])
            start += len(doc)
        return theirs, found


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


def test_heads_and_labels_equal_those_of_spacy(bench: Bench) -> None:
    texts = [*(json.loads(line)["caption"] for line in DEV.read_text().splitlines()), *TOUGH]
    theirs, ours = bench.parse(texts)
    for text, wanted, found in zip(texts, theirs, ours, strict=True):
        assert found == wanted, text


def test_a_head_beyond_another_arc_is_found(bench: Bench) -> None:
    _, (found,) = bench.parse([ACROSS])
    assert found[0] == (5, "dobj")
    assert not any(DECORATION in label for _, label in found)


@pytest.mark.parametrize(
    ("heads", "labels", "expected"),
    [
        ([2, 1, 0, -1, -2], ["dobj||xcomp", "nsubj", "ROOT", "xcomp", "xcomp"], (3, "dobj")),
        ([2, 1, 0, -1, -1, -3], ["dobj||xcomp", "nsubj", "ROOT", "advcl", "xcomp", "xcomp"], (5, "dobj")),
        ([2, 1, 0, -1, -1], ["dobj||xcomp", "nsubj", "ROOT", "advcl", "xcomp"], (4, "dobj")),
        ([2, 1, 0, -1, -1], ["dobj||xcomp", "nsubj", "ROOT", "advcl", "advcl"], (2, "dobj")),
        ([2, -1, 0, -1, -1], ["dobj||xcomp", "xcomp", "ROOT", "advcl", "advcl"], (2, "dobj")),
    ],
    ids=["first in order", "child before grandchild", "grandchild", "none", "not below itself"],
)
def test_the_nearest_word_with_the_label_becomes_the_head(
    bench: Bench, heads: list[int], labels: list[str], expected: tuple[int, str]
) -> None:
    places = [bench.ours.labels.index(label) for label in labels]
    bench.ours.uncross(heads, places, [False] * len(heads))
    assert (heads[0], bench.ours.labels[places[0]]) == expected


def test_blanks_are_never_heads(bench: Bench) -> None:
    heads = [2, 1, 0, -1, -2]
    labels = [bench.ours.labels.index(label) for label in ("dobj||xcomp", "nsubj", "ROOT", "xcomp", "xcomp")]
    bench.ours.uncross(heads, labels, [False, False, False, True, False])
    assert heads[0] == 4
