"""Notes of ranks for their launcher: heartbeat, resume step and newest checkpoint, in a folder that both know.

The launcher's watchdog reads how far each rank is; the cause of a failure tells what the ranks noted last, also when
they are dead.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import struct
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from diht_k8s.api.reports import NodeResult, SavedCheckpoint

FOLDER_VARIABLE: Final = "DIHT_WATCH"
"""Folder in which the ranks of a node note their progress."""


TIME_NOTE: Final = "time"
"""Rank 0's account of its time in that folder (`runtime.progress`)."""


PREFLIGHT_NOTE: Final = "preflight"
"""The worst nodes in the preflight, there as well."""


WINDOW: Final = 1000
"""Steps over which the percentile is taken."""


_RECORD: Final = struct.Struct("<qqiddi")


@contextlib.contextmanager
def notes_folder() -> Iterator[Path]:
    """A folder for the notes of ranks, passed in their environment; ranks of later gangs must not use it."""
    with tempfile.TemporaryDirectory(prefix="diht-watch-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[FOLDER_VARIABLE]


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody reads half."""
    written = path.with_name(f"{path.name}.new")
    written.write_text(text)
    written.replace(path)


def note_preflight(nodes: Sequence[NodeResult]) -> None:
    """Note the worst nodes for the cause of a failure; nothing without DIHT_WATCH."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is not None:
        noted = [node.model_dump(exclude_none=True) for node in nodes]
        write_whole(Path(folder, PREFLIGHT_NOTE), json.dumps(noted))


class RankActivity(IntEnum):
    """The work of a rank, as far as the watchdog tells it apart."""

    STARTING = 0
    STEP = 1
    UNTIMED = 2
    """writing a checkpoint, validating or compiling."""
    DONE = 3


@dataclass(frozen=True)
class RankBeat:
    """The newest note of a rank."""

    pid: int
    step: int
    """steps of this attempt."""
    doing: RankActivity
    at: float
    """time.monotonic, which all processes of a machine share."""
    p99_s: float
    rank: int


class RankPosition(BaseModel):
    """The progress of a rank's training that outlives the rank."""

    resumed_at: int
    """step at which this attempt began."""
    checkpoint: SavedCheckpoint | None = None
    """the newest one that is committed."""


class Heartbeat:
    """A rank's notes; without DIHT_WATCH in the environment nothing is written."""

    def __init__(self, rank: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the notes, and make SIGUSR1 write this process's stacks."""
        self._rank, self._clock, self._step = rank, clock, 0
        self._durations: deque[float] = deque(maxlen=WINDOW)
        self._began: float | None = None
        self._resumed_at: int | None = None
        folder = os.environ.get(FOLDER_VARIABLE)
        self._file, self._folder = None, None if folder is None else Path(folder)
        if folder is not None:
            self._file = (Path(folder) / f"beat-{rank:05d}").open("wb", buffering=0)
            self._stacks = (Path(folder) / f"stacks-{rank:05d}").open("w")
            faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
        self._note(RankActivity.STARTING)

    def step(self) -> None:
        """A step is done, and the next one begins."""
        now = self._clock()
        if self._began is not None:
            self._durations.append(now - self._began)
        self._began, self._step = now, self._step + 1
        self._note(RankActivity.STEP)

    def pause(self) -> None:
        """Untimed work begins; it ends with the next step or `resume`."""
        self._began = None
        self._note(RankActivity.UNTIMED)

    def resume(self) -> None:
        """Untimed work is over."""
        self._note(RankActivity.STEP)

    def done(self) -> None:
        """No more steps follow."""
        self._note(RankActivity.DONE)

    def note_position(self, step: int, checkpoint: SavedCheckpoint | None) -> None:
        """Note the newest checkpoint for the launcher; the first call's step is the one that this attempt resumed
        at.
        """
        self._resumed_at = step if self._resumed_at is None else self._resumed_at
        if self._folder is not None:
            position = RankPosition(resumed_at=self._resumed_at, checkpoint=checkpoint)
            write_whole(self._folder / f"position-{self._rank:05d}", position.model_dump_json())

    def _note(self, doing: RankActivity) -> None:
        if self._file is not None:
            record = (os.getpid(), self._step, doing, self._clock(), percentile_99(self._durations), self._rank)
            os.pwrite(self._file.fileno(), _RECORD.pack(*record), 0)


def percentile_99(durations: Sequence[float]) -> float:
    """The 99th percentile of the durations; 0 without any."""
    if not durations:
        return 0.0
    ordered = sorted(durations)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def read_beats(folder: Path) -> list[RankBeat]:
    """The newest beat of each rank, in rank order."""
    found = []
    for path in sorted(folder.glob("beat-*")):
        data = path.read_bytes()
        if len(data) == _RECORD.size:
            pid, step, doing, at, p99, rank = _RECORD.unpack(data)
            found.append(RankBeat(pid, step, RankActivity(doing), at, p99, rank))
    return found


def read_positions(folder: Path) -> list[RankPosition]:
    """The newest position of each rank, in rank order; one that cannot be read (a full disk) is left out."""
    found = []
    for path in sorted(folder.glob("position-*[0-9]")):
        with contextlib.suppress(OSError, ValidationError):
            found.append(RankPosition.model_validate_json(path.read_bytes()))
    return found
