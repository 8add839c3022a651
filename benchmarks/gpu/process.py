"""Runs one case in a time box: measures between two of the trainer's lines, then kills it."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from diht_k8s.api.reports import parse_progress

DONE: Final = "done"
OUT_OF_MEMORY: Final = "out of memory"
FAILED: Final = "failed"
TOO_SLOW: Final = "too slow"
"""The time box ended before the window had two lines."""
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|Cannot allocate memory", re.I
)
_THEIRS: Final = re.compile(r"Train Epoch: \d+ \[\s*(\d+)/")
_TIMES: Final = re.compile(r"Data \(t\): ([\d.]+).*?Batch \(t\): ([\d.]+)")
_PEAK: Final = re.compile(r"peak_memory_mib=([\d.]+)")
KEPT_LINES: Final = 40
"""Of a case that failed."""
AGAIN: Final = (FAILED, TOO_SLOW)
"""Outcomes that the next run tries again: compiled kernels lie in a cache then."""


@dataclass(frozen=True)
class Box:
    """When a case is measured and when it ends."""

    warm_up_steps: int
    window_s: float
    limit_s: float
    """for all of it, start-up included."""


@dataclass(frozen=True)
class Measured:
    """What became of a case."""

    outcome: str
    samples_per_second: float | None = None
    peak_memory_mib: float | None = None
    loader_wait_percent: float | None = None
    loss_ms: float | None = None
    seconds: float = 0.0
    """that the whole case took."""
    last_lines: tuple[str, ...] = ()


@dataclass
class Reading:
    """What a trainer's lines say. Pure: the time is given."""

    first: int
    """samples after which the window begins."""
    marks: list[tuple[int, float]] = field(default_factory=list)
    """(samples done, time), the window's first and last line."""
    waits: list[float] = field(default_factory=list)
    peak_mib: float | None = None
    loss_ms: float | None = None
    out_of_memory: bool = False

    def take(self, line: str, now: float) -> None:
        """Take in a line of either trainer."""
        self.out_of_memory = self.out_of_memory or bool(_OUT_OF_MEMORY.search(line))
        if (peak := _PEAK.search(line)) is not None:
            self.peak_mib = float(peak[1])
        if line.startswith('{"loss_ms"'):
            self.loss_ms = float(json.loads(line)["loss_ms"])
        done = samples_of(line)
        if done is None or done < self.first:
            return
        if (times := _TIMES.search(line)) is not None and self.marks and float(times[2]) > 0:
            self.waits.append(100 * float(times[1]) / float(times[2]))
        self.marks = [*self.marks[:1], (done, now)]

    @property
    def window_s(self) -> float:
        """Length of the window so far."""
        return self.marks[-1][1] - self.marks[0][1] if self.marks else 0.0

    @property
    def samples_per_second(self) -> float | None:
        """Over the window; None before it has two lines."""
        if len(self.marks) < 2 or self.window_s <= 0:
            return None
        return (self.marks[-1][0] - self.marks[0][0]) / self.window_s


def samples_of(line: str) -> int | None:
    """How many samples a line of either trainer says are done."""
    progress = parse_progress(line)
    if progress is not None:
        return progress.done or None
    found = _THEIRS.search(line)
    return int(found[1]) if found else None


def run_case(command: Sequence[str], environment: Mapping[str, str], box: Box, *, batch: int, place: Path) -> Measured:
    """Run one case.

    Args:
        command: of the side.
        environment: of its processes.
        box: when it is measured and ended.
        batch: pairs of a step.
        place: the case's folder, where our trainer writes its metrics.
    """
    began, reading = time.monotonic(), Reading(box.warm_up_steps * batch)
    last: deque[str] = deque(maxlen=KEPT_LINES)
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in _lines_until(process, began + box.limit_s, reading, box.window_s):
                if not _PEAK.search(line):
                    last.append(line.rstrip()[:500])
        finally:
            _kill(process)
    ours = place / "out/runs/latest/train/metrics.jsonl"
    if ours.exists():
        _add_metrics(reading, ours.read_text())
    return _judged(reading, process.returncode, time.monotonic() - began, tuple(last))


def _lines_until(process: subprocess.Popen[str], deadline: float, reading: Reading, window_s: float) -> Iterator[str]:
    """The process's lines, until it ends, the window is full or the time is over."""
    assert process.stdout is not None
    lines: queue.Queue[tuple[str, float] | None] = queue.Queue()

    def pump(stream: Iterable[str]) -> None:
        with contextlib.suppress(ValueError):  # closed when the process is killed
            for line in stream:
                lines.put((line, time.monotonic()))
        lines.put(None)

    threading.Thread(target=pump, args=(process.stdout,), daemon=True).start()
    while time.monotonic() < deadline and reading.window_s < window_s:
        try:
            item = lines.get(timeout=0.5)
        except queue.Empty:
            continue
        if item is None:
            process.wait()
            return
        reading.take(*item)
        yield item[0]


def _kill(process: subprocess.Popen[str]) -> None:
    """End the case's processes; torchrun puts its ranks into sessions of their own, so a group is not enough."""
    with contextlib.suppress(psutil.NoSuchProcess):
        begun = psutil.Process(process.pid)
        for one in (begun, *begun.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def _add_metrics(reading: Reading, text: str) -> None:
    """Peak memory and loader wait of our own metrics, of the lines inside the window."""
    end = reading.marks[-1][0] if reading.marks else 0
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue  # cut off when the trainer was killed
        reading.peak_mib = found.get("peak_memory_mib", reading.peak_mib)
        if reading.first < found["samples"] <= end:
            reading.waits.append(found["data_wait_percent"])


def _judged(reading: Reading, code: int | None, seconds: float, last: tuple[str, ...]) -> Measured:
    rate = reading.samples_per_second
    wait = sum(reading.waits) / len(reading.waits) if reading.waits else None
    figures = (rate, reading.peak_mib, wait, reading.loss_ms, round(seconds, 1))
    if rate is not None or reading.loss_ms is not None:
        return Measured(DONE, *figures)
    if reading.out_of_memory:
        return Measured(OUT_OF_MEMORY, *figures)
    if code == -signal.SIGKILL:
        return Measured(TOO_SLOW, *figures, last)
    return Measured(FAILED, *figures, last)
