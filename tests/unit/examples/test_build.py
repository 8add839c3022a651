"""The builder's steps between reading and writing: every image counted, the same seed the same pairs."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageDraw

from diht_k8s.api.errors import UserError
from examples.build_data import build, emoji, openclipart, sources
from examples.build_data.candidates import Candidate, Tally
from examples.build_data.items import Item


def png(number: int) -> bytes:
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((0, 0, 95, 95), fill=(number * 7 % 256, 80, 200))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def candidate(file: str, caption: str, picture: bytes, *, clean: bool = True) -> Candidate:
    return Candidate(
        source="test",
        file=file,
        caption=caption,
        names=(caption,),
        licence="none",
        class_name="animal" if caption.startswith("dog") else None,
        boilerplate=not clean,
        clean=clean,
        picture=picture,
    )


def items_of(count: int) -> list[Item]:
    candidates = [candidate(f"{i:03d}", f"wooden table {i}", png(i)) for i in range(count)]
    return build.load(candidates, {"test": Tally(seen=count)})


def test_load_when_images_are_equal_then_the_clean_caption_stays_and_the_other_is_counted() -> None:
    tally = Tally(seen=3)
    blank = io.BytesIO()
    Image.new("RGB", (20, 20), "white").save(blank, "PNG")
    candidates = [
        candidate("a", "Lemon theme", png(1), clean=False),
        candidate("b", "a blue disc", png(1)),
        candidate("c", "nothing", blank.getvalue()),
    ]
    items = build.load(candidates, {"test": tally})
    assert [item.candidate.file for item in items] == ["b"]
    assert tally.dropped == {"exact_duplicate": 1, "blank": 1}
    assert tally.kept == len(items)


def test_cap_captions_when_one_repeats_too_often_then_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MAX_SAME_CAPTION", 3)
    tally = Tally(seen=10)
    items = build.load([candidate(f"{i}", "same" if i < 8 else "own", png(i)) for i in range(10)], {"test": tally})
    kept = build.cap_captions(items, {"test": tally}, Random(0))
    assert sorted(item.candidate.caption for item in kept) == ["own", "own", "same", "same", "same"]
    assert tally.kept == 5


def test_gallery_pairs_when_an_image_has_a_class_then_its_name_and_index_are_given() -> None:
    candidates = [candidate("a", "dog one", png(1)), candidate("b", "table", png(2))]
    items = build.load(candidates, {"test": Tally(seen=2)})
    pairs = build.gallery_pairs(items, [0, 1], ["aardvark", "animal"])
    assert (pairs[0].fields["class"], pairs[0].fields["cls"]) == ("animal", 1)
    assert not {"class", "cls"} & pairs[1].fields.keys()


@pytest.mark.parametrize(
    ("sequence", "name", "expected"),
    [
        ("🐀", "rat", "animal"),
        ("🐀\u200d⬛", "black rat", "animal"),
        ("🇵🇪", "flag: Peru", "flag"),
        ("🔘", "radio button", None),
    ],
)
def test_class_of_an_emoji_when_it_is_a_variant_then_the_first_character_decides(
    sequence: str, name: str, expected: str | None
) -> None:
    assert emoji.class_of(sequence, name, {"🐀": "animal-mammal", "🔘": "geometric"}) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("animals/birds/owl", "animal"),
        ("animals/fantasy/dragon", None),
        ("people/clothing/hats/fez", "clothing"),
        ("people/clown", "person"),
        ("tools/weapons/gun", None),
        ("office/pen", None),
    ],
)
def test_class_of_clip_art_when_folders_nest_then_the_closest_rule_wins(file: str, expected: str | None) -> None:
    assert openclipart.class_of(file) == expected


def test_collect_when_a_package_is_damaged_then_one_line_says_what_to_do(tmp_path: Path) -> None:
    for name in sources.PACKAGES:
        (tmp_path / f"{name}_1_all.deb").write_bytes(b"not a package")
    with pytest.raises(UserError, match=r"openclipart-png_1_all\.deb.* failed|dpkg-deb not found"):
        sources.collect(tmp_path, tmp_path / "unpacked")
