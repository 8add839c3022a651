"""The teacher's own classes: joined by words, calibrated on captions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from diht_k8s.api.errors import UserError
from diht_k8s.stages.label.heads import Head, TrainingImages
from diht_k8s.stages.label.targets import encode
from diht_k8s.stages.label.teacher_classes import imagenet_names, join_classes, with_own_classes
from diht_k8s.stages.label.vocabulary import Concepts, ConceptVocabulary

NAMES = [["dog"], ["great grey owl", "strix nebulosa"], ["crane"], ["crane"], ["wheelbarrow", "barrow"]]
COUNTS = {"dog": 9, "cat": 7, "barrow": 2}


def joined() -> Concepts:
    return join_classes(Concepts(("dog", "cat"), (9, 7)), COUNTS, NAMES)


def test_join_when_captions_name_a_class_then_it_stays_theirs_and_no_name_comes_twice() -> None:
    concepts = joined()
    assert concepts.names == ("dog", "cat", "great grey owl", "crane", "wheelbarrow")
    assert concepts.counts == (9, 7, 0, 0, 2)
    assert [each.number for each in concepts.teacher_classes] == [1, 2, 4]
    assert concepts.trained == Concepts(("dog", "cat"), (9, 7))


def test_targets_when_a_caption_names_a_class_by_a_synonym_or_its_last_word_then_the_class_is_present() -> None:
    targets = encode([["owl"], ["barrow", "dog"], ["strix nebulosa"], ["grey"]], joined())
    assert targets.class_ids.tolist() == [2, 0, 4, 2]
    trained = targets.first(2)
    assert (trained.class_ids.tolist(), trained.offsets.tolist(), trained.classes) == ([0], [0, 0, 1, 1, 1], 2)


def test_vocabulary_when_written_and_read_then_the_teachers_classes_are_the_same() -> None:
    vocabulary = ConceptVocabulary(3, joined(), Concepts(("red",), (1,)), {})
    document = json.loads(json.dumps(vocabulary.document({"schema_version": 1})))
    assert ConceptVocabulary.from_document(document).objects == vocabulary.objects


def own(named: bool) -> tuple[np.ndarray, Head]:
    """Probabilities of a class that one in ten images shows, and of one that none does; captions name the first, or do
    not.
    """
    generator = torch.Generator().manual_seed(0)
    shows_N = torch.arange(400) % 10 == 0
    features_ND = torch.randn(400, 3, generator=generator) + 8 * shows_N[:, None] * torch.tensor([1.0, 0, 0])
    concepts = join_classes(Concepts(("cat",), (7,)), {}, [["owl"], ["crane"]])
    names_N = [["owl"] if named and shows else ["cat"] for shows in shows_N.tolist()]
    weight, bias = torch.zeros(1000, 3), torch.full((1000,), 50.0)  # a shift of all logits says nothing
    weight[0, 0], weight[1, 1] = 4, 4
    images = TrainingImages(features_ND.half(), torch.zeros(400, dtype=torch.long), 1)
    head = Head(torch.zeros(1, 1, 3), torch.zeros(1, 1), kind="Sigmoid")
    head = with_own_classes(head, images, encode(names_N, concepts), (weight, bias), concepts)
    return head.probabilities(images.features_ND, images.fold_N).numpy(), head


def test_own_classes_when_captions_bear_them_out_then_they_are_said_where_they_are() -> None:
    probabilities, head = own(named=True)
    shows = np.arange(400) % 10 == 0
    assert head.weight_MCD.shape == (1, 3, 3)
    assert (probabilities[shows, 1] > 0.5).mean() > 0.8
    assert (probabilities[~shows, 1] < 0.5).mean() > 0.99
    np.testing.assert_array_equal(probabilities[:, 0], 0.5)  # the trained class


def test_own_classes_when_no_caption_names_any_then_nothing_is_said() -> None:
    assert own(named=False)[0][:, 1:].max() < 0.1


@pytest.mark.parametrize("classifier", [None, (torch.zeros(7, 3), torch.zeros(7))], ids=["none", "another"])
def test_own_classes_when_the_weights_have_no_such_classifier_then_user_error(
    classifier: tuple[torch.Tensor, torch.Tensor] | None,
) -> None:
    images = TrainingImages(torch.zeros(2, 3).half(), torch.zeros(2, dtype=torch.long), 1)
    with pytest.raises(UserError, match="no classifier of ImageNet's 1000 classes"):
        with_own_classes(
            Head(torch.zeros(1, 2, 3), torch.zeros(1, 2)), images, encode([[], []], joined()), classifier, joined()
        )


def test_imagenet_names_when_listed_then_a_thousand_with_their_synonyms() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert names[0] == ["tench", "tinca tinca"]
    assert names[428] == ["barrow", "garden cart", "lawn cart", "wheelbarrow"]
