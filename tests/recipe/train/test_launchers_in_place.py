"""Launchers with stub ranks: real processes agree on rounds, and end together when they cannot."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks._launchers import STUB, Launchers, launchers
from diht_k8s.api.errors import DihtError, RetryableError
from diht_k8s.runtime.in_place import launcher as in_place
from diht_k8s.runtime.in_place.rounds import Register, RoundFailure

NODES = 5


def pause(node: int) -> Callable[[Launchers], None]:
    """A launcher stands still for a second while the others go on."""

    def act(gang: Launchers) -> None:
        gang.signal(node, signal.SIGSTOP)
        time.sleep(1)
        gang.signal(node, signal.SIGCONT)

    return act


@pytest.mark.parametrize(
    "act",
    [lambda gang: None, pause(3), pause(0)],
    ids=["undisturbed", "one launcher hangs for a moment", "the store hangs for a moment"],
)
def test_launchers_when_a_rank_is_killed_then_all_ranks_begin_the_next_round(
    tmp_path: Path, act: Callable[[Launchers], None]
) -> None:
    with launchers(NODES, tmp_path) as gang:
        gang.wait_for_round(1, 240)
        before = gang.ranks(1)
        gang.kill_rank(1, 2)
        act(gang)
        gang.wait_for_round(2, 240)
        assert before.keys() == gang.ranks(2).keys() == set(range(NODES))
        assert not [process for process in before.values() if Path(f"/proc/{process}").exists()], "all are reaped"
        gang.signal(1, signal.SIGTERM)
        assert gang.codes(240) == [143] * NODES


def test_launchers_when_one_is_killed_before_it_acknowledges_then_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diht_k8s.runtime.in_place.rounds.ACKNOWLEDGE_S", 2.0)
    with launchers(NODES, tmp_path) as gang:
        gang.wait_for_round(1, 240)
        gang.signal(3, signal.SIGSTOP)
        gang.kill_rank(1, 2)
        time.sleep(1)
        gang.signal(3, signal.SIGKILL)
        assert gang.codes(240) == [75, 75, 75, -signal.SIGKILL, 75]
        assert "not all nodes ended their ranks within 2 s" in (tmp_path / "end-0").read_text()
        assert gang.ranks(2) == {}


def test_launchers_when_launcher_0_is_killed_then_the_others_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diht_k8s.runtime.in_place.rounds.UNREACHABLE_S", 5.0)
    with launchers(NODES, tmp_path) as gang:
        gang.wait_for_round(1, 240)
        gang.signal(0, signal.SIGKILL)
        assert gang.codes(240) == [-signal.SIGKILL, 75, 75, 75, 75]
        said = "launcher 0 has not answered for 5 s: the gang starts again"
        assert said in (tmp_path / "end-1").read_text()


def test_launchers_when_a_rank_is_killed_over_and_over_then_they_end(tmp_path: Path) -> None:
    with launchers(2, tmp_path) as gang:
        for round_ in range(1, 5):
            gang.wait_for_round(round_, 240)
            gang.kill_rank(round_, 1)
        assert gang.codes(240) == [75, 75]
        assert "failed 4 times in a row before step 1 was saved" in (tmp_path / "end-1").read_text()


def lose(gang: Launchers, round_: int, node: int) -> None:
    """A launcher and its rank end at once, and the ranks that lost it later."""
    gang.signal(node, signal.SIGKILL)
    gang.kill_rank(round_, node)


def test_elastic_launchers_when_one_is_lost_then_they_wait_and_go_on_without_it_and_take_it_in_again(
    tmp_path: Path,
) -> None:
    with launchers(NODES, tmp_path, elastic=True) as gang:
        gang.wait_for_round(1, 240)
        lose(gang, 1, 3)
        gang.kill_rank(1, 2)
        time.sleep(2)
        assert (gang.ranks(2), gang.processes[0].exitcode) == ({}, None), "they wait for the decision"
        gang.decide(3)
        gang.wait_for_round(3, 240, ranks=NODES - 1)
        assert gang.ranks(3).keys() == set(range(NODES - 1)), "ranks have no gaps"
        gang.start(3)
        time.sleep(2)
        assert gang.processes[3].exitcode is None, "it waits, and disturbs nobody"
        assert gang.ranks(4) == {}
        gang.decide()
        gang.wait_for_round(4, 240)
        gang.signal(4, signal.SIGTERM)
        gang.processes[4].join(240)
        assert (gang.processes[4].exitcode, gang.processes[0].exitcode) == (143, None), "a node that is drained leaves"
        gang.start(4)
        gang.wait_for_round(6, 240)
        gang.signal(0, signal.SIGTERM)
        assert gang.codes(240) == [143] * NODES


DEAF = STUB.replace("exec sleep", "trap '' TERM; exec sleep")


def test_elastic_launchers_whose_ranks_hang_do_not_wait_long_for_them_as_a_node_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_place, "LEAVE_S", 1.0)
    with launchers(NODES, tmp_path, elastic=True, rank=DEAF) as gang:
        gang.wait_for_round(1, 240)
        lose(gang, 1, 1)
        gang.decide(1)
        assert gang.wait_for_round(2, 25, ranks=NODES - 1) < 25


def test_launcher_of_a_lost_node_that_lives_on_leaves_as_another_takes_its_place(tmp_path: Path) -> None:
    with launchers(NODES, tmp_path, elastic=True) as gang:
        gang.wait_for_round(1, 240)
        zombie = gang.processes[2]
        gang.start(2)
        zombie.join(240)
        assert zombie.exitcode == 75
        gang.wait_for_round(2, 240)
        assert not Path(f"/proc/{gang.ranks(1)[2]}").exists()
        assert gang.processes[0].exitcode is None


CAUSES = [
    (DihtError("rank 0 was killed by signal 9: see its log"), 5, False),
    (DihtError("rank 0 was killed by signal 9: see its log"), 6, True),
    (DihtError("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"), 5, True),
    (DihtError("AcceleratorError: CUDA error: uncorrectable ECC error encountered"), 5, True),
    (DihtError("RuntimeError: CUDA error: device-side assert triggered"), 5, False),
    (RetryableError("all-reduce over 4 ranks: ...; train.minBusBandwidth asks for 40: node a is the slowest"), 5, True),
]


@pytest.mark.parametrize(("error", "killed", "final"), CAUSES)
def test_failure_when_memory_or_the_node_caused_it_then_no_further_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: DihtError, killed: int, final: bool
) -> None:
    events = tmp_path / "memory.events"
    monkeypatch.setattr(in_place, "MEMORY_EVENTS", (tmp_path / "absent", events))
    assert in_place.killed_for_memory() == 0
    events.write_text("low 0\noom 9\noom_kill 5\noom_group_kill 0\n")
    before = in_place.killed_for_memory()
    events.write_text(f"low 0\noom 9\noom_kill {killed}\noom_group_kill 0\n")
    assert in_place.is_final(error, memory=in_place.killed_for_memory() > before) is final


def test_rounds_are_reported_with_the_newest_cause_and_the_furthest_step() -> None:
    assert in_place.rounds_of(Register()).model_dump(exclude_defaults=True) == {"round": 1}
    failure = RoundFailure(code=1, message="x" * 999, node=3, host="pod-3", step=7)
    found = in_place.rounds_of(Register(round=3, failed_at=9, newest=failure))
    assert (found.round, found.node, found.host, found.step, len(found.message)) == (3, 3, "pod-3", 9, 300)
