"""The other style's rule: what the other splits know is left out, and every drawing is accounted for."""

from __future__ import annotations

import io
from random import Random

import pytest
from PIL import Image, ImageDraw

from examples.build_data import build, other_style
from examples.build_data.candidates import Candidate, Tally
from examples.build_data.icons import caption_of
from examples.build_data.items import Item


def disc(number: int) -> bytes:
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((0, 0, 20 + 15 * number, 95), fill=(number * 40 % 256, 80, 200))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def items_of(*captions: str, class_name: str | None = None) -> list[Item]:
    found = [
        Candidate(
            source="icons",
            file=str(number),
            caption=caption,
            names=(caption,),
            licence="none",
            class_name=class_name,
            boilerplate=False,
            clean=True,
            picture=disc(number),
        )
        for number, caption in enumerate(captions)
    ]
    return build.load(found, {"icons": Tally(seen=len(found))})


def test_open_items_when_another_split_has_the_name_its_variant_or_the_image_then_are_left_out() -> None:
    items, tally = items_of("red fox", "two wagons", "narwhal", "kettle"), Tally(seen=4)
    known = other_style.names_of({"caption": "Red fox, animal", "source": "openclipart", "file": "a/wagon_02"})
    closed = other_style.Taken(frozenset(known), [items[2].image])
    left = other_style.open_items(items, closed, {"icons": tally})
    assert [item.candidate.caption for item in left] == ["kettle"]
    assert tally.dropped == {"name_of_another_split": 2, "looks_like_another_split": 1}


def test_groups_when_variants_then_one_stays_and_the_rest_is_counted() -> None:
    items, tally = items_of("wagon", "two wagons", "kettle"), Tally(seen=3)
    left = other_style.one_of_each_group(items, {"icons": tally}, Random(0))
    assert len(left) == tally.kept == 2


def test_draw_when_a_class_is_small_then_its_images_have_none_and_the_seed_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(other_style, "NUMBER", 3)
    monkeypatch.setattr(other_style, "MIN_CLASS", 2)
    items = [*items_of("wagon", "kettle", class_name="tool"), *items_of("narwhal", class_name="animal")]
    tallies = [Tally(seen=3), Tally(seen=3)]
    first, second = (other_style.draw(items, {"icons": tally}, Random(1)) for tally in tallies)
    assert first == second
    assert first[1] == ["tool"]
    assert {item.candidate.caption: item.candidate.class_name for item in first[0]} == {
        "wagon": "tool",
        "kettle": "tool",
        "narwhal": None,
    }
    monkeypatch.setattr(other_style, "NUMBER", 4)
    with pytest.raises(ValueError, match="only 3 groups are left, 4 are wanted"):
        other_style.draw(items, {"icons": Tally(seen=3)}, Random(1))


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("smart-watch-square", "smart watch square"),
        ("wrench-2-duo", "wrench"),
        ("dragon-zodiac", "dragon"),
        ("building-three", "building"),
        ("three-d-glasses", "three d glasses"),
        ("man-12", "man"),
    ],
)
def test_caption_when_a_name_has_counters_then_its_words_remain(name: str, caption: str) -> None:
    assert caption_of(name) == caption
