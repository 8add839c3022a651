"""What a person sees of a run: bars of all stages on a terminal, plain lines anywhere else, its state in a sentence,
and where its time went. One bar for other commands.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.reports import Progress, parse_progress
from diht_k8s.api.run import Stage
from diht_k8s.api.status import Goodput, StageGoodput, StageStatus, Status
from diht_k8s.pipeline.goodput import goodput_json, goodput_of, goodput_text, stage_goodput
from diht_k8s.pipeline.run_status import RunStatus

PLAIN_EVERY_S: Final = 10.0
SHOWN_METRICS: Final = 4
BAR_WIDTH: Final = 16
BESIDE_BAR: Final = 16
"""Columns of the stage's name, the percentage and the gaps."""
FRESH_S: Final = 5.0
"""A worker that has been silent for longer is waiting or done, so the line of another one is shown."""


class Display(Protocol):
    """The state of each stage of a run, shown to a person."""

    def note(self, text: str) -> None:
        """A line of its own that stays."""
        ...

    def progress(self, progress: Progress) -> None:
        """A program's newest progress."""
        ...

    def state(self, stage: Stage, text: str, *, ended: bool = False) -> None:
        """A stage is `cached`, `starting`, `done in 12 s`, ...; `ended` when it needs nothing more."""
        ...


@contextlib.contextmanager
def open_display(
    stages: Sequence[Stage], console: Console, clock: Callable[[], float], *, every_s: float = PLAIN_EVERY_S
) -> Iterator[Display]:
    """The display that fits the console; it is closed at the end of the block."""
    if not console.is_terminal:
        yield PlainDisplay(console, clock, every_s)
        return
    with LiveDisplay(stages, console, clock) as display:
        yield display


class _Amount(ProgressColumn):
    """`1,280/6,000 pairs`, without the total while that is unknown."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """The text of a bar."""
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{total} {self._unit}")


def progress_bar(unit: str = "images") -> Bars:
    """One bar on stderr, for commands that are no run; where that is no terminal, one line at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Amount(unit))
    return Bars(*columns, TaskProgressColumn(show_speed=True), TimeRemainingColumn(), console=Console(stderr=True))


class NewestProgress:
    """The progress of a stage among its workers: each counts the whole stage, so one line at a time is shown."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines: dict[int, tuple[float, Progress]] = {}
        self.last: Progress | None = None

    def add(self, progress: Progress) -> Progress:
        """Add a line; returns the line to show: the step of the first worker with recent progress, as far as any worker
        sees it.
        """
        now = self._clock()
        self._lines[progress.worker] = (now, progress)
        fresh = [line for _, (at, line) in sorted(self._lines.items()) if now - at <= FRESH_S]
        self.last = max((line for line in fresh if line.step == fresh[0].step), key=lambda line: line.done)
        return self.last


def show(value: Any, lines: Iterable[str], *, as_json: bool) -> int:
    """Print what a command found, as one JSON value or in lines for a person, which are made only then; the exit
    code.
    """
    if as_json:
        print(json.dumps(value))
    else:
        for line in lines:
            print(line)
    return ExitCode.DONE


def amount(progress: Progress) -> str:
    """`1,280/6,000 samples`, without the total while that is unknown."""
    total = f"/{progress.total:,}" if progress.total else ""
    return f"{progress.done:,}{total} {progress.unit}"


def duration(seconds: float) -> str:
    """`42 s`, `3:05`, `1:02:03`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def speed(progress: Progress) -> str:
    """`203/s, 0:42 left`."""
    rate = f"{progress.per_second:,.0f}/s" if progress.per_second >= 10 else f"{progress.per_second:.2g}/s"
    left = "" if progress.eta_seconds is None else f", {duration(progress.eta_seconds)} left"
    return f"{rate}{left}" if progress.per_second else ""


def metrics(progress: Progress) -> str:
    """`loss 3.21, lr 0.001`: the first few."""
    return ", ".join(f"{name} {value:.4g}" for name, value in list(progress.metrics.items())[:SHOWN_METRICS])


def plain(progress: Progress) -> str:
    """`train    steps: 1,280/6,000 samples  21 %  203/s, 0:42 left  loss 3.21`."""
    percent = f"{100 * progress.done / progress.total:.0f} %" if progress.total else ""
    parts = [f"{progress.step}: {amount(progress)}", percent, speed(progress), metrics(progress)]
    return f"{progress.stage:<8} " + "  ".join(part for part in parts if part)


def readable(line: str) -> str:
    """A line of a program's log as a person reads it: one of progress in words, any other as it is."""
    progress = parse_progress(line)
    return line if progress is None else f"{plain(progress)}\n"


class PlainDisplay:
    """One line every few seconds, and one at each change of state."""

    def __init__(self, console: Console, clock: Callable[[], float], every_s: float) -> None:
        self._console, self._clock, self._every_s = console, clock, every_s
        self._printed_at = clock()
        self._newest: dict[Stage, NewestProgress] = {}

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def progress(self, progress: Progress) -> None:
        """Print a line if the last one is old enough."""
        shown = self._newest.setdefault(progress.stage, NewestProgress(self._clock)).add(progress)
        now = self._clock()
        if now - self._printed_at < self._every_s:
            return
        self._printed_at = now
        self.note(plain(shown))

    def state(self, stage: Stage, text: str, *, ended: bool = False) -> None:
        """Print the stage's state."""
        self._printed_at = self._clock()
        self.note(f"{stage:<8} {text}{_ended_with(self._newest.get(stage)) if ended else ''}")


class LiveDisplay:
    """A bar for each stage, redrawn in place."""

    def __init__(self, stages: Sequence[Stage], console: Console, clock: Callable[[], float]) -> None:
        self._bars = Bars(
            TextColumn("{task.fields[stage]:<8}", style="bold"),
            BarColumn(bar_width=BAR_WIDTH),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            refresh_per_second=4,
        )
        self._clock = clock
        self._tasks: dict[Stage, TaskID] = {
            stage: self._bars.add_task("", total=1, stage=stage.value, text="waiting") for stage in stages
        }
        self._newest: dict[Stage, NewestProgress] = {}

    def __enter__(self) -> LiveDisplay:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(Text(text))

    def progress(self, progress: Progress) -> None:
        """Move a bar."""
        shown = self._newest.setdefault(progress.stage, NewestProgress(self._clock)).add(progress)
        parts = [shown.step, amount(shown), speed(shown), metrics(shown)]
        self._bars.update(
            self._tasks[shown.stage],
            completed=min(shown.done, shown.total),
            total=shown.total or None,
            text=self._fit("  ".join(part for part in parts if part)),
        )

    def state(self, stage: Stage, text: str, *, ended: bool = False) -> None:
        """Write the state beside the bar; an ended stage's bar is full."""
        suffix = _ended_with(self._newest.get(stage)) if ended else ""
        self._bars.update(self._tasks[stage], text=self._fit(text + suffix))
        if ended:
            self._bars.update(self._tasks[stage], completed=1, total=1)

    def _fit(self, text: str) -> str:
        """Cut what does not fit beside the bar, so that each stage keeps one line."""
        room = max(1, self._bars.console.width - BAR_WIDTH - BESIDE_BAR)
        return text if len(text) <= room else f"{text[: room - 1]}…"


def _ended_with(newest: NewestProgress | None) -> str:
    """The last progress of a stage, for the line that says that it is done."""
    if newest is None or newest.last is None:
        return ""
    return ": " + ", ".join(part for part in (amount(newest.last), metrics(newest.last)) if part)


def run_sentence(name: str, state: str, *, reason: str = "", says: str = "", since: str = "") -> str:
    """What a run of this machine or of a cluster does, or why it does not, in one sentence.

    Args:
        name: of the run.
        state: complete, failed or running; it does not run in any other.
        reason: in a word.
        says: more of it.
        since: when it was complete.
    """
    why = f" ({reason})" if reason else ""
    does = {"complete": f"is complete since {since}", "failed": f"failed{why}", "running": "runs"}
    return f"{name} {does.get(state, f'does not run{why}')}{f': {says}' if says else ''}"


START_UP_WORDS = {
    "pod": "pod",
    "imports": "imports",
    "rendezvous": "rendezvous",
    "checkpoint": "model and checkpoint",
    "firstBatch": "first batch",
}


def goodput_lines(status: Status) -> list[str]:
    """The goodput of a run and of its stages, and the parts of their newest starts; nothing before the first
    attempt.
    """
    stages = [(each.name, each.goodput, _starts(each)) for each in status.stages if each.goodput is not None]
    return _time_lines(status.goodput, sum(map(_starts, status.stages)), stages)


def local_goodput(status: RunStatus) -> list[str]:
    """The same lines for a run on this machine."""
    records = [record for record in status.stages if record.time.since]
    starts = sum(record.attempt + record.total_in_place for record in records)
    return _time_lines(goodput_of(record.time for record in records), starts, _entries(status))


def _time_lines(whole: Goodput | None, starts: int, stages: Iterable[tuple[str, StageGoodput, int]]) -> list[str]:
    """The line of a run, then those of its stages, each with its name, time and starts."""
    if whole is None or not whole.wall_seconds:
        return []
    lines = [f"time: {goodput_text(whole, starts)} ({whole.wall_seconds} s)"]
    for name, shown, attempts in stages:
        if shown.wall_seconds:
            lines.append(f"  {name}: {goodput_text(shown, attempts)}{_start_up(shown)}")
    return lines


def page_goodput(status: RunStatus) -> str:
    """The same as JSON, for the report's page."""
    return goodput_json(_entries(status))


def _entries(status: RunStatus) -> list[tuple[str, StageGoodput, int]]:
    """Name, time and starts of the stages."""
    found: list[tuple[str, StageGoodput, int]] = []
    for record in status.stages:
        shown = stage_goodput(record.time, ended=True)
        if shown is not None and shown.wall_seconds:
            name = f"{record.stage}-{record.step}" if record.step else str(record.stage)
            found.append((name, shown, record.attempt + record.total_in_place))
    return found


def _starts(stage: StageStatus) -> int:
    """Attempts and restarts in place."""
    return stage.attempt + (stage.restarts_in_place.total if stage.restarts_in_place is not None else 0)


def _start_up(shown: StageGoodput) -> str:
    parts = [f"{START_UP_WORDS.get(part.name, part.name)} {part.seconds} s" for part in shown.start_up]
    return f" (newest start: {', '.join(parts)})" if parts else ""
