"""Groups and split of the demo's data: what counts as a variant, and that no group stands on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from examples.build_data.candidates import Candidate
from examples.build_data.groups import base_name, choose_gallery, group_candidates


def candidate(
    caption: str, *names: str, boilerplate: bool = False, clean: bool = True, class_name: str | None = None
) -> Candidate:
    return Candidate(
        source="test",
        file=caption,
        caption=caption,
        names=names or (caption,),
        licence="none",
        class_name=class_name,
        boilerplate=boilerplate,
        clean=clean,
        picture=b"",
    )


@pytest.mark.parametrize(
    "names",
    [
        ("man running", "woman running", "person running"),
        ("red apple", "green apple", "Apple 02", "apples"),
        ("left arrow", "up arrow", "arrow_down"),
        ("small house", "big house", "house"),
        ("mermaid", "merman", "merperson"),
        ("one o’clock", "ten-thirty"),  # noqa: RUF001
        ("boy", "girl", "child", "man"),
        ("flag of Peru", "Peru", "peru flag"),
        ("Cherry Pie (BW)", "cherry pie"),
    ],
)
def test_base_name_when_names_differ_in_a_variant_only_then_they_are_one(names: Sequence[str]) -> None:
    assert len({base_name(name) for name in names}) == 1, [base_name(name) for name in names]


@pytest.mark.parametrize(("first", "second"), [("apple", "pear"), ("red", "blue"), ("flag of Peru", "flag of Chad")])
def test_base_name_when_things_differ_then_they_stay_apart(first: str, second: str) -> None:
    assert base_name(first) != base_name(second)


def test_base_name_when_the_name_is_a_number_then_it_is_empty() -> None:
    assert base_name("00012") == ""


def test_group_candidates_when_linked_in_different_ways_then_groups_are_transitive() -> None:
    items = [
        candidate("a dog", "dog"),
        candidate("A  dog!", "hound"),  # the caption of 0
        candidate("a big hound", "hound"),  # the name of 1
        candidate("fluffy", "fluffy"),  # looks like 2
        candidate("a cat", "cat"),
    ]
    assert group_candidates(items, [(2, 3)]) == [0, 0, 0, 0, 4]


def test_group_candidates_when_the_caption_is_boilerplate_then_it_joins_nothing() -> None:
    items = [candidate("Lemon theme", name, boilerplate=True) for name in ("printer", "mouse", "printer 2", "17")]
    assert group_candidates(items, []) == [0, 1, 0, 3]


def gallery(per_class: int, number: int) -> tuple[list[Candidate], list[int], list[int]]:
    items = [candidate(f"animal {i}", class_name="animal") for i in range(20)]
    items += [candidate(f"thing {i}", clean=i % 2 == 0) for i in range(40)]
    groups = [*range(0, 20), *(20 + 2 * (i // 2) for i in range(40))]
    chosen = choose_gallery(
        items, groups, number=number, per_class=per_class, max_group=2, class_share=0.6, rng=Random(3)
    )
    return items, groups, chosen


def test_choose_gallery_when_drawn_then_one_clean_image_of_each_group() -> None:
    items, groups, chosen = gallery(per_class=8, number=20)
    assert len({groups[i] for i in chosen}) == len(chosen) == 20
    assert all(items[i].clean for i in chosen)
    assert sum(items[i].class_name == "animal" for i in chosen) == 8


def test_choose_gallery_when_a_class_is_small_then_a_part_stays_in_training() -> None:
    items, _, chosen = gallery(per_class=19, number=20)
    assert sum(items[i].class_name == "animal" for i in chosen) == 12


def test_choose_gallery_when_seeded_alike_then_equal() -> None:
    assert gallery(8, 20)[2] == gallery(8, 20)[2]


def test_choose_gallery_when_too_few_groups_then_says_how_many() -> None:
    with pytest.raises(ValueError, match="only 28 groups can be held out, 300 are wanted"):
        gallery(8, 300)
