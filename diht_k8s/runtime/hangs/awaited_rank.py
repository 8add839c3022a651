"""The rank that a hung gang waits for, and its collective, from the flight recorders of all ranks. Pure.

In: a record of each rank that answered. Out: one sentence that names rank, node and collective.

Here are also the names of the files by which a node's watchdog asks its ranks and by which they answer. `ask` asks all
ranks of the node for their record, which each writes to its `record-`. `gather-` asks one of them for the records of
the whole gang, which it writes to its `gathered-`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from diht_k8s.api.wording import first_of

NAMED: Final = 3
"""Ranks that a message lists by name; it must fit into a termination message."""


class Collective(BaseModel):
    """A collective as a rank issued it."""

    model_config = ConfigDict(frozen=True)

    sequence: int
    """its number within its process group, from 1; equal on all ranks."""
    name: str
    """all_reduce, all_gather, ..."""

    def __str__(self) -> str:
        """`all_reduce 41`."""
        return f"{self.name} {self.sequence}"


class GroupRecord(BaseModel):
    """Collectives of a rank in one process group."""

    issued: int
    """number of its newest collective."""
    pending: Collective | None = None
    """its oldest collective that has not ended; None where all have."""


class RankRecord(BaseModel):
    """Content of a rank's flight recorder when it was asked."""

    rank: int
    node: str
    doing: str = ""
    """where its main thread is in this project's code: `engine.py:310 in step`."""
    groups: dict[str, GroupRecord] = {}
    """by a name that all ranks share."""


def awaited_rank(records: Sequence[RankRecord], nodes: Mapping[int, str], *, whole: bool = True) -> str | None:
    """The rank that the others wait for.

    Args:
        records: of the ranks that answered.
        nodes: node of every rank that should have answered.
        whole: whether these are all ranks of the gang; if not, the one to name may be another.

    Returns:
        One sentence without its full stop; None where the records tell nothing.
    """
    answered = {record.rank for record in records}
    silent = [rank for rank in sorted(nodes) if rank not in answered]
    waiting = {name: found for name in _groups(records) if (found := _first_pending(records, name)) is not None}
    if silent:
        waits = next((f"; {_waiters(who, answered)} {each}{_at(who)}" for each, who in waiting.values()), "")
        return f"{_named(silent, nodes)} {_plural(silent, 'does', 'do')} not answer (stopped or dead){waits}"
    behind = {name: _behind(records, name, each) for name, (each, _) in waiting.items()}
    stuck = {record.rank for _, who in waiting.values() for record in who}
    # who waits in another group for a third rank is not the one to name
    names = sorted((name for name, who in behind.items() if who), key=lambda name: behind[name][0].rank in stuck)
    for name in names:
        each, who = waiting[name]
        ranks = [record.rank for record in behind[name]]
        return (
            f"{_named(ranks, nodes)} {_plural(ranks, 'has', 'have')} not reached {each}{_is(behind[name])}; "
            f"{_waiters(who, answered - set(ranks))} it{_at(who)}"
        )
    return _in_step(records, waiting, nodes) if whole else None


def _in_step(
    records: Sequence[RankRecord], waiting: Mapping[str, tuple[Collective, list[RankRecord]]], nodes: Mapping[int, str]
) -> str | None:
    """No rank is behind: two different collectives met, or what carries them stands still."""
    for name, (each, who) in waiting.items():
        for record in who:
            other = record.groups[name].pending
            if other is not None and other.name != each.name:
                return f"{_named([record.rank], nodes)} is in {other} where {_named([who[0].rank], nodes)} is in {each}"
        missing = [record.rank for record in records if record not in who]
        if missing:
            ranks = _named([record.rank for record in who], nodes)
            return f"{ranks} {_plural(who, 'is', 'are')} still in {each}, which the others have left"
        return (
            f"all {len(records)} ranks are in {each}{_at(who)}: see the network between their nodes, and their devices"
        )
    return None


def _groups(records: Iterable[RankRecord]) -> list[str]:
    return sorted({name for record in records for name in record.groups})


def _first_pending(records: Iterable[RankRecord], name: str) -> tuple[Collective, list[RankRecord]] | None:
    """The oldest collective of a group that has not ended, and the ranks that are in it."""
    pending = [
        (group.pending, record)
        for record in records
        if (group := record.groups.get(name)) is not None and group.pending is not None
    ]
    if not pending:
        return None
    oldest, _ = min(pending, key=lambda item: item[0].sequence)
    return oldest, [record for each, record in pending if each.sequence == oldest.sequence]


def _behind(records: Iterable[RankRecord], name: str, each: Collective) -> list[RankRecord]:
    return [record for record in records if record.groups.get(name, GroupRecord(issued=0)).issued < each.sequence]


def _named(ranks: Sequence[int], nodes: Mapping[int, str]) -> str:
    """`rank 3 on node a`, `ranks 3 (node a), 4 (node b) and 9 more`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]} on node {nodes[ranks[0]]}"
    return f"ranks {first_of([f'{rank} (node {nodes[rank]})' for rank in ranks], NAMED)}"


def _waiters(who: Sequence[RankRecord], others: Iterable[int]) -> str:
    count, whole = len(who), len(set(others))
    if count == whole:
        return "the other waits in" if count == 1 else f"the {count} others wait in"
    return f"{count} of the {whole} others {_plural(who, 'waits', 'wait')} in"


def _plural(items: Sequence[object], one: str, several: str) -> str:
    return one if len(items) == 1 else several


def _at(who: Sequence[RankRecord]) -> str:
    return f" ({who[0].doing})" if who[0].doing else ""


def _is(who: Sequence[RankRecord]) -> str:
    return f" (it is at {who[0].doing})" if len(who) == 1 and who[0].doing else ""


ASK: Final = "ask"
ANSWER_S: Final = 2.0
"""How long a rank may take for its own record."""
GANG_S: Final = 6.0
"""How long one may take to gather those of all nodes; a rank gives up before."""
_LOOK_S: Final = 0.1

_Record = TypeVar("_Record", bound=BaseModel)


class GangRecords(BaseModel):
    """The records of a gang."""

    records: list[RankRecord]
    nodes: dict[int, str]
    """node of every rank that was asked."""


def record_path(folder: Path, rank: int) -> Path:
    """Where a rank leaves its record."""
    return folder / f"record-{rank:05d}"


def gather_path(folder: Path, rank: int) -> Path:
    """Asks a rank to gather."""
    return folder / f"gather-{rank:05d}"


def gathered_path(folder: Path, rank: int) -> Path:
    """Where a rank leaves what it gathered."""
    return folder / f"gathered-{rank:05d}"


def request_records(folder: Path) -> None:
    """Ask the ranks of this node, which begin to answer while the caller does something else."""
    with contextlib.suppress(OSError):  # a full disk: the stacks remain
        (folder / ASK).touch()


def awaited_by_records(folder: Path, ranks: Sequence[int], node: str) -> str | None:
    """The rank that the gang waits for, by the records of the ranks that were asked.

    Args:
        folder: of this node's notes.
        ranks: of this node.
        node: its name.

    Returns:
        A sentence (`awaited_rank`); None if no rank answers, or if the records tell nothing.
    """
    deadline = time.monotonic() + ANSWER_S
    _wait(lambda: all(record_path(folder, rank).exists() for rank in ranks), deadline)
    own = [record for rank in ranks if (record := _read(record_path(folder, rank), RankRecord)) is not None]
    if not own:
        return None
    place = gathered_path(folder, own[0].rank)
    with contextlib.suppress(OSError):
        gather_path(folder, own[0].rank).touch()
        _wait(place.exists, time.monotonic() + GANG_S)
    found = _read(place, GangRecords)
    if found is None:
        return awaited_rank(own, dict.fromkeys(ranks, node), whole=False)
    return awaited_rank(found.records, found.nodes)


def _wait(ready: Callable[[], bool], deadline: float) -> None:
    while not ready() and time.monotonic() < deadline:
        time.sleep(_LOOK_S)


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    """None if it is missing or cannot be read (a full disk)."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
