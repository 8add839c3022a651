"""The pairs of a shard as every stage reads them: under the usual names, and only those of its keep list.

A raw shard may have its images and captions under keys that the run names (`imageKey`, `captionKey`). Here the image
becomes `.jpg` (the decoders go by the content) and the caption `.txt`, so no other module needs to know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import pyarrow as pa

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.data.shards.listing import COPY_WITH_TIMES, differ_by_time_alone
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.samples import (
    IMAGE_SUFFIXES,
    NOT_REGULAR,
    TOO_LARGE,
    Sample,
    SamplePlaces,
    make_sample,
    read_samples,
    storable,
)
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage

SCHEMA: Final = pa.schema([("row", pa.int32()), ("uid", pa.string())])


class KeepListRow(NamedTuple):
    """A pair that is kept."""

    row: int
    """its number in the raw shard, bad samples counted."""
    uid: str


def write_keep_list(storage: Storage, uri: str, listed: Iterable[KeepListRow]) -> bytes:
    """Write a list; returns the file's content."""
    table = pa.Table.from_pylist([each._asdict() for each in listed], schema=SCHEMA)
    return write_table(storage, uri, table, {"schema_version": SCHEMA_VERSION})


def read_keep_list(storage: Storage, uri: str) -> list[KeepListRow]:
    """Read a list.

    Raises:
        DataError: the file is not a keep list.
    """
    table, _ = read_table(storage, uri)
    if not set(SCHEMA.names) <= set(table.column_names):
        raise DataError(f"{uri} is not a keep list: run the stage filter again")
    return [KeepListRow(row, uid) for row, uid in zip(table["row"].to_pylist(), table["uid"].to_pylist(), strict=True)]


def read_pairs(
    storage: Storage,
    shard: Shard,
    *,
    check: Callable[[], object] | None = None,
    places: SamplePlaces | None = None,
) -> Iterator[Sample]:
    """The samples of a shard, in order, read no further than the last one of its keep list.

    Args:
        storage: where the shard is.
        shard: the shard and, if it has one, its keep list.
        check: called while the shard is read; it may raise to stop.
        places: takes where the samples that are read stand in the shard.

    Raises:
        DamagedShardError: after the last sample before the damage.
        DataError: the shard is empty, or the keep list was made from another shard.
    """
    samples = (
        with_usual_names(sample, shard.image_key, shard.caption_key)
        for sample in read_samples(storage, shard.uri, check=check, places=places)
    )
    return samples if shard.keep_list is None else _listed(storage, shard, shard.keep_list, samples)


def _listed(storage: Storage, shard: Shard, keep_list: str, samples: Iterator[Sample]) -> Iterator[Sample]:
    if shard.identity is not None and (now := storage.identity(shard.uri)) != shard.identity:
        same = differ_by_time_alone(shard.identity, now)
        sign = f"it has changed since, by its time alone; {COPY_WITH_TIMES}" if same else "it has changed since"
        raise replaced(shard, keep_list, sign)
    numbered = enumerate(samples)
    for row, uid in read_keep_list(storage, keep_list):
        sample = next((sample for number, sample in numbered if number == row), None)
        if sample is None or storable(sample.uid) != uid:
            raise replaced(shard, keep_list, f"row {row} should be {uid!r}")
        yield sample


def replaced(shard: Shard, keep_list: str, sign: str) -> DataError:
    """The error of a shard that is another one than that from which its keep list was made."""
    return DataError(
        f"{shard.uri} is not the shard from which {keep_list} was made ({sign}): "
        "put the old one back, or run the stage filter again"
    )


def with_usual_names(sample: Sample, image_key: str | None, caption_key: str | None) -> Sample:
    """The sample with its image and caption under the suffixes that later stages read.

    Args:
        sample: as stored in the shard; suffixes are lower-case.
        image_key: suffix of the image; None leaves it.
        caption_key: suffix of the caption, or its name in the .json; None leaves it.
    """
    if image_key is None and caption_key is None:
        return sample
    members, problem = dict(sample.members), sample.problem if sample.problem in (TOO_LARGE, NOT_REGULAR) else None
    if image_key is not None:
        image = members.pop(image_key.lower(), None)
        members = {suffix: data for suffix, data in members.items() if suffix not in IMAGE_SUFFIXES}
        if image is not None:
            members["jpg"] = image
    if caption_key is not None:
        caption = _caption(members, sample, caption_key)
        if caption is None:
            problem = problem or "caption_missing"
        else:
            members["txt"] = caption
    return make_sample(sample.key, members, problem)


def _caption(members: dict[str, bytes], sample: Sample, key: str) -> bytes | None:
    """A member's content, taken out, or a text of the .json."""
    member = members.pop(key.lower(), None)
    value = sample.meta.get(key)
    if member is not None or not isinstance(value, str):
        return member
    return value.encode(errors="surrogatepass")
