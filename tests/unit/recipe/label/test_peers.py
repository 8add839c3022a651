"""Workers that look after each other: who failed, who is silent, who never came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diht_k8s.api.errors import DataError, DihtError, ExitCode, RetryableError, StopRequested, UserError
from diht_k8s.recipe.label.peers import ABSENT_SECONDS, SILENT_SECONDS, Peers, beat_uri, heartbeat
from diht_k8s.recipe.shards.storage import Storage


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def says(folder: Path, number: int = 0, exit_code: int | None = None, message: str = "") -> None:
    beat = {"process": "p", "number": number, "exit_code": exit_code, "message": message}
    Storage().write_bytes(beat_uri(str(folder), 0), json.dumps(beat).encode())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def peers(tmp_path: Path, clock: Clock) -> Peers:
    return Peers(Storage(), str(tmp_path), clock=clock, every_s=1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ExitCode.USER_ERROR, UserError),
        (ExitCode.BAD_DATA, DataError),
        (ExitCode.RETRYABLE, RetryableError),
        (ExitCode.STOPPED, StopRequested),
        (ExitCode.UNEXPECTED, RetryableError),
    ],
)
def test_check_when_a_worker_failed_then_the_same_exit_code_with_its_message(
    tmp_path: Path, clock: Clock, peers: Peers, code: int, kind: type[DihtError]
) -> None:
    says(tmp_path)
    peers.check([0])
    clock.now = 5
    says(tmp_path, 0, int(code), "the vocabulary has no objects")
    with pytest.raises(kind, match="worker 0 failed: the vocabulary has no objects"):
        peers.check([0])


def test_check_when_the_failure_is_of_an_earlier_start_then_waits_for_the_worker_to_come_back(
    tmp_path: Path, clock: Clock, peers: Peers
) -> None:
    says(tmp_path, 7, int(ExitCode.RETRYABLE), "storage away")
    peers.check([0])
    clock.now = 20
    says(tmp_path)
    peers.check([0])
    says(tmp_path, 1)
    clock.now = 40
    peers.check([0])


def test_check_when_an_earlier_failure_stays_then_it_counts(tmp_path: Path, clock: Clock, peers: Peers) -> None:
    says(tmp_path, 7, int(ExitCode.USER_ERROR), "no weights")
    peers.check([0])
    clock.now = SILENT_SECONDS + 1
    with pytest.raises(UserError, match="no weights"):
        peers.check([0])


def test_check_when_the_counter_stands_still_then_the_worker_is_taken_for_killed(
    tmp_path: Path, clock: Clock, peers: Peers
) -> None:
    says(tmp_path, 1)
    peers.check([0])
    clock.now = SILENT_SECONDS - 1
    says(tmp_path, 2)
    peers.check([0])
    clock.now = 2 * SILENT_SECONDS + 1
    with pytest.raises(RetryableError, match="no sign of life for 122 s: it was killed"):
        peers.check([0])


def test_check_when_a_worker_never_comes_then_says_so(clock: Clock, peers: Peers) -> None:
    peers.check([0])
    clock.now = ABSENT_SECONDS - 1
    peers.check([0])
    clock.now = ABSENT_SECONDS + 1
    with pytest.raises(RetryableError, match="worker 0 has not shown up for 601 s"):
        peers.check([0])


def test_heartbeat_when_the_work_goes_on_then_the_counter_grows_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    path = Path(beat_uri(str(tmp_path), 3))
    with heartbeat(Storage(), str(tmp_path), 3, every_s=0.01):
        while json.loads(path.read_text())["number"] < 2:
            pass
    assert not path.exists()


def test_heartbeat_when_the_work_fails_then_says_why_and_the_error_goes_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing left"), heartbeat(Storage(), str(tmp_path), 3):
        raise DataError("nothing left")
    found = json.loads(Path(beat_uri(str(tmp_path), 3)).read_text())
    assert (found["exit_code"], found["message"]) == (65, "nothing left")
