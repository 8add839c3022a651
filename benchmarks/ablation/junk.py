"""Junk as the web has it: file names, boilerplate, banners that show their caption."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from random import Random

from PIL import ImageFont

from diht_k8s.data.shards.samples import Sample
from examples.build_data.junk import BOILERPLATE, FILE_NAMES, banner, banner_lines, filled


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
            caption = filled(FILE_NAMES if number % 5 < 2 else BOILERPLATE, rng)
        uid = f"junk-{number:05}"
        yield uid, {suffix: image, "json": json.dumps({"uid": uid, "caption": caption}).encode()}


def _banner(caption: str, rng: Random) -> bytes:
    buffer = io.BytesIO()
    banner(banner_lines(caption), ImageFont.load_default(19), rng).save(buffer, "PNG")
    return buffer.getvalue()
