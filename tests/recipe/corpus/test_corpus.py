"""The corpus of the evidence: names, captions, splits, and the whole build from a small package."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from benchmarks.corpus import build as building
from benchmarks.corpus.captions import Look, captions_of, with_article
from benchmarks.corpus.icon_sets import DEVELOPMENT_STYLE, HELD_OUT_STYLE, ICON_SETS, Style
from benchmarks.corpus.names import parse_name
from benchmarks.corpus.splits import split_of
from diht_k8s.stages.filter.fingerprints import fingerprint


@pytest.mark.parametrize(
    ("name", "style", "suffixes", "thing", "drawn"),
    [
        ("calendar-add-24-filled", "line", ["24-filled", "24-regular"], "calendar add", "solid"),
        ("calendar-add-24-regular", "line", ["24-filled", "24-regular"], "calendar add", "line"),
        ("cash-deposit-duotone-bold", "line", ["duotone-bold", "outline-bold"], "cash deposit", "duotone"),
        ("folder-plus-outline", "line", [], "folder plus", "line"),
        ("heart-2-fill", "line", ["fill", "line"], "heart", "solid"),
        ("barber-shop", "solid", [], "barber shop", "solid"),
        ("woman-cook-medium-light-skin-tone", "emoji", [], "woman cook", "emoji"),
        ("man-pilot-dark", "emoji", [], "man pilot", "emoji"),
        ("light-bulb", "emoji", [], "light bulb", "emoji"),
        ("bold-tree", "hand-drawn", [], "bold tree", "hand-drawn"),
    ],
)
def test_name_when_it_tells_a_thing_then_its_marks_of_variants_go_and_tell_the_style(
    name: str, style: Style, suffixes: list[str], thing: str, drawn: Style
) -> None:
    parsed = parse_name(name, style, suffixes)
    assert parsed is not None
    assert (parsed.thing, parsed.style) == (thing, drawn)


@pytest.mark.parametrize("name", ["a-b", "brand-denodo", "youtube-logo-bold", "123", "filled", "keycap-7", "café-noir"])
def test_name_when_it_tells_no_thing_then_is_left_out(name: str) -> None:
    assert parse_name(name, "line", ["bold"]) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("apple", "an apple"),
        ("red apple", "a red apple"),
        ("scissors", "scissors"),
        ("glass", "a glass"),
        ("octopus", "an octopus"),
        ("orange outline of scissors", "an orange outline of scissors"),
    ],
)
def test_article_when_given_words_then_fits_them(words: str, expected: str) -> None:
    assert with_article(words) == expected


def test_captions_when_something_was_drawn_then_one_says_all_of_it_and_none_says_what_was_not() -> None:
    look = Look("alarm clock", "line", "red", "yellow", ("timer",))
    for seed in range(20):
        found = captions_of(look, Random(seed))
        assert len(found) == 3
        assert any(caption.startswith("a red ") and caption.endswith("on a yellow background") for caption in found)
        assert any("also called timer" in caption for caption in found)
        assert all("alarm clock" in caption for caption in found)
    plain = captions_of(Look("alarm clock", "emoji", None, "white"), Random(0))
    assert len(plain) == 2
    assert not any("background" in caption for caption in plain)


def test_split_when_styles_are_held_out_then_no_other_split_has_them_and_concepts_stay_together() -> None:
    concepts = [f"thing {number}" for number in range(2000)]
    splits = {
        style: [split_of(concept, style) for concept in concepts] for style in ("line", "emoji", "pixel", "hand-drawn")
    }
    assert splits["line"] == splits["emoji"]
    assert set(splits[HELD_OUT_STYLE]) == {"heldout_style", None}
    assert set(splits[DEVELOPMENT_STYLE]) == {"development_style", None}
    shares = [splits["line"].count(split) / len(concepts) for split in ("development", "heldout_concepts")]
    assert shares == pytest.approx([0.04, 0.08], abs=0.02)
    assert {splits["line"][n] for n, split in enumerate(splits[HELD_OUT_STYLE]) if split} == {"train"}


SHAPES = [
    f'<path fill="currentColor" d="M{n % 7} {n % 5}h{6 + n % 9}v{4 + n % 11}l-{n % 4} {1 + n % 6}z"/>'
    for n in range(99)
]


def package(folder: Path) -> Path:
    """Two sets of a package, one of them in the held-out style; every name occurs in both."""
    (folder / "json").mkdir(parents=True)
    for name, shift in (("ph", 0), ("pixel", 1)):
        icons = {
            f"thing{chr(97 + n // 26)}{chr(97 + n % 26)}": {"body": SHAPES[n] + SHAPES[(n * 7 + shift) % 99]}
            for n in range(60)
        }
        icons |= {f"{key}-bold": value for key, value in icons.items()}
        icons |= {"broken": {"body": "<path"}, "empty-box": {"body": "<g/>"}, "a-b": {"body": SHAPES[0]}}
        document = {
            "icons": icons,
            "suffixes": {"": "", "bold": "Bold"},
            "width": 24,
            "height": 24,
            "aliases": {},
            "info": {"license": {"spdx": "MIT"}, "palette": False},
        }
        (folder / "json" / f"{name}.json").write_text(json.dumps(document))
    return folder


def test_corpus_when_built_then_every_icon_is_accounted_for_and_no_split_shows_anothers_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "ICON_SETS", {name: ICON_SETS[name] for name in ("ph", "pixel")})
    corpus = building.build(package(tmp_path), workers=1)
    assert sum(tally.seen for tally in corpus.tallies.values()) == 246
    assert sum(map(len, corpus.pairs.values())) == sum(tally.kept for tally in corpus.tallies.values())
    assert {"variant_of_another", "names_no_thing"} <= set(corpus.tallies["ph"].dropped)
    train, styled = corpus.pairs["train"], corpus.pairs["heldout_style"]
    assert {pair.fields["source"] for pair in train} == {"ph"}
    assert {pair.fields["source"] for pair in styled} == {"pixel"}
    assert len(styled) > 20
    assert all(split_of(pair.fields["concept"], "line") == "train" for pair in styled)
    assert [pair.fields for pair in building.build(tmp_path, workers=1).pairs["train"]] == [
        pair.fields for pair in train
    ]
    with Image.open(io.BytesIO(train[0].picture)) as image:
        assert image.size == (64, 64)
        assert fingerprint(image).any()
