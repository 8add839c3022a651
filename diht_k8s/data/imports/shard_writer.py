"""The writer of WebDataset shards from records: every shard appears whole, and the same records give the same bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.data.imports.image_bytes import encode_image
from diht_k8s.data.imports.records import ImageRecord, RecordSource
from diht_k8s.data.imports.source_files import LINKS_ADVICE, OUTSIDE
from diht_k8s.data.imports.tally import Tally
from diht_k8s.data.shards.images import BadImageError, prefetch
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import TarDigest, write_samples

THREADS: Final = 4
AHEAD: Final = 32
"""Images that are read before their turn."""


Rejected = Callable[[ImageRecord, str], object]
"""Told of each record of which nothing is stored, in their order, and why."""
Packed = Sequence[Mapping[str, bytes] | str]
"""The samples of a record, suffix -> content; a text in place of one is the reason why it is bad."""
Pack = Callable[[ImageRecord], Packed]


@dataclass
class ShardFacts:
    """Contents of a shard, and the records left out of it by reason."""

    samples: int = 0
    images: int = 0
    """records of which a sample is stored."""
    size: int = 0
    sha256: str = ""
    bad: Tally = field(default_factory=Tally)
    """records of which nothing is stored."""
    bad_captions: Tally = field(default_factory=Tally)
    """captions of images that are stored with others."""

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> ShardFacts:
        """Facts from plain values."""
        tallies = {name: Tally(document[name]) for name in ("bad", "bad_captions")}
        return cls(**{**document, **tallies})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class EmptyShardError(DataError):
    """No record of a shard can be used."""

    facts = ShardFacts()
    """what was left out, by reason."""


def pack_for_benchmark(record: ImageRecord) -> Packed:
    """One sample a record, with its class and all its captions.

    Raises:
        BadImageError: the record or its image cannot be used.
    """
    if record.problem is not None:
        raise BadImageError(record.problem)
    return [_members(record, *encode_image(record))]


def shard_bounds(total: int, per_shard: int) -> list[tuple[int, int]]:
    """First record of each shard and the one after its last; sizes differ by at most one, none is above `per_shard`."""
    shards = max(1, -(-total // per_shard))
    edges = [total * shard // shards for shard in range(shards + 1)]
    return list(itertools.pairwise(edges))


def write_shard(
    storage: Storage,
    uri: str,
    source: RecordSource,
    start: int,
    stop: int,
    advance: Callable[[], object],
    *,
    pack: Pack = pack_for_benchmark,
    threads: int = THREADS,
    rejected: Rejected | None = None,
) -> ShardFacts:
    """Write the records of a range as one shard; records whose image cannot be used are counted and left out.

    Args:
        storage: where the shard goes.
        uri: its name.
        source: of the records.
        start: the first record.
        stop: the one after the last.
        advance: called after each record.
        pack: makes the samples of a record.
        threads: that read and pack.
        rejected: is told of what is left out.

    Raises:
        EmptyShardError: no record of the range can be used.
        DataError: the reader gave other records than the range has, or the tar holds other members than were written.
    """
    facts, digest, members_of = ShardFacts(), TarDigest(), list[int]()
    prepare, ahead = partial(_pack_or_reason, pack=pack), max(AHEAD, 4 * threads)
    packed_ahead = prefetch(source.read(start, stop), prepare, ahead=ahead, threads=threads)

    def samples() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        for number, (record, packed) in enumerate(packed_ahead, start=start):
            advance()
            _count(facts, record, packed, rejected)
            for place, members in enumerate(packed):
                if not isinstance(members, str):
                    members_of.append(len(members))
                    yield f"s{number:07d}{f'-{place}' if len(packed) > 1 else ''}", members
        if (read := facts.images + facts.bad.total) != stop - start:
            raise DataError(
                f"{uri}: {stop - start} records of {source.kind} were to come, {read} came: leave SOURCE alone during "
                "an import, and start it again"
            )
        if not facts.samples:
            raise _empty(facts, source, start, stop)

    write_samples(storage, uri, samples(), digest=digest)
    if digest.starts(members_of) is None:
        raise DataError(f"{uri} does not hold the {sum(members_of)} files that were written into it: start it again")
    facts.size, facts.sha256 = digest.size, digest.sha256
    return facts


def _count(facts: ShardFacts, record: ImageRecord, packed: Packed, rejected: Rejected | None) -> None:
    problems = [members for members in packed if isinstance(members, str)]
    if len(problems) == len(packed):
        facts.bad.add(problems[0], record.place)
        if rejected is not None:
            rejected(record, problems[0])
        return
    facts.images += 1
    facts.samples += len(packed) - len(problems)
    for problem in problems:
        facts.bad_captions.add(problem, record.place)


def _members(record: ImageRecord, suffix: str, image: bytes) -> dict[str, bytes]:
    members = {suffix: image}
    if record.label is not None:
        members["cls"] = str(record.label).encode()
    if record.captions:
        captions = "\n".join(" ".join(caption.split()) for caption in record.captions)
        members["txt"] = _utf8(captions, "caption_not_utf8")
    if record.meta:
        members["json"] = _utf8(json.dumps(record.meta, ensure_ascii=False, sort_keys=True), "json_unreadable")
    return members


def _utf8(text: str, problem: str) -> bytes:
    """A text as a shard holds it; lone surrogates stand for bytes that are no UTF-8, or for half a character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadImageError(problem) from error


def _empty(facts: ShardFacts, source: RecordSource, start: int, stop: int) -> EmptyShardError:
    reason, first = next(iter(facts.bad.items()), ("no records", {"example": source.kind}))
    advice = LINKS_ADVICE if OUTSIDE in reason else "check the path and fetch the files again"
    error = EmptyShardError(
        f"none of the images {start} to {stop - 1} can be used ({reason}, for example {first['example']}): {advice}"
    )
    error.facts = facts
    return error


def _pack_or_reason(record: ImageRecord, pack: Pack) -> Packed:
    try:
        return pack(record)
    except BadImageError as error:
        return [error.reason]
