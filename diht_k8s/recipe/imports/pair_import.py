"""The import of image-caption pairs as shards for `spec.data.sources`: OUTPUT/{00000..N}.tar, and last COMMITTED.json.

A caption makes a pair; an image with several captions is stored once for each, and all of them lie in the same shard, or
once with all of them as `captions` of its .json, from which a training draws (`train.captions: Drawn`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.recipe.imports.records import ImageRecord, RecordSource, encode_image
from diht_k8s.recipe.imports.resumable_import import MARKER, ImportTarget, json_bytes, resume, sum_bad, write_missing
from diht_k8s.recipe.imports.shard_writer import Packed, shard_bounds
from diht_k8s.recipe.shards.images import BadImageError, decode
from diht_k8s.recipe.shards.samples import make_sample
from diht_k8s.recipe.shards.storage import Storage

VERSION: Final = 1
DIGITS: Final = 5
"""Of a shard's number; larger numbers have more."""

Captions = Literal["each", "first", "list"]
Json = dict[str, Any]


@dataclass(frozen=True)
class PairImport:
    """Where an import of pairs goes, and how."""

    output: str
    per_shard: int = 1000
    captions: Captions = "each"
    """of an image with several: a pair for each, a pair for the first, or one pair with the list of them."""
    replace: bool = False


def import_pairs(
    source: RecordSource,
    order: PairImport,
    storage: Storage,
    begin: Callable[[int, int], object],
    advance: Callable[[], object],
) -> Json:
    """Write the pairs, or what an interrupted import has left of them; the content of the marker.

    Args:
        source: what is imported.
        order: where to, and how.
        storage: where the output is.
        begin: called once with the number of records and how many of them are already there.
        advance: called after each record.

    Raises:
        UserError: the output holds something else.
        DataError: no record can be used.
    """
    parts = shard_bounds(source.total, order.per_shard)
    config: Json = {
        "version": VERSION,
        "kind": source.kind,
        "records": source.total,
        "source": source.fingerprint,
        "shards": len(parts),
        "captions": order.captions,
    }
    target = ImportTarget(order.output, lambda number: f"{number:0{DIGITS}d}.tar", replace=order.replace)
    found, done = resume(storage, target, config, parts, begin)
    if found is not None:
        return found
    pack = partial(pack_pairs, captions=order.captions)
    facts = write_missing(storage, target, source, parts, done, advance, pack=pack, empty_shards=True)
    bad = sum_bad(facts)
    if not any(each.samples for each in facts):
        reasons = "; ".join(f"{each['count']} {reason}, for example {each['example']}" for reason, each in bad.items())
        raise DataError(f"none of the {source.total} pairs can be used: {reasons}")
    marker = {
        "schema_version": 1,
        "config": config,
        "type": "Pairs",
        "kind": source.kind,
        "records": source.total,
        "samples": sum(each.samples for each in facts),
        "bad": bad,
        "shards": [{"name": target.name(n), **each.to_json()} for n, each in enumerate(facts) if each.samples],
        "notes": list(source.notes),
    }
    storage.write_bytes(join(order.output, MARKER), json_bytes(marker))
    return marker


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
    suffix, image = encode_image(record, check=decode)
    taken = record.captions if captions == "each" else record.captions[:1]
    meta = {key: value for key, value in record.meta.items() if key != "uid" or len(taken) == 1}
    if captions == "list" and len(record.captions) > 1:
        meta["captions"] = [" ".join(caption.split()) for caption in record.captions]
    found = [_members(suffix, image, caption, meta) for caption in taken]
    return [make_sample("pair", members).problem or members for members in found]


def _members(suffix: str, image: bytes, caption: str, meta: Mapping[str, Any]) -> dict[str, bytes]:
    members = {suffix: image, "txt": " ".join(caption.split()).encode(errors="surrogateescape")}
    if meta:
        members["json"] = json.dumps(meta, sort_keys=True).encode()
    return members
