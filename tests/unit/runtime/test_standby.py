"""Standby processes: what waits becomes a rank, what has ended is replaced, what is not needed ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diht_k8s.runtime.in_place.rank_processes import STANDBY_VARIABLE, RankProcesses, Standbys, wait_for_assignment

PROGRAM = """
import os, sys
from diht_k8s.runtime.in_place.rank_processes import wait_for_assignment
wait_for_assignment(lambda: print(os.getpid(), file=open(sys.argv[1] + "/prepared", "a")))
print(os.getpid(), os.environ["RANK"], file=open(sys.argv[1] + "/ranks", "a"))
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return [sys.executable, "-c", PROGRAM, str(tmp_path)]


def wait_until_well(ranks: RankProcesses) -> None:
    while ranks.living():
        assert not ranks.failures()
    assert ranks.well()
    ranks.end()


@pytest.mark.parametrize("waiting", [0, 1, 2])
def test_ranks_when_begun_then_standbys_that_live_go_first_and_the_rest_is_started(
    tmp_path: Path, command: list[str], waiting: int
) -> None:
    standbys = Standbys(command, waiting)
    standbys.fill()
    environments = [{"RANK": str(rank)} for rank in range(2)]
    wait_until_well(RankProcesses(command, environments, standbys=standbys, say=print))
    lines = [line.split() for line in (tmp_path / "ranks").read_text().splitlines()]
    assert sorted(rank for _, rank in lines) == ["0", "1"]
    prepared = (tmp_path / "prepared").read_text().split() if waiting else []
    assert len(prepared) == waiting
    assert set(prepared) <= {process for process, _ in lines}


def test_standby_when_it_has_ended_then_another_takes_its_place(tmp_path: Path, command: list[str]) -> None:
    standbys = Standbys(command, 1)
    standbys.fill()
    standbys._waiting[0].kill()
    standbys._waiting[0].wait()
    wait_until_well(RankProcesses(command, [{"RANK": "7"}], standbys=standbys, say=print))
    assert (tmp_path / "ranks").read_text().split()[1] == "7"
    standbys.fill()
    standbys._waiting[0].kill()
    standbys._waiting[0].wait()
    standbys.fill()
    assert len(standbys._waiting) == 1
    assert standbys._waiting[0].poll() is None
    standbys.close()


def test_standby_when_the_launcher_closes_then_it_ends(command: list[str]) -> None:
    standbys = Standbys(command, 2)
    standbys.fill()
    processes = list(standbys._waiting)
    standbys.close()
    assert all(process.poll() is not None for process in processes)


def test_program_when_started_as_a_rank_then_it_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STANDBY_VARIABLE, raising=False)
    wait_for_assignment(lambda: pytest.fail("prepared"))
