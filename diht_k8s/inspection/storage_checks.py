"""Checks of shards, tables, the output's storage and its disk: a sentence on each fault, with what to do."""

from __future__ import annotations

import itertools
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diht_k8s.api.base import create_condition
from diht_k8s.api.errors import DihtError
from diht_k8s.api.layout import join
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.images import BadImageError, decode
from diht_k8s.data.shards.pairs import read_pairs
from diht_k8s.data.shards.samples import Sample
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.inspection.dataset_profile import bit_reversed_order
from diht_k8s.stages.filter.caption_tables import filter_input, read_rows
from diht_k8s.stages.filter.summary import LayoutHints

READ: Final = 8
"""Shards that are read whole, unless all of them are asked for."""
LARGE: Final = 8 << 30
SMALL: Final = 1 << 20
ROWS: Final = 1000
"""Rows of a table that are checked."""
MANY: Final = 100
"""More shards than this of less than `SMALL` cost more in requests than in reading."""
PROBE: Final = ".diht-doctor-"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    about: str
    """versions, devices, disk, storage, shards, tables or document."""
    says: str
    wrong: bool = False


def shard_findings(
    storage: Storage, shards: Sequence[Shard], *, most: int = READ, advance: Callable[[], object] = lambda: None
) -> Iterator[Finding]:
    """Sizes of all shards; suffixes, damage and the first bad sample of those that are read.

    Args:
        storage: where they are.
        shards: those to check.
        most: shards to read; they are spread evenly over all.
        advance: called after each shard that is read.
    """
    sizes = [storage.size(shard.uri) for shard in shards]
    yield from _size_findings(shards, sizes)
    samples, read = 0, bit_reversed_order(len(shards))[:most]
    bad, hints = Counter[str](), LayoutHints()
    first: str | None = None
    for place in sorted(read):
        shard = shards[place]
        try:
            for sample in read_pairs(storage, shard):
                samples += 1
                hints.add(sample)
                if (problem := _problem(sample)) is not None:
                    bad[problem] += 1
                    first = first or f"{sample.key} in {shard.uri} ({problem})"
        except DihtError as error:
            yield Finding("shards", str(error), wrong=True)
        advance()
    if bad:
        counts = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
        yield Finding(
            "shards",
            f"{bad.total()} of {samples} samples are bad ({counts}): the first one is {first}; a stage counts them "
            f"up to filter.maxBadPercent",
            wrong=True,
        )
    if said := hints.sentence(shards[read[0]].source):
        yield Finding("shards", said, wrong=True)
    whole = "all" if len(read) == len(shards) else f"{len(read)} of {len(shards)}"
    yield Finding(
        "shards",
        f"{whole} shards were read: {samples - bad.total()} usable "
        f"samples, {sum(sizes) / 2**20:,.1f} MiB in all shards",
    )


def table_findings(run: DihtRun, storage: Storage) -> Iterator[Finding]:
    """Number of tables and parts of a run of captions, and the first rows of some of its tables."""
    rules = run.spec.filter
    assert rules is not None, "a run of captions has this stage"
    rows, bad = 0, Counter[str]()
    try:
        parts = filter_input(run.spec, storage)
        tables = list({part.uri: part for part in reversed(parts)}.values())
        for place in sorted(bit_reversed_order(len(tables))[:READ]):
            for sample in itertools.islice(read_rows(storage, tables[place], rules), ROWS):
                rows += 1
                bad.update([sample.problem] if sample.problem is not None else [])
    except DihtError as error:
        yield Finding("tables", str(error), wrong=True)
        return
    if rows and 100 * bad.total() > rules.max_bad_percent * rows:
        counts = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
        yield Finding(
            "tables",
            f"{bad.total()} of the first {rows} rows cannot be used ({counts}): raise filter.maxBadPercent, or "
            f"clean the tables",
            wrong=True,
        )
    yield Finding(
        "tables", f"{len(tables)} tables in {len(parts)} parts; {rows - bad.total()} of {rows} rows can be used"
    )


def _size_findings(shards: Sequence[Shard], sizes: Sequence[int]) -> Iterator[Finding]:
    largest = max(range(len(sizes)), key=lambda place: sizes[place])
    if sizes[largest] > LARGE:
        yield Finding(
            "shards",
            f"{shards[largest].uri} has {sizes[largest] / 2**30:.0f} GiB: workers share whole shards, so write "
            f"shards of 1 GiB or less",
            wrong=True,
        )
    small = sum(size < SMALL for size in sizes)
    if small > MANY:
        yield Finding(
            "shards",
            f"{small} shards have less than 1 MiB: write larger ones, each costs requests and a file of scores",
            wrong=True,
        )


def _problem(sample: Sample) -> str | None:
    if sample.problem is not None:
        return sample.problem
    try:
        decode(sample.image)
    except BadImageError as error:
        return error.reason
    return None


def output_findings(storage: Storage, output: str) -> Iterator[Finding]:
    """Whether a small object can be created once, read and removed, and not created twice.

    Args:
        storage: that reaches the output.
        output: `data.output`; a name of ours is written below it and removed.
    """
    uri, data = join(output, f"{PROBE}{secrets.token_hex(8)}"), b"diht doctor"
    try:
        created, twice = storage.create(uri, data), storage.create(uri, data)
        same = storage.read_bytes(uri) == data
        storage.remove_files(output, [uri.rpartition("/")[2]])
        removed = not storage.exists(uri)
    except DihtError as error:
        yield Finding("storage", str(error), wrong=True)
        return
    if not created or not same:
        yield Finding("storage", f"{output}: what is written cannot be read again: check the server", wrong=True)
    if twice:
        yield Finding(
            "storage",
            f"{output}: the server ignores conditional writes ({create_condition(output)}), so two attempts could "
            f"overwrite each other: use a server that has them",
            wrong=True,
        )
    if not removed:
        yield Finding(
            "storage", f"{output}: what is removed stays: give the credentials the right to delete", wrong=True
        )
    if created and same and removed and not twice:
        yield Finding("storage", f"{output} can be written, read and removed, and holds each name once")


def disk_findings(output: Path, needed: int) -> Iterator[Finding]:
    """Whether the disk of a local output has room.

    Args:
        output: the folder; it may not exist yet.
        needed: bytes that the run writes at most, as far as they are known.
    """
    there = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    says = f"{free / 2**30:,.1f} GiB are free at {there}"
    if free < needed:
        yield Finding(
            "disk",
            f"{says}, but the kept pairs may need {needed / 2**30:,.1f}: free space, choose another data.output, "
            f"or write filter.output: KeepList",
            wrong=True,
        )
    else:
        yield Finding("disk", says)
