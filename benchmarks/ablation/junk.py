"""Junk as the web has it, for the filter to find: real images under file names or boilerplate, and banners that show their caption.

In: pairs of the pool and a seed. Out: samples for a shard.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from diht_k8s.recipe.shards.samples import Sample

FILE_NAMES: Final = (
    "IMG_{n}.jpg", "DSC{n:05}.JPG", "image{s:03}.png", "Screenshot {y}-0{d}-1{d} at 1{d}.{s}.png", "{n}_large.gif",
    "photo-{n}-{s}.jpeg", "P{n}.JPG", "banner_{s}x{n}.png", "{n}.webp", "thumb_{n}_{s}.jpg",
)  # fmt: skip
BOILERPLATE: Final = (
    "Free shipping on orders over ${s}", "Click here to enlarge", "No image available", "Page {d} of {s}", "Add to cart",
    "Copyright {y} all rights reserved", "Sign up for our newsletter", "Buy cheap {s} pack online", "View larger image",
    "Posted by admin on 0{d}/1{d}/{y}", "Save {s}% today only", "Powered by version {d}.{s}", "Related products {s}",
    "Find great deals on new and used items", "Download free template {n}", "Item number {n} in stock", "Read more ({s} comments)",
)  # fmt: skip
BANNER_SIDE: Final = 96
LINE_LETTERS: Final = 9
MAX_LINES: Final = 3


def junk_samples(pairs: Sequence[Sample], count: int, seed: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """`count` samples, two fifths file names, two fifths boilerplate, one fifth banners."""
    rng = Random(seed)
    for number in range(count):
        pair = rng.choice(pairs)
        suffix = next(iter(set(pair.members) - {"json"}))
        image = pair.members[suffix]
        if number % 5 == 4:
            caption, image, suffix = pair.caption, _banner(pair.caption, rng), "png"
        else:
            numbers = {
                "n": rng.randint(100, 9999),
                "s": rng.randint(10, 99),
                "d": rng.randint(1, 9),
                "y": rng.randint(2005, 2022),
            }
            caption = rng.choice(FILE_NAMES if number % 5 < 2 else BOILERPLATE).format(**numbers)
        uid = f"junk-{number:05}"
        yield uid, {suffix: image, "json": json.dumps({"uid": uid, "caption": caption}).encode()}


def _banner(caption: str, rng: Random) -> bytes:
    """An image of the caption's first words on a plain ground, and of nothing else."""
    lines: list[str] = []
    for word in caption.split():
        if lines and len(lines[-1]) + len(word) < LINE_LETTERS:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    image = Image.new("RGB", (BANNER_SIDE, BANNER_SIDE), rng.choice(("white", "lightyellow", "lightblue", "mistyrose")))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines[:MAX_LINES]):
        draw.text((4, 6 + 28 * number), line, fill="black", font=ImageFont.load_default(19))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
