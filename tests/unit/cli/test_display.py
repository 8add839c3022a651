"""What a person reads during a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage
from diht_k8s.cli.display import (
    LiveDisplay,
    NewestProgress,
    PlainDisplay,
    amount,
    duration,
    metrics,
    open_display,
    speed,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(done: int = 1280, total: int = 6000, worker: int = 0, **more: object) -> Progress:
    return Progress.model_validate(
        {
            "stage": "train",
            "step": "epoch 1",
            "done": done,
            "total": total,
            "per_second": 203.4,
            "eta_seconds": 95,
            "metrics": {"loss": 3.214159, "lr": 0.001},
            "worker": worker,
            **more,
        }
    )


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (amount(progress()), "1,280/6,000 samples"),
        (amount(progress(total=0)), "1,280 samples"),
        (speed(progress()), "203/s, 1:35 left"),
        (speed(progress(per_second=0.5, eta_seconds=None)), "0.5/s"),
        (speed(progress(per_second=0.0)), ""),
        (metrics(progress()), "loss 3.214, lr 0.001"),
        (metrics(progress(metrics={name: 1.0 for name in "abcdef"})), "a 1, b 1, c 1, d 1"),
        (duration(42.4), "42 s"),
        (duration(59.7), "1:00"),
        (duration(185), "3:05"),
        (duration(3723), "1:02:03"),
    ],
)
def test_numbers_read_well(shown: str, text: str) -> None:
    assert shown == text


def test_newest_shows_the_first_worker_with_recent_progress() -> None:
    clock = Clock()
    newest = NewestProgress(clock)
    assert newest.add(progress(worker=1)).worker == 1
    assert newest.add(progress(worker=0)).worker == 0
    assert newest.add(progress(worker=1)).worker == 0
    assert newest.add(progress(worker=1, done=1300)).worker == 1
    assert newest.add(progress(worker=1, done=1400, step="epoch 2")).worker == 0
    clock.now += 6
    assert newest.add(progress(worker=1)).worker == 1


def test_plain_display_prints_a_line_every_few_seconds_and_at_the_end() -> None:
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(Console(file=stream, width=60), clock, every_s=10)
    display.state(Stage.TRAIN, "starting")
    for _ in range(25):
        clock.now += 1
        display.progress(progress())
    display.state(Stage.TRAIN, "done in 25 s", ended=True)
    line = "train    epoch 1: 1,280/6,000 samples  21 %  203/s, 1:35 left  loss 3.214, lr 0.001"
    assert stream.getvalue().splitlines() == [
        "train    starting",
        line,
        line,
        "train    done in 25 s: 1,280/6,000 samples, loss 3.214, lr 0.001",
    ]


def test_live_display_shows_a_bar_for_each_stage() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, color_system=None)
    with open_display(list(Stage), console, Clock()) as display:
        assert isinstance(display, LiveDisplay)
        display.state(Stage.FILTER, "cached", ended=True)
        display.note("[not markup]")
        display.progress(progress())
    text = stream.getvalue()
    assert all(stage in text for stage in Stage)
    assert "epoch 1  1,280/6,000 samples  203/s, 1:35 left  loss 3.214, lr 0.001" in text
    assert "[not markup]" in text
    assert "100 % cached" in text
    assert " 21 % " in text


def test_a_pipe_gets_plain_lines() -> None:
    with open_display(list(Stage), Console(file=io.StringIO()), Clock()) as display:
        assert isinstance(display, PlainDisplay)
