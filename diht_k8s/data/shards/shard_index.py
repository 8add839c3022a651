"""The index of a shard: its number of samples and the first byte of each, so that some of them are one range request.

In: a shard that is read or written once. Out: `ShardIndex`; of it and a range of bytes the samples, as `read_samples`
gives them. An index belongs to one version of its shard: ranges are asked for by the identity that it names.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from diht_k8s.api.errors import DataError
from diht_k8s.data.shards.samples import (
    MAX_MEMBER_BYTES,
    Sample,
    SamplePlaces,
    grouped,
    make_sample,
    read_samples,
    survey,
)
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_reader import BLOCK, TarDamageError, read_members

MAX_RANGE_BYTES: Final = 256 << 20
"""A longer range is read as a part of the whole shard, which holds one sample in memory."""


class IndexedDamage(NamedTuple):
    """Where a damaged shard cannot be read further."""

    reason: str
    """what is wrong, in words."""
    offset: int
    """number of the first byte that cannot be used, in the unpacked tar."""


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one version of a shard."""

    identity: str
    """`Storage.identity` of the shard."""
    samples: int
    """as many as `read_samples` delivers, before the damage if there is one."""
    starts: np.ndarray | None = None
    """int64 [samples + 1]: first byte in the file of each sample, long names included, and the end of the last one; None
    where samples cannot be read apart (packed tars, joined archives, global headers)."""
    damage: IndexedDamage | None = None


def index_of(
    storage: Storage, uri: str, check: Callable[[], object] | None = None, identity: str | None = None
) -> ShardIndex:
    """The index of a shard, which is read once; an empty shard is sound and holds no samples.

    Args:
        storage: where the shard is.
        uri: its name.
        check: called while the shard is read; it may raise to stop.
        identity: of the shard, where a listing has given it.

    Raises:
        DataError: the shard was replaced while it was read.
    """
    places = SamplePlaces()
    identity = storage.identity(uri) if identity is None else identity
    samples, error = survey(storage, uri, check=check, places=places)
    damage = None if error is None else IndexedDamage(error.reason, error.offset)
    return ShardIndex(identity, samples, as_starts(places.starts), damage)


def as_starts(starts: Sequence[int] | None) -> np.ndarray | None:
    """The starts of an index, int64 [samples + 1]."""
    return None if starts is None else np.array(starts, np.int64)


def pack_starts(starts: Sequence[int] | np.ndarray | None) -> str | None:
    """The starts of an index as a short text for headers, 2 to 3 characters a sample; None without starts."""
    if starts is None:
        return None
    steps = np.diff(np.asarray(starts, np.int64), prepend=0)
    return base64.b64encode(zlib.compress(steps.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes())).decode()


def unpack_starts(text: str | None) -> np.ndarray | None:
    """The starts, int64 [samples + 1], that `pack_starts` has packed."""
    if text is None:
        return None
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(8, -1)
    return np.cumsum(np.ascontiguousarray(planes.T).view("<i8").reshape(-1))


def read_range(
    storage: Storage,
    uri: str,
    index: ShardIndex,
    first: int,
    last: int,
    check: Callable[[], object] | None = None,
) -> Iterator[Sample]:
    """Consecutive samples of a shard by one range request, each as `read_samples` gives it.

    Args:
        storage: where the shard is.
        uri: its name.
        index: of the shard, with starts.
        first: number of the first sample.
        last: number of the sample after the last one.
        check: called between members; it may raise to stop.

    Raises:
        DataError: the shard is another one than that of the index.
    """
    assert index.starts is not None, "packed shards are read whole"
    assert 0 <= first <= last <= index.samples, (first, last, index.samples)
    if first == last:
        return
    begin, end = int(index.starts[first]), int(index.starts[last])
    if end - begin > MAX_RANGE_BYTES:
        yield from islice(read_samples(storage, uri, check=check), first, last)
        return
    data = storage.read_range(uri, begin, end, index.identity)
    if len(data) < end - begin:
        raise _other(uri, f"{end - begin - len(data)} bytes are missing")
    count = 0
    file = io.BytesIO(data + bytes(-len(data) % BLOCK + 2 * BLOCK))
    try:
        for group in grouped(read_members(file, max_bytes=MAX_MEMBER_BYTES, check=check, plain=True), []):
            if count == last - first:
                break
            yield make_sample(group.key, group.members, group.problem)
            count += 1
    except TarDamageError as damage:
        raise _other(uri, damage.reason) from damage
    if count < last - first:
        raise _other(uri, f"{count} samples stand where {last - first} should")


def _other(uri: str, sign: str) -> DataError:
    return DataError(
        f"{uri} does not hold the samples of its index ({sign}): remove the index and make it again by `diht index`"
    )
