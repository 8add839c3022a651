"""The raw shards of a run, in order, with unique names (`spec.data.sources`)."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.layout import join
from diht_k8s.api.run import Spec
from diht_k8s.data.shards.listing import ListedFile
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.storage import Storage

FEWEST_DIGITS: Final = 8
MOST_DIGITS: Final = 64


def stem(uri: str) -> str:
    """The base name of a file up to its first dot."""
    return PurePosixPath(uri).name.partition(".")[0]


def distinct_names(files: Sequence[tuple[str, str]]) -> list[str]:
    """A name for each file, its wanted one where no other file wants it, and else with a digest behind it.

    Args:
        files: wanted name and URI of each; no pair comes twice.
    """
    wanted = Counter(name for name, _ in files)
    digests = {
        file: hashlib.sha256("\0".join(file).encode(errors="surrogateescape")).hexdigest()
        for file in files
        if wanted[file[0]] > 1
    }
    for digits in range(FEWEST_DIGITS, MOST_DIGITS + 1):
        names = [f"{file[0]}-{digests[file][:digits]}" if file in digests else file[0] for file in files]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("no two files have the same wanted name and URI")


FEW: Final = 1000
"""Up to this number of files is one request of a listing: no list is kept of them."""
WAIT_SECONDS: Final = 60.0
"""So long does a worker wait for the list that another one has begun to make; then it lists, too."""
KEY_DIGITS: Final = 16
Groups = Sequence[Sequence[str]]
"""Patterns of each source."""


def list_uri(output: str, groups: Groups) -> str:
    """Where the list of some patterns lies."""
    return join(output, "sources", f"{sha256_of([list(patterns) for patterns in groups])[:KEY_DIGITS]}.parquet")


def known_sources(storage: Storage, output: str, groups: Groups) -> list[list[ListedFile]]:
    """The files of each group by the run's list; listed where it has none.

    Raises:
        UserError: a pattern matches nothing or a folder, or two match the same file.
    """
    found = _read(storage, list_uri(output, groups), len(groups))
    return storage.list_sources(groups) if found is None else found


def current_sources(
    storage: Storage, output: str, groups: Groups, *, sleep: Callable[[float], object] = time.sleep
) -> list[list[ListedFile]]:
    """The files of each group as the first worker finds them now; it writes the list, others read it.

    Args:
        storage: of the sources and the output; says whether this process is of the first worker.
        output: folder of the run.
        groups: patterns of each source.
        sleep: waits for seconds.

    Raises:
        UserError: a pattern matches nothing or a folder, or two match the same file.
    """
    uri = list_uri(output, groups)
    if storage.first:
        return _made(storage, uri, groups)
    claim = f"{uri}.claim"
    for _ in range(int(WAIT_SECONDS)):
        found = _read(storage, uri, len(groups))
        if found is not None:
            return found
        if storage.create(claim, b"{}"):
            break
        sleep(1.0)
    try:
        return _made(storage, uri, groups)
    finally:
        storage.remove(claim)


def _made(storage: Storage, uri: str, groups: Groups) -> list[list[ListedFile]]:
    found = storage.list_sources(groups)
    if sum(map(len, found)) > FEW and _read(storage, uri, len(groups)) != found:
        rows = [(number, *each) for number, group in enumerate(found) for each in group]
        columns = dict(zip(("group", *ListedFile._fields), map(list, zip(*rows, strict=True)), strict=True))
        write_table(storage, uri, pa.table(columns), {"schema_version": SCHEMA_VERSION, "sha256": sha256_of(rows)})
    return found


def _read(storage: Storage, uri: str, groups: int) -> list[list[ListedFile]] | None:
    """The files of each group that a list names; None if there is no list."""
    if not storage.exists(uri):
        return None
    table, header = read_table(storage, uri)
    if table.column_names != ["group", *ListedFile._fields]:
        raise DataError(f"{uri} is not a list of sources: remove it and start again")
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if header.get("sha256") != sha256_of(rows):
        raise DataError(f"{uri} is not the list that its digest belongs to: remove it and start again")
    found: list[list[ListedFile]] = [[] for _ in range(groups)]
    for number, some in groupby(rows, key=lambda row: row[0]):
        found[number] = [ListedFile(*row[1:]) for row in some]
    return found


@dataclass(frozen=True)
class TablePart:
    """The share of a table of captions that one worker filters at a time."""

    start: int
    """the first row of a Parquet file, or the first byte of a text file."""
    stop: int
    """the one after the last."""
    size: int
    """bytes, about."""


@dataclass(frozen=True)
class Shard:
    """One shard and the name under which stages write what belongs to it."""

    name: str
    """`SOURCE-STEM`, or `SOURCE-STEM-DIGEST` where another shard would have that name (see `shard_names`)."""
    uri: str
    source: str
    filtered: bool = True
    """whether the CAT rules apply (data.sources[].filter)."""
    image_key: str | None = None
    """suffix of the images, if unusual (data.sources[].imageKey)."""
    caption_key: str | None = None
    """suffix of the captions or their name in the .json (data.sources[].captionKey)."""
    samples: int | None = None
    """number of samples where it is known."""
    keep_list: str | None = None
    """URI of the list of the samples to be read; None reads all."""
    identity: str | None = None
    """`Storage.identity` of the shard when the run listed it, or when the keep list was made."""
    size: int | None = None
    """in bytes, where it is known."""
    part: TablePart | None = None
    """which part of a table of captions this is; None for a tar."""


def input_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources by the run's source list, in order, with unique names."""
    return _named(spec, known_sources(storage, spec.data.output, _patterns(spec)))


def current_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources as they are when a stage starts (see `source_lists`)."""
    return _named(spec, current_sources(storage, spec.data.output, _patterns(spec)))


def listed_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources as they are now, for programs that run beside no stage."""
    return _named(spec, storage.list_sources(_patterns(spec)))


def training_shards(listed: Iterable[ListedFile]) -> list[Shard]:
    """The shards that the training names itself (`train.shards`); labels go by their file names."""
    files = list(listed)
    names = distinct_names([(stem(file.uri), file.uri) for file in files])
    return [
        Shard(name, uri, "train", size=size, identity=identity)
        for name, (uri, size, identity) in zip(names, files, strict=True)
    ]


def _patterns(spec: Spec) -> list[list[str]]:
    return [list(source.shards or ()) for source in spec.data.sources]


def _named(spec: Spec, found: Sequence[Sequence[ListedFile]]) -> list[Shard]:
    files = [(source, file) for source, files in zip(spec.data.sources, found, strict=True) for file in files]
    names = distinct_names([(f"{source.name}-{stem(file.uri)}", file.uri) for source, file in files])
    return [
        Shard(name, uri, source.name, source.filter, source.image_key, source.caption_key, size=size, identity=identity)
        for name, (source, (uri, size, identity)) in zip(names, files, strict=True)
    ]


def share(shards: list[Shard], worker: int, workers: int) -> list[Shard]:
    """The shards of one of several workers: every workers-th, so that neighbours differ in age and kind."""
    return shards[worker::workers]


MAX_GROUPS: Final = 1024
"""As many as a thousand workers share; the stage's end reads one object of each."""
MAX_SHARDS: Final = 128
"""Of a group: its claim is held for hours otherwise."""


@dataclass(frozen=True)
class ShardGroup:
    """Some neighbouring shards."""

    number: int
    shards: Sequence[Shard]

    @property
    def name(self) -> str:
        """Of its claim: that of its shard where it has one."""
        return self.shards[0].name if len(self.shards) == 1 else f"group {self.number:05d}"


def groups_of(shards: Sequence[Shard]) -> list[ShardGroup]:
    """All shards of a stage in groups, in order."""
    size = min(max(-(-len(shards) // MAX_GROUPS), 1), MAX_SHARDS)
    return [ShardGroup(number, shards[at : at + size]) for number, at in enumerate(range(0, len(shards), size))]
