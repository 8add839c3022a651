from __future__ import annotations

import pytest

from diht_k8s.stages.filter.captions.graph import Action, Attribute, CaptionGraph, Mention, Relation, describe

CAT_AND_BIRD = CaptionGraph(
    objects=(Mention("cat", 2, 5), Mention("bird", 20, 24)),
    attributes=(Attribute(1, "small"), Attribute(1, "blue")),
    relations=(Relation(0, "chase", 1),),
    actions=(Action("chase", True),),
)


def test_complexity_counts_a_triple_once_for_each_of_its_objects() -> None:
    mentions = (Mention("dog", 0, 3), Mention("ball", 4, 8))
    relations = (Relation(0, "chase", 1), Relation(0, "chase", 1), Relation(0, "sleep", None), Relation(0, "with", 0))
    assert CaptionGraph(mentions, (), relations).complexity == 3


def test_strict_actions_want_a_subject() -> None:
    graph = CaptionGraph(actions=(Action("cook", False), Action("run", True)))
    assert (graph.num_actions, graph.num_subject_actions) == (2, 1)


def test_names_number_later_mentions_of_one_lemma() -> None:
    graph = CaptionGraph(objects=(Mention("dog", 0, 3), Mention("cat", 4, 7), Mention("dog", 8, 11)))
    assert graph.names == ("dog", "cat", "dog#2")


PASTA = CaptionGraph((Mention("pasta", 8, 13),), (), (Relation(None, "cook", 0),), (Action("cook", False),))


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (CAT_AND_BIRD, "cat\n  -chase-> bird\nbird [small, blue]\ncomplexity 3, actions 1 (chase)"),
        (PASTA, "pasta\n(? -cook-> pasta)\ncomplexity 1, actions 1 (cook)"),
        (CaptionGraph(), "no objects\ncomplexity 0, actions 0 (none)"),
    ],
)
def test_describe_prints_objects_with_attributes_relations_and_counts(graph: CaptionGraph, said: str) -> None:
    assert describe(graph) == said
