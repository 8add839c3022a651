"""The source list of a run: the files that its patterns match, listed by one process and read by all others.

In: groups of patterns, one for each source. Out: the files of each, with size and identity. A list of many files is kept
as one object beside the output, `OUTPUT/sources/KEY.parquet`; KEY is a digest of the patterns, and the header has one of
the files. The first worker of a stage lists again at each start, so a change of the sources shows as it does without a
list. Another worker that starts while the first one replaces the list may begin under the old one: it then stops as one
whose folder another configuration has taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

import pyarrow as pa

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.layout import join
from diht_k8s.data.shards.listing import ListedFile
from diht_k8s.data.shards.parquet import read_table, write_table
from diht_k8s.data.shards.storage import Storage

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
