"""Thumbnails for the report, as data URIs: the page stays one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Final

from PIL import Image

from diht_k8s.data.shards.images import images_of
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import until_damage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage

SIDE: Final = 96
QUALITY: Final = 80
MAX_SHARDS: Final = 32
"""Images of a report are taken from at most this many shards: each is read from its start."""


def thumbnail(image: Image.Image) -> str:
    """The image as a WebP data URI, no side above 96 pixels."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnails(storage: Storage, wanted: Iterable[tuple[Shard, str]]) -> dict[str, str]:
    """Uid -> data URI of the images at (shard, uid); those beyond `MAX_SHARDS` shards are left out."""
    by_shard: dict[Shard, set[str]] = {}
    for shard, uid in wanted:
        if shard in by_shard or len(by_shard) < MAX_SHARDS:
            by_shard.setdefault(shard, set()).add(uid)
    return {
        uid: thumbnail(image)
        for shard, uids in by_shard.items()
        for uid, image in images_of(until_damage(read_pairs(storage, shard)), uids)
    }
