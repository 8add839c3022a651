"""The launcher's watchdog: it ends a hung training and names the rank that the others wait for.

Each rank notes its step and its activity in a file that the launcher reads (`heartbeat`). The first steps, in which
kernels are compiled and caches fill, have a limit of some minutes; once steps are regular, a step that takes longer
than max(120 s, 3 x the 99th percentile of the steps so far) is a hang; writing a checkpoint, validating and compiling
are not timed. Then every rank of the gang is asked for its flight recorder, whose collectives tell which rank has not
reached which one (`awaited_rank`), and every rank of this node for its stacks. Where the recorders tell
nothing, the stacks do: a rank that does not answer is stopped or dead, and one whose stacks are in no exchange is what
the others wait for. The ranks are killed, and the launcher ends with 75, so that the gang starts again from its last
checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diht_k8s.runtime.hangs.awaited_rank import awaited_by_records, request_records
from diht_k8s.runtime.hangs.heartbeat import (
    PREFLIGHT_NOTE,
    TIME_NOTE,
    RankActivity,
    RankBeat,
    read_beats,
    read_positions,
)

MIN_SECONDS_VARIABLE: Final = "DIHT_WATCHDOG_SECONDS"
FIRST_STEPS_VARIABLE: Final = "DIHT_WATCHDOG_STEPS"
MIN_SECONDS: Final = 120.0
FIRST_SECONDS_VARIABLE: Final = "DIHT_WATCHDOG_FIRST_SECONDS"
FIRST_SECONDS: Final = 540.0
"""Limit of each of the first steps: a little less than the time-out of a collective, which names nobody."""
FIRST_STEPS: Final = 100
"""Steps with that limit: caches fill and kernels are chosen."""
FACTOR: Final = 3.0
POLL_S: Final = 0.5
DUMP_S: Final = 3.0
"""Time that a rank has to write its stacks."""
_EXCHANGES: Final = ("torch/distributed/distributed_c10d.py", "stages/train/collectives.py", "deepspeed/comm/")
"""Stack frames of a rank that waits for others."""


@dataclass(frozen=True)
class HangLimits:
    """Seconds after which a step is a hang."""

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

    While any rank does untimed work the others may be waiting for it, so nothing is overdue.
    """
    if any(beat.doing is RankActivity.UNTIMED for beat in beats):
        return None
    late = [(now - beat.at - limits.of(beat), beat) for beat in beats if beat.doing is RankActivity.STEP]
    excess, beat = max(late, key=lambda item: item[0], default=(0.0, None))
    return beat if excess > 0 else None


def awaited_by_stacks(beats: Sequence[RankBeat], stacks: Sequence[str]) -> str:
    """The rank that the others wait for, in words, from the beats and stacks of all. Pure."""
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
        """The newest beat of each rank, in rank order."""
        return read_beats(self._folder)

    def time_note(self) -> str | None:
        """Rank 0's newest account of its time, if it runs here and has begun one."""
        return self._noted(TIME_NOTE)

    def _noted(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text()
        except OSError:
            return None

    def details(self) -> dict[str, Any]:
        """What the cause of a failure tells of the training: step, newest checkpoint that a rank noted, time,
        preflight.
        """
        note, preflight = self.time_note(), self._noted(PREFLIGHT_NOTE)
        time_spent = {} if note is None else {"time_spent": json.loads(note)["spent"]}
        return self._position() | time_spent | ({} if preflight is None else {"preflight": json.loads(preflight)})

    def _position(self) -> dict[str, Any]:
        positions = read_positions(self._folder)
        if not positions:
            return {}
        saved = [position.checkpoint for position in positions if position.checkpoint is not None]
        newest = max(saved, key=lambda checkpoint: checkpoint.step, default=None)
        steps = max((beat.step for beat in self.beats()), default=0)
        return {"step": positions[0].resumed_at + steps, "checkpoint": newest}

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
        stacks = self._dump_stacks(beats)
        found = awaited_by_records(self._folder, [beat.rank for beat in beats], node) or awaited_by_stacks(
            beats, stacks
        )
        for beat, text in zip(beats, stacks, strict=True):
            self._say(
                f"stacks of rank {beat.rank} (process {beat.pid}, {beat.step} "
                f"steps):\n{text or 'none: it does not answer'}"
            )
        self.verdict = (
            f"no step for {seconds:.0f} s on node {node} (usual at most {late.p99_s:.2g} s): {found}; "
            "the ranks are ended and the gang starts again from its last checkpoint"
        )
        for beat in beats:
            _send(beat.pid, signal.SIGKILL)

    def _dump_stacks(self, beats: list[RankBeat]) -> list[str]:
        paths = [self._folder / f"stacks-{beat.rank:05d}" for beat in beats]
        for beat in beats:
            _send(beat.pid, signal.SIGUSR1)
        deadline = time.monotonic() + DUMP_S
        while time.monotonic() < deadline and not all(_size(path) for path in paths):
            time.sleep(0.1)
        time.sleep(0.2)  # a dump is some writes
        return [path.read_text() if path.exists() else "" for path in paths]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may just have ended
        os.kill(pid, number)
