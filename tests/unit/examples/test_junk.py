"""Junk on top of the demo's pool: as many of each kind as asked, each a copy that differs where its kind says."""

from __future__ import annotations

from random import Random

import pytest
from PIL import Image, ImageDraw, ImageFont

from examples.build_data.candidates import Candidate
from examples.build_data.items import Item, fields_of
from examples.build_data.junk import COUNTS, junk_pairs
from examples.build_data.pictures import encode
from examples.build_data.shards import Pair

FOREIGN = {"003": ["Tisch aus Holz"], "004": ["table en bois"]}


def items_of(count: int) -> list[Item]:
    found: list[Item] = []
    for number in range(count):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).ellipse((0, 0, 95, 95), fill=(number * 7 % 256, 80, 200))
        found.append(
            Item(
                candidate=Candidate(
                    source="test",
                    file=f"{number:03d}",
                    caption=f"wooden table {number}",
                    names=(),
                    licence="none",
                    class_name=None,
                    boilerplate=False,
                    clean=True,
                    picture=b"",
                ),
                image=image,
            )
        )
    return found


def junk(counts: dict[str, int], seed: int = 4) -> list[Pair]:
    font = ImageFont.load_default(size=20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    items = items_of(30)
    return junk_pairs(items, list(range(30)), [font], FOREIGN, Random(seed), counts)


@pytest.mark.parametrize("kind", COUNTS)
def test_junk_when_made_then_a_copy_that_differs_where_its_kind_says(kind: str) -> None:
    items = {item.candidate.file: item for item in items_of(30)}
    pairs = junk({kind: 2})
    assert [pair.fields["junk"] for pair in pairs] == [kind, kind]
    for pair in pairs:
        item = items[pair.fields["file"]]
        own = fields_of(item.candidate, int(pair.fields["file"]))
        changed = {name for name, value in pair.fields.items() if own.get(name) != value} - {"junk"}
        of_image = kind in ("watermark", "text only")
        assert changed == {"uid", "painted" if of_image else "caption"}
        assert (pair.picture != encode(item.image)) == of_image


def test_junk_when_a_foreign_name_is_wanted_then_of_the_same_image() -> None:
    assert {(pair.fields["file"], pair.fields["caption"]) for pair in junk({"foreign caption": 2})} == {
        (file, names[0]) for file, names in FOREIGN.items()
    }


def test_junk_when_seeded_alike_then_equal_with_identities_of_its_own() -> None:
    counts = {"file name": 5, "boilerplate": 5, "watermark": 5}
    assert junk(counts) == junk(counts)
    assert len({pair.fields["uid"] for pair in junk(counts)}) == 15


def test_junk_when_too_few_images_serve_then_says_of_which_kind() -> None:
    with pytest.raises(ValueError, match="only 2 items serve for junk of the kind foreign caption, 3 are wanted"):
        junk({"foreign caption": 3})
