"""The import of image-caption pairs as shards for `spec.data.sources`: OUTPUT/{00000..N}.tar, and last COMMITTED.json.

A caption makes a pair; an image with several captions is stored once for each, and all of them lie in the same shard, or
once with all of them as `captions` of its .json, from which a training draws (`train.captions: Drawn`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.data.imports.account import seen_json, seen_units, settle
from diht_k8s.data.imports.failed_rows import FOLDER
from diht_k8s.data.imports.image_bytes import HEIF_MISSING, encode_image, heif_advice
from diht_k8s.data.imports.provenance import SOURCE_PATH, SOURCE_ROW, storable_path
from diht_k8s.data.imports.records import ImageRecord, RecordSource
from diht_k8s.data.imports.reject_list import RejectList
from diht_k8s.data.imports.resumable_import import (
    MARKER,
    ImportTarget,
    json_bytes,
    renewed,
    resume,
    sole_writer,
    write_missing,
)
from diht_k8s.data.imports.shard_writer import THREADS, Packed, ShardFacts, shard_bounds
from diht_k8s.data.imports.source_files import LINKS_ADVICE, OUTSIDE
from diht_k8s.data.imports.tally import Tally
from diht_k8s.data.shards.images import BadImageError
from diht_k8s.data.shards.samples import make_sample
from diht_k8s.data.shards.storage import Storage

VERSION: Final = 2
RETRY_THREADS: Final = 16
"""That wait for hosts."""
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
    links: tuple[str, ...] = ()
    """folders outside of the source in which its files may lie."""
    retry: bool = False
    """whether the images are downloaded: by more threads, with a list of what failed, and none need come."""


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
        RetryableError: another import writes there now.
        DataError: no record can be used, or something that was seen is not accounted for.
    """
    parts = shard_bounds(source.total, order.per_shard)
    config: Json = {
        "version": VERSION,
        "kind": source.kind,
        "records": source.total,
        "source": source.fingerprint,
        "shards": len(parts),
        "captions": order.captions,
        "links": list(order.links),
    }
    target = ImportTarget(
        order.output,
        lambda number: f"{number:0{DIGITS}d}.tar",
        replace=order.replace,
        rejects=lambda number: f"{FOLDER}/{number:0{DIGITS}d}.jsonl",
    )
    with sole_writer(storage, target, len(parts)):
        found, done = resume(storage, target, config, parts, begin)
        if found is not None:
            return renewed(storage, target, found, seen_json(seen_units(source)))
        pack = partial(pack_pairs, captions=order.captions)
        facts = write_missing(
            storage,
            target,
            source,
            parts,
            done,
            advance,
            pack=pack,
            empty_shards=True,
            threads=RETRY_THREADS if order.retry else THREADS,
            rejects=RejectList() if order.retry else None,
        )
        if not order.retry:
            _require_pairs(facts, source)
        marker = {
            "schema_version": 1,
            "config": config,
            "type": "Pairs",
            "kind": source.kind,
            "records": source.total,
            **settle(source, facts, order.output),
            "shards": [{"name": target.name(n), **each.to_json()} for n, each in enumerate(facts) if each.samples],
            "notes": list(source.notes),
        }
        storage.write_bytes(join(order.output, MARKER), json_bytes(marker))
    return marker


def _require_pairs(facts: Sequence[ShardFacts], source: RecordSource) -> None:
    if any(each.samples for each in facts):
        return
    bad = Tally()
    for each in facts:
        bad.merge(each.bad)
    reasons = "; ".join(f"{each['count']} {reason}, for example {each['example']}" for reason, each in bad.items())
    advice = [heif_advice()] if HEIF_MISSING in bad else []
    advice += [LINKS_ADVICE] if any(OUTSIDE in reason for reason in bad) else []
    raise DataError(". ".join([f"none of the {source.total} pairs can be used: {reasons}", *advice]))


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
