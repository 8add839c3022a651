"""Write pairs as gzip'd WebDataset tars whose bytes depend on nothing but the pairs: no times, owners or names."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One sample: encoded image and what its JSON says."""

    picture: bytes
    fields: dict[str, Any]


def shard_bytes(pairs: Iterable[tuple[str, Pair]]) -> bytes:
    """A gzip'd tar with the members KEY.json and KEY.webp of each (key, pair)."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for key, pair in pairs:
            text = json.dumps(pair.fields, ensure_ascii=False, separators=(",", ":"))
            for suffix, data in (("json", text.encode()), ("webp", pair.picture)):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_shards(folder: Path, pairs: Sequence[Pair], *, number: int) -> int:
    """Write the pairs to `number` shards of nearly equal size, 00000.tar.gz and up; returns the bytes written.

    Keys count through all shards, so that they are unique in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar.gz"):
        old.unlink()
    keyed = [(f"{index:06d}", pair) for index, pair in enumerate(pairs)]
    bounds = [round(len(keyed) * shard / number) for shard in range(number + 1)]
    total = 0
    for shard in range(number):
        data = shard_bytes(keyed[bounds[shard] : bounds[shard + 1]])
        (folder / f"{shard:05d}.tar.gz").write_bytes(data)
        total += len(data)
    return total
