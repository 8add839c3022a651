"""What a program says of its time: the parts sum to its age, over rounds and after a death."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from diht_k8s.pipeline.attempts import age_of
from diht_k8s.runtime.hangs.heartbeat import FOLDER_VARIABLE
from diht_k8s.runtime.hangs.watchdog import HangLimits, Watchdog
from diht_k8s.runtime.progress import (
    STARTING,
    TIME_VARIABLE,
    TimeAccount,
    exported,
    load_account,
    with_recovery,
)


class Now:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at

    def pass_(self, account: TimeAccount, *parts: tuple[str, float]) -> None:
        """Time passes in each of these parts."""
        for part, seconds in parts:
            account.enter(part, "x" if part == STARTING else "")
            self.at += seconds


@pytest.fixture
def now() -> Now:
    return Now()


def rank(now: Now, monkeypatch: pytest.MonkeyPatch, handed: str) -> TimeAccount:
    monkeypatch.setenv(TIME_VARIABLE, handed)
    return TimeAccount(clock=now)


def test_parts_sum_to_the_age_of_a_program(now: Now) -> None:
    account = TimeAccount(clock=now, began=97.0)
    now.pass_(account, (STARTING, 2), ("data", 1), ("steps", 5), ("checkpoints", 0.5), ("steps", 4), ("other", 1))
    spent = account.spent()
    assert (spent.starting, spent.steps, spent.data, spent.checkpoints, spent.other) == (5, 9, 1, 0.5, 1)
    assert spent.start_up == {"imports": 3, "x": 2}
    assert age_of(spent) == now.at - 97


def test_process_that_is_handed_nothing_counts_from_its_begin() -> None:
    assert 0 < age_of(TimeAccount().spent()) < 24 * 3600


def test_program_without_parts_of_its_own_works_once_it_begins(now: Now) -> None:
    account = TimeAccount(clock=now, began=100.0)
    now.at += 3
    account.start_steps()
    now.at += 5
    account.start_steps()
    assert (account.spent().starting, account.spent().steps, account.spent().path) == (3, 5, None)


def test_rank_goes_on_with_the_account_of_its_launcher(now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = TimeAccount(clock=now, began=95.0)
    with exported(launcher):
        handed = os.environ[TIME_VARIABLE]
    assert TIME_VARIABLE not in os.environ
    now.at += 4
    found = rank(now, monkeypatch, handed).spent()
    assert (found.starting, found.start_up) == (9, {"imports": 4})


@pytest.mark.parametrize(
    ("world", "nodes", "processes", "share"),
    [(6, 4, 2, 0.75), (8, 4, 2, 1), (3, 3, 1, 1), (None, 4, 2, 1), (4, None, None, 1)],
)
def test_gang_without_some_of_its_nodes_counts_their_share_as_missing(
    world: int | None, nodes: int | None, processes: int | None, share: float, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"WORLD_SIZE": world, "DIHT_NUM_NODES": nodes, "DIHT_PROCESSES": processes}
    for name, value in given.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, str(value))
    account = rank(now, monkeypatch, TimeAccount(clock=now, began=100.0).to_text())
    account.resumed(50)
    now.pass_(account, ("steps", 8), ("checkpoints", 4), ("steps", 12))
    assert account.productive == 50 + 20 * share
    spent = account.spent()
    assert (spent.steps, spent.checkpoints, spent.missing_nodes, spent.path) == (
        20 * share,
        4 * share,
        24 * (1 - share),
        50 + 20 * share,
    )
    assert age_of(spent) == 24


def test_round_that_resumes_earlier_has_lost_the_steps_between(now: Now, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rank(now, monkeypatch, TimeAccount(clock=now, began=100.0).to_text())
    first.resumed(50.0)
    now.pass_(first, ("steps", 10))
    first.checkpoint_committed(first.productive)
    now.pass_(first, ("steps", 7))
    left = first.to_text()
    assert first.spent().path == 67
    now.at += 3
    second = rank(now, monkeypatch, with_recovery(left, now.at))
    now.pass_(second, (STARTING, 2))
    second.resumed(60.0)
    now.pass_(second, ("steps", 5))
    spent = second.spent()
    assert (spent.resumed, spent.path, spent.kept, spent.lost, spent.recovering) == (50, 65, 60, 7, 3)
    assert (spent.steps, spent.starting, age_of(spent)) == (22, 2, now.at - 100)


def test_note_of_rank_0_outlives_it(now: Now, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    watchdog = Watchdog(tmp_path, HangLimits())
    assert watchdog.time_note() is None
    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        account = TimeAccount(clock=now, began=100.0)
        now.pass_(account, ("steps", 6))
        account.note()
    note = watchdog.time_note()
    assert note is not None
    spent, at = load_account(note)
    assert (spent.steps, at) == (6, 106), "of rank 0, not of rank 1, which noted later"
    assert watchdog.details()["time_spent"]["steps"] == 6
