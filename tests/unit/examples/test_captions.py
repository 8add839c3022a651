"""Captions and names of the demo's data: pure rules, one table each."""

from __future__ import annotations

import pytest

from examples.build_data import emoji, openclipart


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("ferris wheel", "ferris wheel"),
        ("flag: Peru", "flag of Peru"),
        ("keycap: 5", "keycap 5"),
        ("raised hand: medium-dark skin tone", "raised hand with medium-dark skin tone"),
        ("man: red hair", "man with red hair"),
        ("man: dark skin tone, red hair", "man with dark skin tone and red hair"),
        ("woman: bald", "bald woman"),
        ("woman: light skin tone, bald", "bald woman with light skin tone"),
        ("person: beard", "person with a beard"),
        ("family: man, woman, girl", "family of a man, a woman and a girl"),
        ("kiss: woman, man", "kiss between a woman and a man"),
        (
            "kiss: man, man, light skin tone, dark skin tone",
            "kiss between a man and a man with light skin tone and dark skin tone",
        ),
    ],
)
def test_natural_caption_when_cldr_uses_a_colon_then_it_reads_as_a_phrase(name: str, caption: str) -> None:
    assert emoji.natural_caption(name) == caption


def test_read_labels_when_sets_have_ranges_and_sequences_then_every_member_has_its_label() -> None:
    labels = emoji.read_labels("# x\n[🐀-🐂{🏳\ufe0f\u200d🌈}🦁]  ;\tAnimals\t;\tanimal-mammal\n")
    assert labels == dict.fromkeys(["🐀", "🐁", "🐂", "🏳\u200d🌈", "🦁"], "animal-mammal")


def meta(title: str, description: str = "", keywords: tuple[str, ...] = ()) -> openclipart.Metadata:
    return openclipart.Metadata(
        title=title, description=description, keywords=keywords, author="", licence="", links_picture=False
    )


@pytest.mark.parametrize(
    ("metadata", "file", "repeats", "expected"),
    [
        (meta("Fern", keywords=("tree", "hash(0x8a3)", "frond")), "plants/fern", 1, ("Fern, tree, frond", False)),
        (meta("Hats", keywords=("hat", "clothing")), "people/hats", 1, ("Hats, clothing", False)),
        (meta("Lemon SVG theme", keywords=("icon",)), "computer/x", 411, ("Lemon SVG theme", True)),
        (meta("Clipart by Nicu Buculei - pear"), "food/pear2", 3, ("Clipart by Nicu Buculei - pear", True)),
        (meta("contour_chipmunk"), "animals/contour_baboon", 6, ("contour baboon", False)),
        (meta("padlock_open", keywords=("lock",)), "office/x", 1, ("padlock_open", False)),
        (meta("Tower", "A tower by the sea. It is old."), "buildings/x", 1, ("A tower by the sea", False)),
        (meta("Adult", "Face of a man"), "people/x", 1, ("Adult: Face of a man", False)),
        (meta("Ace of spades", "please write to somebody@example.org"), "cards/x", 1, ("Ace of spades", False)),
    ],
)
def test_caption_of_when_given_metadata_then_noise_stays_and_substance_is_added(
    metadata: openclipart.Metadata, file: str, repeats: int, expected: tuple[str, bool]
) -> None:
    assert openclipart.caption_of(metadata, file=file, title_repeats=repeats, description_repeats=1) == expected


@pytest.mark.parametrize(
    ("name", "author", "expected"),
    [
        ("seagull_nicu_buculei_01", "Nicu Buculei", "seagull"),
        ("leone_architetto_fran_01", "Architetto Francesco Rollandin", "leone"),
        ("ours_etienne_bersac_r", "Etienne Bersac", "ours"),
        ("signalflag_india", "", "signalflag_india"),
    ],
)
def test_without_author_when_the_name_was_cut_then_what_is_left_is_the_thing(
    name: str, author: str, expected: str
) -> None:
    assert openclipart.without_author(name, author) == expected


SVG = """<svg xmlns:xlink="http://www.w3.org/1999/xlink"><metadata><RDF><cc:Work xmlns:cc="http://web.resource.org/cc/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A  red
 apple</dc:title><dc:creator><cc:Agent><dc:title>Ann</dc:title></cc:Agent></dc:creator>
 <cc:license resource="{licence}"/></cc:Work></RDF></metadata>{body}</svg>"""


@pytest.mark.parametrize(
    ("licence", "body", "reason"),
    [
        ("http://web.resource.org/cc/PublicDomain", "", None),
        ("http://creativecommons.org/licenses/GPL/2.0/", "", "licence_gpl"),
        ("", "", "licence_missing"),
        ("http://web.resource.org/cc/PublicDomain", '<image xlink:href="C:/photo.jpg"/>', "linked_image_missing"),
        ("http://web.resource.org/cc/PublicDomain", '<image xlink:href="data:;base64,AAAA"/>', None),
    ],
)
def test_reason_to_drop_when_licence_or_link_is_bad_then_it_is_named(
    licence: str, body: str, reason: str | None
) -> None:
    metadata = openclipart.read_metadata(SVG.format(licence=licence, body=body).encode())
    assert (metadata.title, metadata.author) == ("A red apple", "Ann")
    assert openclipart.reason_to_drop("food/apple", metadata) == reason


def test_reason_to_drop_when_the_folder_holds_shapes_then_it_is_named() -> None:
    assert openclipart.reason_to_drop("shapes/stars/star1", meta("A star")) == "folder_of_shapes_or_patterns"
