from __future__ import annotations

from diht_k8s.stages.filter.captions.tree import Token, link


def test_children_of_a_blank_are_attached_to_its_head() -> None:
    red, box = Token("red", "JJ", "amod", 0, 3), Token("box", "NN", "ROOT", 6, 9)
    assert link([red, None, None, box], [1, 1, 1, 0]) == [red, box]
    assert red.head is box
    assert (box.children, box.head, box.i) == ([red], box, 1)
