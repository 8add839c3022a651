from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diht_k8s.runtime.hangs.heartbeat import (
    FOLDER_VARIABLE,
    Heartbeat,
    RankActivity,
    RankBeat,
    notes_folder,
    percentile_99,
)
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog, awaited_by_stacks, overdue

LIMITS = HangLimits(min_seconds=120, first_steps=100)
COLLECTIVE = 'File "site/torch/distributed/distributed_c10d.py", line 1 in all_reduce\n'
ELSEWHERE = 'File "diht_k8s/stages/train/data/dataset.py", line 1 in read\n'
RANK = """
import sys, time
from diht_k8s.runtime.hangs.heartbeat import Heartbeat
beat = Heartbeat(int(sys.argv[1]))
for _ in range(4):
    beat.step()
def stand():
    print("ready", flush=True)
    time.sleep(600)
exec(compile("def wait():\\n    stand()", "site/torch/distributed/distributed_c10d.py", "exec"))
(wait if sys.argv[2] == "waits" else stand)()
"""


def beat(
    rank: int = 0, *, step: int = 500, doing: RankActivity = RankActivity.STEP, at: float = 0.0, p99_s: float = 1.0
) -> RankBeat:
    return RankBeat(1000 + rank, step, doing, at, p99_s, rank)


@pytest.mark.parametrize(
    ("beats", "now", "rank"),
    [
        ([beat(0), beat(1)], 119.0, None),
        ([beat(0, at=3.0), beat(1)], 121.0, 1),
        ([beat(0, p99_s=50.0)], 149.0, None),
        ([beat(0, p99_s=50.0)], 151.0, 0),
        ([beat(0, step=99)], 539.0, None),
        ([beat(0), beat(1, step=1)], 541.0, 0),
        ([beat(1, step=1)], 541.0, 1),
        ([beat(0, doing=RankActivity.STARTING)], 1e6, None),
        ([beat(0, doing=RankActivity.DONE)], 1e6, None),
        ([beat(0), beat(1, doing=RankActivity.UNTIMED)], 1e6, None),
        ([], 1e6, None),
    ],
    ids=[
        "in time",
        "late",
        "slow steps, in time",
        "slow steps, late",
        "first steps, in time",
        "first steps beside a later rank",
        "first steps, late",
        "start",
        "end",
        "checkpoint",
        "none",
    ],
)
def test_overdue_when_asked_then_the_latest_rank_beyond_its_limit(
    beats: list[RankBeat], now: float, rank: int | None
) -> None:
    found = overdue(beats, LIMITS, now)
    assert (found.rank if found else None) == rank


@pytest.mark.parametrize(
    ("beats", "stacks", "text"),
    [
        ([beat(0), beat(1)], [COLLECTIVE, ""], "rank 1 does not answer (stopped or dead)"),
        ([beat(0), beat(1)], [ELSEWHERE, COLLECTIVE], "the others wait for rank 0"),
        ([beat(0), beat(1, step=499)], [COLLECTIVE, COLLECTIVE], "the others wait for rank 1, which is at step 499"),
        ([beat(4), beat(5)], [COLLECTIVE, COLLECTIVE], "all ranks of this node wait for one of another node"),
        ([beat(0)], [ELSEWHERE], "no rank of this node waits for another: see their stacks"),
    ],
)
def test_awaited_when_ranks_stand_still_then_named(beats: list[RankBeat], stacks: list[str], text: str) -> None:
    assert awaited_by_stacks(beats, stacks) == text


@pytest.mark.parametrize(
    ("durations", "expected"), [([], 0.0), ([2.0], 2.0), ([1.0] * 199 + [9.0], 1.0), ([1.0] * 99 + [9.0], 9.0)]
)
def test_percentile_when_one_step_was_slow_then_it_counts_from_a_hundredth_on(
    durations: list[float], expected: float
) -> None:
    assert percentile_99(durations) == expected


def test_heartbeat_when_steps_pass_then_the_watchdog_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    times = iter([0.0, 10.0, 10.0, 12.0, 12.0, 50.0, 90.0, 90.0, 93.0, 93.0])
    heart = Heartbeat(3, clock=lambda: next(times))
    heart.step()
    heart.step()
    heart.pause()  # a checkpoint of 40 s is no step
    heart.step()
    heart.step()
    assert Watchdog(tmp_path, LIMITS).beats() == [RankBeat(os.getpid(), 4, RankActivity.STEP, 93.0, 3.0, 3)]


def test_heartbeat_when_unwatched_then_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    Heartbeat(0).step()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stopped", "does", "verdict"),
    [(1, "waits", "rank 1 does not answer (stopped or dead)"), (None, "reads", "the others wait for rank 1")],
    ids=["stopped", "busy"],
)
def test_watchdog_when_a_rank_stands_still_then_stacks_said_ranks_killed_and_it_named(
    tmp_path: Path, stopped: int | None, does: str, verdict: str
) -> None:
    environment = {**os.environ, FOLDER_VARIABLE: str(tmp_path)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), what], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank, what in enumerate(["waits", does])
    ]
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
    if stopped is not None:
        ranks[stopped].send_signal(signal.SIGSTOP)
    said: list[str] = []
    with Watchdog(tmp_path, HangLimits(min_seconds=0.2, first_steps=3), say=said.append) as watchdog:
        codes = [rank.wait(timeout=300) for rank in ranks]
        deadline = time.monotonic() + 60
        while watchdog.verdict is None and time.monotonic() < deadline:
            time.sleep(0.05)
    for rank in ranks:
        rank.stdout.close()
    assert codes == [-signal.SIGKILL] * 2
    assert watchdog.verdict is not None
    assert verdict in watchdog.verdict
    assert "distributed_c10d.py" in said[0]
    assert said[1].startswith(f"stacks of rank 1 (process {ranks[1].pid}, 4 steps):")


def test_folder_of_notes_is_passed_to_ranks_of_its_gang_only() -> None:
    with notes_folder() as folder:
        assert os.environ[FOLDER_VARIABLE] == str(folder)
        assert folder.is_dir()
    assert FOLDER_VARIABLE not in os.environ
    assert not folder.exists()
