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
from diht_k8s.api.layout import join
from diht_k8s.data.imports.provenance import SOURCE_PATH, SOURCE_ROW, storable_path
from diht_k8s.data.imports.records import LINKS_ADVICE, OUTSIDE, ImageRecord, RecordSource, Tally
from diht_k8s.data.imports.resumable_import import (
    MARKER,
    ImportTarget,
    json_bytes,
    renewed,
    resume,
    seen_json,
    seen_units,
    settle,
    sole_writer,
    write_missing,
)
from diht_k8s.data.imports.shard_writer import HEIF_MISSING, Packed, ShardFacts, encode_image, heif_advice, shard_bounds
from diht_k8s.data.shards.images import BadImageError
from diht_k8s.data.shards.samples import DamagedShardError, make_sample, read_samples, stated_successes
from diht_k8s.data.shards.storage import Storage

VERSION: Final = 2
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
    target = ImportTarget(order.output, lambda number: f"{number:0{DIGITS}d}.tar", replace=order.replace)
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
        )
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
