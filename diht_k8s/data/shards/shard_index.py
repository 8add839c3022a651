"""The index of a shard: its number of samples and the first byte of each, so that some of them are one range request.

In: a shard that is read or written once. Out: `ShardIndex`; of it and a range of bytes the samples, as `read_samples`
gives them. An index belongs to one version of its shard: ranges are asked for by the identity that it names.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.layout import join
from diht_k8s.data.shards.parquet import read_table, write_table
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
    """int64 [samples + 1]: first byte in the file of each sample, long names included, and the end of the last one;
    None where samples cannot be read apart (packed tars, joined archives, global headers)."""
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


TABLE: Final = "shards.table"
PAGE_SAMPLES: Final = 1 << 17
"""Samples of a page, unless one shard has more: some 300 kB."""
CACHED_SAMPLES: Final = 1 << 22
"""Places that an open index keeps in memory, 8 bytes each."""
_SCHEMA: Final = pa.schema(
    [
        ("name", pa.string()),
        ("identity", pa.string()),
        ("samples", pa.int64()),
        ("part", pa.int64()),
        ("begin", pa.int64()),
        ("end", pa.int64()),
        ("reason", pa.string()),
        ("offset", pa.int64()),
    ]
)


class IndexRow(NamedTuple):
    """One shard's row of the table."""

    name: str
    identity: str
    samples: int
    part: int = 0
    begin: int = 0
    end: int = 0
    """first byte and end of its page in the part; both 0 where its samples cannot be read apart."""
    reason: str | None = None
    offset: int = 0
    """of its damage, if there is one."""

    @property
    def damage(self) -> IndexedDamage | None:
        """Where the shard cannot be read further."""
        return None if self.reason is None else IndexedDamage(self.reason, self.offset)


def part_uri(folder: str, part: int) -> str:
    """Where a part lies."""
    return join(folder, "parts", f"{part:05d}")


def table_uri(folder: str) -> str:
    """Where the table lies: it is written last."""
    return join(folder, TABLE)


def write_part(storage: Storage, folder: str, part: int, indexes: Sequence[tuple[str, ShardIndex]]) -> list[IndexRow]:
    """Write the places of the samples of some shards; returns their rows of the table.

    Args:
        storage: where the index lies.
        folder: of the index.
        part: number of the part, which only this group of shards has.
        indexes: name and index of each shard, in order.
    """
    data, rows = bytearray(), dict[str, IndexRow]()
    for page in _pages(indexes):
        content = _encoded(page)
        for name, _ in page:
            rows[name] = IndexRow(name, "", 0, part, len(data), len(data) + len(content))
        data += content
    if data:
        storage.write_bytes(part_uri(folder, part), bytes(data))
    found = list[IndexRow]()
    for name, index in indexes:
        row = rows.get(name, IndexRow(name, "", 0, part))
        reason, offset = index.damage or (None, 0)
        found.append(row._replace(identity=index.identity, samples=index.samples, reason=reason, offset=offset))
    return found


def _pages(indexes: Iterable[tuple[str, ShardIndex]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    page, samples = list[tuple[str, np.ndarray]](), 0
    for name, index in indexes:
        if index.starts is None:
            continue
        if page and samples + index.samples > PAGE_SAMPLES:
            yield page
            page, samples = [], 0
        page.append((name, index.starts))
        samples += index.samples
    if page:
        yield page


def _encoded(page: Sequence[tuple[str, np.ndarray]]) -> bytes:
    offsets = np.cumsum([0, *(len(starts) for _, starts in page)]).astype(np.int32)
    places = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate([starts for _, starts in page])))
    table, buffer = pa.table({"name": [name for name, _ in page], "starts": places}), io.BytesIO()
    encoding = {"starts.list.element": "DELTA_BINARY_PACKED"}
    pq.write_table(
        table, buffer, compression="zstd", use_dictionary=False, column_encoding=encoding, store_schema=False
    )
    return buffer.getvalue()


def _decoded(content: bytes) -> dict[str, np.ndarray]:
    table = pq.read_table(io.BytesIO(content))
    names, places = table["name"].to_pylist(), table["starts"].combine_chunks()
    offsets, values = places.offsets.to_numpy(), places.values.to_numpy()
    return {name: values[offsets[place] : offsets[place + 1]] for place, name in enumerate(names)}


def write_rows(storage: Storage, folder: str, rows: Sequence[IndexRow], header: dict[str, Any]) -> bytes:
    """Write the table, which completes the index; returns its content.

    Args:
        storage: where the index lies.
        folder: of the index.
        rows: of all shards, in order.
        header: what the index was made of.
    """
    table = pa.Table.from_pydict(dict(zip(_SCHEMA.names, zip(*rows, strict=True), strict=True)), schema=_SCHEMA)
    return write_table(storage, table_uri(folder), table, {"schema_version": SCHEMA_VERSION, **header})


class StoredIndex:
    """An index that is read as far as it is asked for; one for each process."""

    def __init__(self, storage: Storage, folder: str, rows: Iterable[IndexRow], header: dict[str, Any]) -> None:
        """Make a book of the rows of a table; use `open`."""
        self._storage, self._folder = storage, folder
        self.rows = {row.name: row for row in rows}
        """by name of the shard."""
        self.header = header
        self._pages: OrderedDict[tuple[int, int], dict[str, np.ndarray]] = OrderedDict()

    @classmethod
    def open(cls, storage: Storage, folder: str) -> StoredIndex | None:
        """The index in a folder, by one request; None if there is none that is complete.

        Raises:
            DataError: the table is damaged.
        """
        uri = table_uri(folder)
        if not storage.exists(uri):
            return None
        table, header = read_table(storage, uri)
        if not set(_SCHEMA.names) <= set(table.column_names):
            raise DataError(f"{uri} is not the table of an index: remove it and run `diht index`")
        columns = [table[name].to_pylist() for name in _SCHEMA.names]
        return cls(storage, folder, map(IndexRow._make, zip(*columns, strict=True)), header)

    def find(self, name: str, identity: str | None = None) -> ShardIndex | None:
        """The index of a shard, by at most one range request; None if the book does not name it.

        Args:
            name: of the shard.
            identity: of the version that is meant, where it is known; for another one there is no index.

        Raises:
            DataError: a part of the index is damaged.
        """
        row = self.rows.get(name)
        if row is None or (identity is not None and identity != row.identity):
            return None
        if row.begin == row.end:
            return ShardIndex(row.identity, row.samples, None, row.damage)
        starts = self._page(row).get(name)
        if starts is None or len(starts) != row.samples + 1:
            raise self._damaged(row)
        return ShardIndex(row.identity, row.samples, starts, row.damage)

    def _page(self, row: IndexRow) -> dict[str, np.ndarray]:
        place = row.part, row.begin
        if place in self._pages:
            self._pages.move_to_end(place)
            return self._pages[place]
        content = self._storage.read_range(part_uri(self._folder, row.part), row.begin, row.end)
        try:
            page = _decoded(content)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(row) from error
        self._pages[place] = page
        while len(self._pages) > 1 and sum(map(_samples, self._pages.values())) > CACHED_SAMPLES:
            self._pages.popitem(last=False)
        return page

    def _damaged(self, row: IndexRow) -> DataError:
        return DataError(
            f"{part_uri(self._folder, row.part)} does not hold the places of {row.name} that "
            f"{table_uri(self._folder)} names: remove {self._folder} and run `diht index`"
        )


def _samples(page: dict[str, np.ndarray]) -> int:
    return sum(map(len, page.values()))
