"""Records into WebDataset shards: every shard appears whole, and the same records give the same bytes."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.imports.records import Record, Source, encoded
from diht_k8s.recipe.shards.images import BadImageError
from diht_k8s.recipe.shards.samples import ContentDigest, write_samples
from diht_k8s.recipe.shards.storage import Storage

THREADS: Final = 4
AHEAD: Final = 32
"""Images that are read before their turn."""


@dataclass
class ShardFacts:
    """What a shard holds, and what was left out of it."""

    samples: int = 0
    size: int = 0
    sha256: str = ""
    bad: dict[str, Any] = field(default_factory=dict)
    """reason -> `count`, and the `example` that came first."""

    def add_bad(self, reason: str, place: str, count: int = 1) -> None:
        """Count a record that was left out."""
        found = self.bad.setdefault(reason, {"count": 0, "example": place})
        found["count"] += count

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def bounds(total: int, per_shard: int) -> list[tuple[int, int]]:
    """First record of each shard and the one after its last; sizes differ by at most one, none is above `per_shard`."""
    shards = max(1, -(-total // per_shard))
    edges = [total * shard // shards for shard in range(shards + 1)]
    return list(itertools.pairwise(edges))


def write_shard(
    storage: Storage, uri: str, source: Source, start: int, stop: int, advance: Callable[[], object]
) -> ShardFacts:
    """Write the records of a range as one shard; records whose image cannot be used are counted and left out.

    Args:
        storage: where the shard goes.
        uri: its name.
        source: of the records.
        start: the first record.
        stop: the one after the last.
        advance: called after each record.

    Raises:
        DataError: no record of the range can be used.
    """
    facts, digest = ShardFacts(), ContentDigest()

    def samples() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        for number, (record, image) in enumerate(_encoded_ahead(source.read(start, stop)), start=start):
            advance()
            if isinstance(image, BadImageError):
                facts.add_bad(image.reason, record.place)
                continue
            facts.samples += 1
            yield f"s{number:07d}", _members(record, *image)
        if not facts.samples:
            reason, first = next(iter(facts.bad.items()), ("no records", {"example": source.kind}))
            raise DataError(
                f"none of the images {start} to {stop - 1} can be used ({reason}, for example {first['example']}): "
                "check the path and fetch the files again"
            )

    write_samples(storage, uri, samples(), digest=digest)
    facts.size, facts.sha256 = digest.size, digest.sha256
    return facts


def _members(record: Record, suffix: str, image: bytes) -> dict[str, bytes]:
    members = {suffix: image}
    if record.label is not None:
        members["cls"] = str(record.label).encode()
    if record.captions:
        members["txt"] = "\n".join(" ".join(caption.split()) for caption in record.captions).encode()
    if record.meta:
        members["json"] = json.dumps(record.meta, ensure_ascii=False, sort_keys=True).encode()
    return members


def _encoded_ahead(records: Iterator[Record]) -> Iterator[tuple[Record, tuple[str, bytes] | BadImageError]]:
    """Records with their images, in order; a few images are read and checked in threads before their turn."""
    waiting: deque[tuple[Record, Future[tuple[str, bytes] | BadImageError]]] = deque()
    with ThreadPoolExecutor(THREADS, "import") as pool:
        try:
            for record in records:
                waiting.append((record, pool.submit(_encoded_or_bad, record)))
                if len(waiting) == AHEAD:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _encoded_or_bad(record: Record) -> tuple[str, bytes] | BadImageError:
    try:
        return encoded(record)
    except BadImageError as error:
        return error
