from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diht_k8s.api.errors import RetryableError
from diht_k8s.api.reports import MAX_LINE_BYTES, Cause, SavedCheckpoint
from diht_k8s.runtime.hangs import awaited_rank as record_request
from diht_k8s.runtime.hangs.awaited_rank import (
    Collective,
    GangRecords,
    GroupRecord,
    RankRecord,
    awaited_by_records,
    awaited_rank,
    gather_path,
    gathered_path,
    record_path,
    request_records,
)
from diht_k8s.runtime.hangs.heartbeat import (
    FOLDER_VARIABLE,
    Heartbeat,
    RankActivity,
    RankBeat,
    notes_folder,
    percentile_99,
    write_whole,
)
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog, awaited_by_stacks, overdue
from diht_k8s.runtime.stage import exit_code_of

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


SAVED = SavedCheckpoint(step=40, uri="s3://b/step-40", seconds=99)


def test_cause_of_a_failed_training_names_its_step_and_newest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("DIHT_TERMINATION_LOG", str(tmp_path / "cause"))
    for rank, checkpoint in enumerate((SAVED, SAVED.model_copy(update={"step": 30}))):
        heartbeat = Heartbeat(rank)
        heartbeat.note_position(25, None)
        for _ in range(17):
            heartbeat.step()
        heartbeat.note_position(42, checkpoint)

    def fails() -> None:
        error = RetryableError("lost")
        error.details = Watchdog(tmp_path, HangLimits()).details()
        raise error

    assert exit_code_of(fails) == 75
    cause = Cause.model_validate_json((tmp_path / "cause").read_text())
    assert (cause.step, cause.checkpoint, cause.message) == (42, SAVED, "lost")


def test_place_that_cannot_be_read_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "position-00000").write_text("{")
    assert Watchdog(tmp_path, HangLimits()).details() == {}


@pytest.mark.parametrize(("uri", "kept"), [("s3://b/1", True), ("s3://b/" + "é" * 3000, False)], ids=["usual", "huge"])
def test_cause_with_a_checkpoint_stays_within_the_termination_message(uri: str, kept: bool) -> None:
    checkpoint = SAVED.model_copy(update={"uri": uri})
    text = Cause(exit_code=75, reason="R", message="m" * 9000, checkpoint=checkpoint).encoded()
    assert len(text.encode()) <= MAX_LINE_BYTES
    assert ("checkpoint" in json.loads(text)) is kept


WORLD = "gloo:0"


def record(
    rank: int,
    issued: int,
    pending: int | None = None,
    *,
    name: str = "all_reduce",
    doing: str = "",
    more: dict[str, GroupRecord] | None = None,
) -> RankRecord:
    each = None if pending is None else Collective(sequence=pending, name=name)
    groups = {WORLD: GroupRecord(issued=issued, pending=each), **(more or {})}
    return RankRecord(rank=rank, node=f"n{rank // 2}", doing=doing, groups=groups)


def control(issued: int, pending: int | None = None) -> dict[str, GroupRecord]:
    each = None if pending is None else Collective(sequence=pending, name="barrier")
    return {"gloo:1": GroupRecord(issued=issued, pending=each)}


@pytest.mark.parametrize(
    ("records", "ranks", "sentence"),
    [
        (
            [
                record(0, 41, 41),
                record(1, 41, 41, doing="engine.py:9 in step"),
                record(2, 40, doing="dataset.py:7 in read"),
                record(3, 41, 41),
            ],
            4,
            "rank 2 on node n1 has not reached all_reduce 41 (it is at dataset.py:7 in read); the 3 others wait in it",
        ),
        (
            [record(0, 45, 41, doing="engine.py:9 in step"), record(1, 40)],
            2,
            "rank 1 on node n0 has not reached all_reduce 41; the other waits in it (engine.py:9 in step)",
        ),
        (
            [record(0, 41, 41), record(1, 41, 41), record(3, 41, 41)],
            4,
            "rank 2 on node n1 does not answer (stopped or dead); the 3 others wait in all_reduce 41",
        ),
        (
            [record(0, 41, 41)],
            4,
            "ranks 1 (node n0), 2 (node n1), 3 (node n1) do not answer (stopped or dead); the other waits in "
            "all_reduce 41",
        ),
        ([record(0, 40), record(1, 40)], 3, "rank 2 on node n1 does not answer (stopped or dead)"),
        (
            [record(0, 41, 41), record(1, 40), record(2, 40), record(3, 41, 41)],
            4,
            "ranks 1 (node n0), 2 (node n1) have not reached all_reduce 41; the 2 others wait in it",
        ),
        (
            [record(0, 7, 7), record(1, 7, 7)],
            2,
            "all 2 ranks are in all_reduce 7: see the network between their nodes, and their devices",
        ),
        ([record(0, 7, 7), record(1, 7)], 2, "rank 0 on node n0 is still in all_reduce 7, which the others have left"),
        (
            [record(0, 7, 7), record(1, 7, 7, name="all_gather")],
            2,
            "rank 1 on node n0 is in all_gather 7 where rank 0 on node n0 is in all_reduce 7",
        ),
        # rank 0 waits for rank 1, which waits in the other group for rank 2
        (
            [record(0, 9, 9, more=control(4)), record(1, 8, more=control(4, 4)), record(2, 9, more=control(3))],
            3,
            "rank 2 on node n1 has not reached barrier 4; 1 of the 2 others waits in it",
        ),
        ([record(0, 9), record(1, 9)], 2, None),
        ([RankRecord(rank=0, node="n0"), RankRecord(rank=1, node="n0")], 2, None),
    ],
)
def test_sentence_names_whom_the_others_wait_for(records: list[RankRecord], ranks: int, sentence: str | None) -> None:
    assert awaited_rank(records, {rank: f"n{rank // 2}" for rank in range(ranks)}) == sentence


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([record(0, 41, 41), record(1, 41, 41)], None),
        ([record(0, 41, 41), record(1, 40)], "rank 1 on node n0 has not reached all_reduce 41; the other waits in it"),
    ],
)
def test_part_of_a_gang_names_only_whom_it_holds(records: list[RankRecord], sentence: str | None) -> None:
    assert awaited_rank(records, {0: "n0", 1: "n0"}, whole=False) == sentence


def test_sentence_of_a_large_gang_fits_into_a_termination_message() -> None:
    node = "gpu-node-with-a-long-name." + "x" * 220
    nodes = dict.fromkeys(range(1024), node)
    records = [
        RankRecord(
            rank=rank,
            node=node,
            doing="engine.py:310 in step",
            groups={WORLD: GroupRecord(issued=41, pending=Collective(sequence=41, name="all_reduce"))},
        )
        for rank in range(4)
    ]
    sentence = awaited_rank(records, nodes)
    assert sentence is not None
    assert "and 1017 more do not answer (stopped or dead); the 4 others wait in all_reduce 41" in sentence
    cause = Cause(exit_code=75, reason="Retryable", message=sentence)
    encoded = cause.encoded()
    assert len(encoded.encode()) <= MAX_LINE_BYTES
    assert Cause.model_validate_json(encoded).message == sentence


WAITS = RankRecord(
    rank=4, node="a", groups={"gloo:0": GroupRecord(issued=3, pending=Collective(sequence=3, name="all_reduce"))}
)
IS_BEHIND = RankRecord(rank=5, node="b", groups={"gloo:0": GroupRecord(issued=2)})


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_request, "ANSWER_S", 0.3)
    monkeypatch.setattr(record_request, "GANG_S", 0.3)


def gathers(folder: Path, rank: int, found: GangRecords) -> threading.Thread:
    """A rank that gathers once it is asked to."""

    def run() -> None:
        while not gather_path(folder, rank).exists():
            time.sleep(0.01)
        write_whole(gathered_path(folder, rank), found.model_dump_json())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_rank_that_answers_is_asked_for_the_whole_gang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_request, "GANG_S", 20.0)
    request_records(tmp_path)
    assert (tmp_path / record_request.ASK).exists()
    write_whole(record_path(tmp_path, 4), WAITS.model_dump_json())  # rank 3 of this node does not answer
    thread = gathers(tmp_path, 4, GangRecords(records=[WAITS, IS_BEHIND], nodes={4: "a", 5: "b"}))
    assert (
        awaited_by_records(tmp_path, [3, 4], "a")
        == "rank 5 on node b has not reached all_reduce 3; the other waits in it"
    )
    thread.join()


def test_ranks_of_the_node_alone_tell_what_they_can_if_nothing_is_gathered(tmp_path: Path) -> None:
    write_whole(record_path(tmp_path, 4), WAITS.model_dump_json())
    assert awaited_by_records(tmp_path, [4], "a") is None
    sentence = "rank 3 on node a does not answer (stopped or dead); the other waits in all_reduce 3"
    assert awaited_by_records(tmp_path, [3, 4], "a") == sentence


def test_node_that_does_not_answer_and_torn_records_tell_nothing(tmp_path: Path) -> None:
    assert awaited_by_records(tmp_path, [0, 1], "a") is None
    record_path(tmp_path, 0).write_text('{"rank": 0')
    assert awaited_by_records(tmp_path, [0, 1], "a") is None


def test_folder_that_takes_no_files_ends_no_watchdog(tmp_path: Path) -> None:
    request_records(tmp_path / "gone")
    assert awaited_by_records(tmp_path / "gone", [0], "a") is None
