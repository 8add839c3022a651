"""Image-caption pairs as shards for `spec.data.sources`: OUTPUT/{00000..N}.tar, and last COMMITTED.json.

A caption makes a pair; an image with several captions is stored once for each, and all of them lie in the same shard,
or once with all of them as `captions` of its .json, from which a training draws (`train.captions: Drawn`). Existing
shards, as img2dataset and others write them, are checked and taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from diht_k8s.api.errors import DataError
from diht_k8s.data.imports.provenance import SOURCE_PATH, SOURCE_ROW, storable_path
from diht_k8s.data.imports.records import ImageRecord, RecordSource, Tally
from diht_k8s.data.imports.resumable_import import ImportPlan, ImportTarget, run_import
from diht_k8s.data.imports.shard_writer import Packed, encode_image
from diht_k8s.data.shards.images import BadImageError
from diht_k8s.data.shards.samples import DamagedShardError, make_sample, read_samples, stated_successes
from diht_k8s.data.shards.storage import Storage

DIGITS: Final = 5
"""Of a shard's number; larger numbers have more."""

Captions = Literal["each", "first", "list"]
Json = dict[str, Any]


@dataclass(frozen=True)
class PairImport(ImportPlan):
    """Where an import of pairs goes, and how."""

    captions: Captions = "each"
    """of an image with several: a pair for each, a pair for the first, or one pair with the list of them."""


def import_pairs(
    source: RecordSource,
    order: PairImport,
    storage: Storage,
    begin: Callable[[int, int], object],
    advance: Callable[[], object],
) -> Json:
    """Write the pairs, or what an interrupted import has left of them; the content of the marker (see `run_import`)."""
    target = ImportTarget(
        name=lambda number: f"{number:0{DIGITS}d}.tar",
        pack=partial(pack_pairs, captions=order.captions),
        config={"captions": order.captions},
        facts={"type": "Pairs", "records": source.total},
        empty_shards=True,
    )
    return run_import(source, order, target, storage, begin, advance)


def pack_pairs(record: ImageRecord, *, captions: Captions) -> Packed:
    """The samples of a record, as the stages read them; a reason in place of each that is bad.

    Args:
        record: an image with its captions.
        captions: which of several captions make pairs.

    Raises:
        BadImageError: the record or its image cannot be used.
    """
    if record.problem is not None:
        raise BadImageError(record.problem)
    if not record.captions:
        raise BadImageError("caption_missing")
    suffix, image = encode_image(record, strict=True)
    taken = record.captions if captions == "each" else record.captions[:1]
    meta = {**record.columns, **record.meta, **_origin(record)}
    if len(taken) > 1:
        meta.pop("uid", None)  # it names the image: each of its pairs needs its own
    if captions == "list" and len(record.captions) > 1:
        meta["captions"] = [" ".join(caption.split()) for caption in record.captions]
    found = [_members(suffix, image, caption, meta) for caption in taken]
    return [make_sample("pair", members).problem or members for members in found]


def _origin(record: ImageRecord) -> Json:
    named = {SOURCE_PATH: storable_path(record.path), SOURCE_ROW: storable_path(record.row)}
    return {name: value for name, value in named.items() if value}


def _members(suffix: str, image: bytes, caption: str, meta: Mapping[str, Any]) -> dict[str, bytes]:
    # a lone surrogate becomes bytes that are no UTF-8, and the caption is counted as such
    members = {suffix: image, "txt": " ".join(caption.split()).encode(errors="surrogatepass")}
    if meta:
        try:
            members["json"] = json.dumps(meta, sort_keys=True).encode()
        except (ValueError, RecursionError) as error:
            raise BadImageError("json_unreadable") from error
    return members


NOTES: Final = 10
"""A person needs a few of them."""


def check_shards(paths: Sequence[Path], storage: Storage, advance: Callable[[], object]) -> dict[str, Any]:
    """Read each shard once; what they hold, in the form of an import's marker. Images are not decoded.

    Args:
        paths: of the shards.
        storage: that reads them.
        advance: called after each shard.

    Raises:
        DataError: a shard is damaged, or no sample can be used.
    """
    samples, bad, notes, damaged = 0, Tally(), list[str](), list[DamagedShardError]()
    for path in paths:
        delivered = 0
        try:
            for sample in read_samples(storage, str(path)):
                delivered += 1
                if sample.problem is None:
                    samples += 1
                else:
                    bad.add(sample.problem, f"{path} {sample.key}")
        except DamagedShardError as error:
            damaged.append(error)
        else:
            notes += _differences(path, delivered)
        advance()
    if damaged:
        more = f" (and {len(damaged) - 1} more damaged shards)" if len(damaged) > 1 else ""
        raise DataError(f"{damaged[0]}{more}")
    if not samples:
        reasons = "; ".join(f"{each['count']} {reason}, for example {each['example']}" for reason, each in bad.items())
        raise DataError(f"none of the samples can be used: {reasons}")
    return {
        "type": "Pairs",
        "kind": "shards",
        "samples": samples,
        "bad": dict(sorted(bad.items())),
        "shards": [{"name": path.name} for path in paths],
        "notes": notes[:NOTES],
    }


def _differences(path: Path, delivered: int) -> list[str]:
    """A note where img2dataset states another number of samples for a shard."""
    stats = path.with_name(f"{path.name.partition('.')[0]}_stats.json")
    if not stats.is_file():
        return []
    stated = stated_successes(stats.read_bytes())
    if stated is None:
        return [f"{stats} cannot be read"]
    return [] if stated == delivered else [f"{path} holds {delivered} samples, but {stats.name} says {stated}"]
