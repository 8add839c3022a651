"""Counting and cutting of concepts."""

from __future__ import annotations

import json

import pytest

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.label import Vocabulary as Cuts
from diht_k8s.stages.label.caption_concepts import KeptCaptions
from diht_k8s.stages.label.vocabulary import ConceptCounts, ConceptVocabulary, freeze


def captions(*rows: tuple[str, str]) -> KeptCaptions:
    return KeptCaptions(
        [str(number) for number in range(len(rows))],
        [objects.split() for objects, _ in rows],
        [attributes.split() for _, attributes in rows],
    )


def counted(*shards: KeptCaptions) -> ConceptCounts:
    counts = ConceptCounts()
    for shard in shards:
        counts.add(shard)
    return counts


def test_count_when_a_caption_repeats_a_concept_then_it_counts_once() -> None:
    counts = counted(captions(("dog dog cat", "red red"), ("dog", "")))
    assert counts.captions == 2
    assert counts.objects == {"dog": 2, "cat": 1}
    assert counts.attributes == {"red": 1}


@pytest.mark.parametrize(
    ("most", "kept"),
    [(1.0, ("tone", "cat", "dog")), (0.5, ("cat", "dog")), (0.4, ("dog",))],
    ids=["any", "half", "less"],
)
def test_freeze_when_concepts_are_everywhere_then_those_above_the_share_are_cut(most: float, kept: tuple[str]) -> None:
    rows = captions(*[("tone cat", "red")] * 5, *[("tone dog", "blue")] * 4, ("", "odd"))
    vocabulary = freeze(counted(rows), Cuts(min_count=2, max_fraction=most))
    assert vocabulary.objects.names == kept
    assert vocabulary.cut["objects"].get("everywhere", {"distinct": 0})["distinct"] == 3 - len(kept)


def test_freeze_when_cutting_then_each_cut_has_its_reason_and_order_is_by_count_then_name() -> None:
    rows = captions(
        *[("owl cat thing 12 x", "red")] * 4, *[("dog bee", "blue")] * 3, *[("ant", "old")] * 2, ("rare", "odd")
    )
    vocabulary = freeze(counted(rows), Cuts(min_count=2, max_objects=4))
    assert vocabulary.objects.names == ("cat", "owl", "bee", "dog")
    assert vocabulary.objects.counts == (4, 4, 3, 3)
    assert vocabulary.attributes.names == ("red", "blue", "old")
    cut = vocabulary.cut["objects"]
    assert cut["distinct"] == 9
    assert cut["stop_list"] == {"distinct": 3, "commonest": [["12", 4], ["thing", 4], ["x", 4]]}
    assert cut["credits"]["distinct"] == cut["excluded"]["distinct"] == 0
    assert cut["over_cap"] == {"distinct": 1, "commonest": [["ant", 2]]}
    assert cut["rare"] == {"distinct": 1, "commonest": [["rare", 1]]}


def test_freeze_when_a_name_stands_mostly_after_by_then_it_is_cut_as_a_credit_and_counted() -> None:
    shard = KeptCaptions(
        ["1", "2", "3", "4"],
        [["dog", "jane doe"], ["dog", "jane doe", "door"], ["cat", "door"], ["jane doe", "door", "dog"]],
        [["red"]] * 4,
        [["jane doe"], ["jane doe", "door"], [], []],
    )
    vocabulary = freeze(counted(shard), Cuts(min_count=1))
    assert vocabulary.objects.names == ("dog", "door", "cat")
    assert vocabulary.cut["objects"]["credits"] == {"distinct": 1, "commonest": [["jane doe", 3]]}


def test_freeze_when_names_are_excluded_then_they_are_cut_from_both_heads() -> None:
    rows = captions(*[("owl flat", "flat red")] * 2)
    vocabulary = freeze(counted(rows), Cuts(min_count=1, exclude=["flat"]))
    assert (vocabulary.objects.names, vocabulary.attributes.names) == (("owl",), ("red",))
    assert vocabulary.cut["objects"]["excluded"] == vocabulary.cut["attributes"]["excluded"]
    assert vocabulary.cut["objects"]["excluded"] == {"distinct": 1, "commonest": [["flat", 2]]}


@pytest.mark.parametrize(
    ("name", "kept"),
    [("stock photo", False), ("hotel icon", False), ("photo album", True), ("photo", False), ("tea set", True)],
)
def test_freeze_when_a_name_ends_with_a_word_for_images_then_it_is_cut(name: str, kept: bool) -> None:
    shard = KeptCaptions(["1"], [["dog", name]], [["red"]])
    assert (name in freeze(counted(shard), Cuts(min_count=1)).objects.names) is kept


@pytest.mark.parametrize(
    ("fraction", "count", "kept"),
    [(0.0, 1, 3), (0.25, 1, 2), (0.26, 1, 1), (0.0, 3, 1)],
    ids=["all", "fraction-reached", "fraction-missed", "count"],
)
def test_freeze_when_fraction_or_count_is_set_then_the_stricter_holds(fraction: float, count: int, kept: int) -> None:
    rows = captions(*[("dog", "red")] * 5, *[("cat", "red")] * 2, ("owl", "red"))
    assert len(freeze(counted(rows), Cuts(min_fraction=fraction, min_count=count)).objects) == kept


def test_freeze_when_nothing_is_left_then_says_which_head_and_why() -> None:
    with pytest.raises(DataError, match=r"no attributes: none of 1 occurs in at least 2 of 2 captions: lower"):
        freeze(counted(captions(("dog", "red"), ("dog", ""))), Cuts(min_count=2))


def test_document_when_read_back_then_equal_and_tampering_is_seen() -> None:
    vocabulary = freeze(counted(captions(("dog cat", "red"))), Cuts(min_count=1))
    document = json.loads(json.dumps(vocabulary.document({"schema_version": SCHEMA_VERSION, "config_sha256": "c"})))
    assert document["objects"] == [{"name": "cat", "count": 1}, {"name": "dog", "count": 1}]
    assert ConceptVocabulary.from_document(document) == vocabulary
    document["objects"].reverse()
    with pytest.raises(DataError, match="was changed after it was written"):
        ConceptVocabulary.from_document(document)


def test_document_when_of_another_schema_then_refused() -> None:
    with pytest.raises(DataError, match="schema_version 99"):
        ConceptVocabulary.from_document({"schema_version": 99})
