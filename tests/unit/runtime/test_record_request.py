"""The files between a node's watchdog and its ranks, whose threads are played here."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from diht_k8s.runtime.hangs import record_request
from diht_k8s.runtime.hangs.awaited_rank import Collective, GroupRecord, RankRecord
from diht_k8s.runtime.hangs.record_request import (
    GangRecords,
    awaited_by_records,
    gather_path,
    gathered_path,
    record_path,
    request_records,
    write_atomically,
)

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
        write_atomically(gathered_path(folder, rank), found)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_rank_that_answers_is_asked_for_the_whole_gang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_request, "GANG_S", 20.0)
    request_records(tmp_path)
    assert (tmp_path / record_request.ASK).exists()
    write_atomically(record_path(tmp_path, 4), WAITS)  # rank 3 of this node does not answer
    thread = gathers(tmp_path, 4, GangRecords(records=[WAITS, IS_BEHIND], nodes={4: "a", 5: "b"}))
    assert (
        awaited_by_records(tmp_path, [3, 4], "a")
        == "rank 5 on node b has not reached all_reduce 3; the other waits in it"
    )
    thread.join()


def test_ranks_of_the_node_alone_tell_what_they_can_if_nothing_is_gathered(tmp_path: Path) -> None:
    write_atomically(record_path(tmp_path, 4), WAITS)
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
