"""Junk as the web has it, openly labelled: copies of training pairs with a caption or an image that the filter should
drop.

In: the training pairs' items and a random generator. Out: pairs whose JSON names the kind of junk they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from examples.build_data import paint, pictures
from examples.build_data.candidates import Candidate, normalised
from examples.build_data.items import Item, fields_of
from examples.build_data.shards import Pair

COUNTS: Final = {
    "caption of another image": 400,
    "file name": 400,
    "boilerplate": 400,
    "watermark": 350,
    "text only": 250,
    "foreign caption": 200,
}
FILE_NAMES: Final = (
    "IMG_{n}.jpg",
    "DSC{n:05}.JPG",
    "image{s:03}.png",
    "Screenshot {y}-0{d}-1{d} at 1{d}.{s}.png",
    "{n}_large.gif",
    "photo-{n}-{s}.jpeg",
    "P{n}.JPG",
    "banner_{s}x{n}.png",
    "{n}.webp",
    "thumb_{n}_{s}.jpg",
)
BOILERPLATE: Final = (
    "Free shipping on orders over ${s}",
    "Click here to enlarge",
    "No image available",
    "Page {d} of {s}",
    "Add to cart",
    "Copyright {y} all rights reserved",
    "Sign up for our newsletter",
    "Buy cheap {s} pack online",
    "View larger image",
    "Posted by admin on 0{d}/1{d}/{y}",
    "Save {s}% today only",
    "Powered by version {d}.{s}",
    "Related products {s}",
    "Find great deals on new and used items",
    "Download free template {n}",
    "Item number {n} in stock",
    "Read more ({s} comments)",
)
BANNER_SIDE: Final = 96
LINE_LETTERS: Final = 9
MAX_LINES: Final = 3

Changed = tuple[Image.Image, dict[str, Any]]
"""An image and the fields that differ from those of the pair it is a copy of."""


def filled(templates: Sequence[str], rng: Random) -> str:
    """One of the templates with random numbers."""
    numbers = {
        "n": rng.randint(100, 9999),
        "s": rng.randint(10, 99),
        "d": rng.randint(1, 9),
        "y": rng.randint(2005, 2022),
    }
    return rng.choice(templates).format(**numbers)


def banner_lines(caption: str) -> list[str]:
    """The caption's first words in short lines."""
    lines: list[str] = []
    for word in caption.split():
        if lines and len(lines[-1]) + len(word) < LINE_LETTERS:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines[:MAX_LINES]


def banner(lines: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, rng: Random) -> Image.Image:
    """An image of the lines on a plain ground, and of nothing else."""
    image = Image.new("RGB", (BANNER_SIDE, BANNER_SIDE), rng.choice(("white", "lightyellow", "lightblue", "mistyrose")))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((4, 6 + 28 * number), line, fill="black", font=font)
    return image


def painted(words: Sequence[str], cap_height_px: int, font_size: int) -> dict[str, Any]:
    """What the JSON says of words in the image."""
    of = {"text": " ".join(words), "words": list(words), "cap_height_px": cap_height_px, "font_size": font_size}
    return {"painted": of}


def junk_pairs(
    items: Sequence[Item],
    group_of: Sequence[int],
    fonts: Sequence[ImageFont.FreeTypeFont],
    foreign: Mapping[str, Sequence[str]],
    rng: Random,
    counts: Mapping[str, int] = COUNTS,
) -> list[Pair]:
    """Junk of each kind; an image is copied at most once for a kind.

    Args:
        items: of the training.
        group_of: each item's group of variants.
        fonts: to paint with.
        foreign: file -> names in other languages.
        rng: decides everything that is random.
        counts: how many of each kind.

    Raises:
        ValueError: too few items serve for a kind.
    """
    captions = [item.candidate.caption for item in items]

    def of_another(item: Item) -> Changed | None:
        other = rng.choice(captions)
        same = normalised(other) == normalised(item.candidate.caption)
        return None if same else (item.image, {"caption": other})

    def watermark(item: Item) -> Changed | None:
        result = paint.paint_words(item.image, item.candidate.caption, fonts, rng)
        if result is None:
            return None
        image, found = result
        return image, painted(found.words, found.cap_height_px, found.font_size)

    def text_only(item: Item) -> Changed | None:
        lines = banner_lines(item.candidate.caption)
        fits = all(fonts[0].getlength(line) < BANNER_SIDE - 4 for line in lines)
        if not fits or not paint.runs_of_words(" ".join(lines)):
            return None
        words = " ".join(lines).split()
        return banner(lines, fonts[0], rng), painted(words, paint.cap_height(fonts[0]), int(fonts[0].size))

    def in_another_language(item: Item) -> Changed | None:
        names = foreign.get(item.candidate.file, ())
        return (item.image, {"caption": rng.choice(names)}) if names else None

    makers: dict[str, Callable[[Item], Changed | None]] = {
        "caption of another image": of_another,
        "file name": lambda item: (item.image, {"caption": filled(FILE_NAMES, rng)}),
        "boilerplate": lambda item: (item.image, {"caption": filled(BOILERPLATE, rng)}),
        "watermark": watermark,
        "text only": text_only,
        "foreign caption": in_another_language,
    }
    return [
        pair for kind, wanted in counts.items() for pair in _of_kind(kind, wanted, makers[kind], items, group_of, rng)
    ]


def _of_kind(
    kind: str,
    wanted: int,
    change: Callable[[Item], Changed | None],
    items: Sequence[Item],
    group_of: Sequence[int],
    rng: Random,
) -> list[Pair]:
    pairs: list[Pair] = []
    for index in rng.sample(range(len(items)), len(items)):
        if len(pairs) == wanted:
            break
        candidate = items[index].candidate
        changed = change(items[index])
        if changed is not None:
            image, fields = changed
            own = {"uid": uid_of(candidate, kind), "junk": kind}
            pairs.append(
                Pair(picture=pictures.encode(image), fields=fields_of(candidate, group_of[index]) | fields | own)
            )
    if len(pairs) < wanted:
        raise ValueError(f"only {len(pairs)} items serve for junk of the kind {kind}, {wanted} are wanted")
    return pairs


def uid_of(candidate: Candidate, kind: str) -> str:
    """Identity of junk, stable over rebuilds: digest of source, file and kind."""
    return hashlib.sha256(f"{candidate.source}/{candidate.file} {kind}".encode()).hexdigest()[:12]
