"""The launcher's watchdog: it ends a hung training and names the rank that the others wait for.

Each rank notes its step and what it is doing in a file that the launcher reads (`Heartbeat`). The first steps, in which
kernels are compiled and caches fill, have a limit of some minutes; once steps are regular, a step that takes longer than max(120 s, 3 x the 99th percentile of the steps so far) is a hang; writing a checkpoint,
validating and compiling are excepted. Then every rank of the gang is asked for its flight recorder, whose collectives
tell which rank has not reached which one (`request`), and every rank of this node for its stacks. Where the
recorders tell nothing, the stacks do: a rank that does not answer is stopped or dead, and one whose stacks are in no
exchange is what the others wait for. The ranks are killed, and the launcher ends with 75, so that the gang starts again
from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import struct
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from diht_k8s.api.reports import NodeResult, SavedCheckpoint
from diht_k8s.recipe.runtime.hangs.record_request import awaited_by_records, request_records

FOLDER_VARIABLE: Final = "DIHT_WATCH"
"""Folder in which the ranks of a node note their progress."""
TIME_NOTE: Final = "time"
"""Rank 0's account of its time in that folder (`runtime.time_spent`)."""
PREFLIGHT_NOTE: Final = "preflight"
"""The worst nodes in the preflight, there as well."""
MIN_SECONDS_VARIABLE: Final = "DIHT_WATCHDOG_SECONDS"
FIRST_STEPS_VARIABLE: Final = "DIHT_WATCHDOG_STEPS"
MIN_SECONDS: Final = 120.0
FIRST_SECONDS_VARIABLE: Final = "DIHT_WATCHDOG_FIRST_SECONDS"
FIRST_SECONDS: Final = 540.0
"""Limit of each of the first steps: a little less than the time-out of a collective, which names nobody."""
FIRST_STEPS: Final = 100
"""Steps with that limit: caches fill and kernels are chosen."""
FACTOR: Final = 3.0
WINDOW: Final = 1000
"""Steps over which the percentile is taken."""
POLL_S: Final = 0.5
DUMP_S: Final = 3.0
"""Time that a rank has to write its stacks."""
_RECORD: Final = struct.Struct("<qqiddi")
_EXCHANGES: Final = ("torch/distributed/distributed_c10d.py", "recipe/train/collectives.py", "deepspeed/comm/")
"""Stack frames of a rank that waits for others."""


@contextlib.contextmanager
def notes_folder() -> Iterator[Path]:
    """A folder for the notes of ranks, passed in their environment; ranks of later gangs must not use it."""
    with tempfile.TemporaryDirectory(prefix="diht-watch-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ[FOLDER_VARIABLE]


def note_preflight(nodes: Sequence[NodeResult]) -> None:
    """Note the worst nodes for the launcher, whose cause of a failure tells them; nothing without DIHT_WATCH."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is not None:
        written = Path(folder) / f"{PREFLIGHT_NOTE}.new"
        written.write_text(json.dumps([node.model_dump(exclude_none=True) for node in nodes]))
        written.replace(Path(folder) / PREFLIGHT_NOTE)


class RankActivity(IntEnum):
    """What a rank is doing."""

    STARTING = 0
    STEP = 1
    EXCEPTED = 2
    """writing a checkpoint, validating or compiling: not timed."""
    DONE = 3


@dataclass(frozen=True)
class RankBeat:
    """What a rank noted last."""

    pid: int
    step: int
    """steps of this attempt."""
    doing: RankActivity
    at: float
    """time.monotonic, which all processes of a machine share."""
    p99_s: float
    rank: int


class RankPosition(BaseModel):
    """Where a rank is in its training."""

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

    def excepted(self) -> None:
        """Untimed work begins; it ends with the next step."""
        self._began = None
        self._note(RankActivity.EXCEPTED)

    def resumed(self) -> None:
        """What was excepted is over."""
        self._note(RankActivity.STEP)

    def done(self) -> None:
        """No more steps follow."""
        self._note(RankActivity.DONE)

    def at(self, step: int, checkpoint: SavedCheckpoint | None) -> None:
        """Note the newest checkpoint for the launcher; the first call's step is the one that this attempt resumed at."""
        self._resumed_at = step if self._resumed_at is None else self._resumed_at
        if self._folder is not None:
            path = self._folder / f"place-{self._rank:05d}"
            written = path.with_suffix(".new")
            written.write_text(RankPosition(resumed_at=self._resumed_at, checkpoint=checkpoint).model_dump_json())
            written.replace(path)

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


@dataclass(frozen=True)
class HangLimits:
    """When a step is a hang."""

    min_seconds: float = MIN_SECONDS
    first_steps: int = FIRST_STEPS
    first_seconds: float = FIRST_SECONDS

    @staticmethod
    def from_environment() -> HangLimits:
        """The defaults, or what DIHT_WATCHDOG_SECONDS, _STEPS and _FIRST_SECONDS say."""
        return HangLimits(
            float(os.environ.get(MIN_SECONDS_VARIABLE, MIN_SECONDS)),
            int(os.environ.get(FIRST_STEPS_VARIABLE, FIRST_STEPS)),
            float(os.environ.get(FIRST_SECONDS_VARIABLE, FIRST_SECONDS)),
        )

    def of(self, beat: RankBeat) -> float:
        """Seconds that a step may take."""
        usual = max(self.min_seconds, FACTOR * beat.p99_s)
        return usual if beat.step >= self.first_steps else max(usual, self.first_seconds)


def overdue(beats: Sequence[RankBeat], limits: HangLimits, now: float) -> RankBeat | None:
    """The most overdue beat, or None. Pure.

    While any rank does what is excepted the others may be waiting for it, so nothing is overdue.
    """
    if any(beat.doing is RankActivity.EXCEPTED for beat in beats):
        return None
    late = [(now - beat.at - limits.of(beat), beat) for beat in beats if beat.doing is RankActivity.STEP]
    excess, beat = max(late, key=lambda item: item[0], default=(0.0, None))
    return beat if excess > 0 else None


def awaited_by_stacks(beats: Sequence[RankBeat], stacks: Sequence[str]) -> str:
    """Which rank the others wait for, in words, from what each noted and the stacks that it wrote. Pure."""
    silent = [beat.rank for beat, text in zip(beats, stacks, strict=True) if not text]
    if silent:
        return f"rank {silent[0]} does not answer (stopped or dead)"
    busy = [
        beat.rank for beat, text in zip(beats, stacks, strict=True) if not any(place in text for place in _EXCHANGES)
    ]
    if busy and len(busy) < len(beats):
        return f"the others wait for rank {busy[0]}"
    behind = min(beats, key=lambda beat: beat.step)
    if behind.step < max(beat.step for beat in beats):
        return f"the others wait for rank {behind.rank}, which is at step {behind.step}"
    if busy:
        return "no rank of this node waits for another: see their stacks"
    return "all ranks of this node wait for one of another node"


class Watchdog:
    """Watches from a thread of the launcher while the ranks run."""

    def __init__(self, folder: Path, limits: HangLimits, *, say: Callable[[str], None] = print) -> None:
        """Make one.

        Args:
            folder: where the ranks note how far they are.
            limits: when a step is a hang.
            say: prints the stacks.
        """
        self._folder, self._limits, self._say = folder, limits, say
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.verdict: str | None = None
        """why the ranks were killed; None until then."""

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def beats(self) -> list[RankBeat]:
        """What the ranks noted last, in rank order."""
        found = []
        for path in sorted(self._folder.glob("beat-*")):
            data = path.read_bytes()
            if len(data) == _RECORD.size:
                pid, step, doing, at, p99, rank = _RECORD.unpack(data)
                found.append(RankBeat(pid, step, RankActivity(doing), at, p99, rank))
        return found

    def time_note(self) -> str | None:
        """Rank 0's newest account of its time, if it runs here and has begun one."""
        return self._noted(TIME_NOTE)

    def _noted(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text()
        except OSError:
            return None

    def details(self) -> dict[str, Any]:
        """What the cause of a failure tells of the training: step, newest checkpoint that a rank noted, time, preflight."""
        note, preflight = self.time_note(), self._noted(PREFLIGHT_NOTE)
        time_spent = {} if note is None else {"time_spent": json.loads(note)["spent"]}
        return self._place() | time_spent | ({} if preflight is None else {"preflight": json.loads(preflight)})

    def _place(self) -> dict[str, Any]:
        places = [
            place for path in sorted(self._folder.glob("place-*[0-9]")) if (place := _read_position(path)) is not None
        ]
        if not places:
            return {}
        saved = [place.checkpoint for place in places if place.checkpoint is not None]
        newest = max(saved, key=lambda checkpoint: checkpoint.step, default=None)
        steps = max((beat.step for beat in self.beats()), default=0)
        return {"step": places[0].resumed_at + steps, "checkpoint": newest}

    def _watch(self) -> None:
        while not self._ended.wait(POLL_S):
            beats = self.beats()
            late = overdue(beats, self._limits, time.monotonic())
            if late is not None:
                self._end(beats, late)
                return

    def _end(self, beats: list[RankBeat], late: RankBeat) -> None:
        seconds, node = time.monotonic() - late.at, socket.gethostname()
        request_records(self._folder)
        stacks = self._dumped(beats)
        found = awaited_by_records(self._folder, [beat.rank for beat in beats], node) or awaited_by_stacks(
            beats, stacks
        )
        for beat, text in zip(beats, stacks, strict=True):
            self._say(
                f"stacks of rank {beat.rank} (process {beat.pid}, {beat.step} steps):\n{text or 'none: it does not answer'}"
            )
        self.verdict = (
            f"no step for {seconds:.0f} s on node {node} (usual at most {late.p99_s:.2g} s): {found}; "
            "the ranks are ended and the gang starts again from its last checkpoint"
        )
        for beat in beats:
            _send(beat.pid, signal.SIGKILL)

    def _dumped(self, beats: list[RankBeat]) -> list[str]:
        paths = [self._folder / f"stacks-{beat.rank:05d}" for beat in beats]
        for beat in beats:
            _send(beat.pid, signal.SIGUSR1)
        deadline = time.monotonic() + DUMP_S
        while time.monotonic() < deadline and not all(_size(path) for path in paths):
            time.sleep(0.1)
        time.sleep(0.2)  # a dump is some writes
        return [path.read_text() if path.exists() else "" for path in paths]


def _read_position(path: Path) -> RankPosition | None:
    """What a rank noted; None if it cannot be read (a full disk)."""
    try:
        return RankPosition.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may just have ended
        os.kill(pid, number)
