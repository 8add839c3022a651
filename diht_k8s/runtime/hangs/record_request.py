"""Files by which a node's watchdog asks its ranks for their flight recorders, and by which they answer.

`ask` asks all ranks of the node for their record, which each writes to its `record-`. `gather-` asks one of them for
the records of the whole gang, which it writes to its `gathered-`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from diht_k8s.runtime.hangs.awaited_rank import RankRecord, awaited_rank

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


def write_atomically(path: Path, record: BaseModel) -> None:
    """Write a record so that a reader sees all of it or none."""
    written = path.with_name(f"{path.name}.new")
    written.write_text(record.model_dump_json())
    written.replace(path)


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
