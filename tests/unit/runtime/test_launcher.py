from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.api.errors import DataError, ExitCode, UserError
from diht_k8s.runtime import launcher
from diht_k8s.runtime.launcher import export_env
from diht_k8s.runtime.preflight import Gang
from diht_k8s.runtime.signals import cause_of, rank_main


@dataclass(frozen=True)
class Failure:
    """What torch records of a rank."""

    exitcode: int
    timestamp: int = 100
    text: str | None = None

    @property
    def error_file_data(self) -> dict[str, Any]:
        return {"message": "<NONE>"} if self.text is None else {"message": {"message": self.text}}


STOPPED, LOST = Failure(143, text="stopped at step 7"), Failure(75, text="lost contact to another rank")
ABORTED = (
    "lost contact to another rank, or its own device (rank 1 was aborted, which NCCL does to a rank then): see its log"
)
CASES: dict[str, tuple[dict[int, Failure], int, str]] = {
    "one rank with its line": ({1: Failure(65, text="bad labels")}, 65, "bad labels"),
    "bad data and a peer that lost it": ({0: LOST, 1: Failure(65, text="bad labels")}, 65, "bad labels"),
    "killed, and a peer that lost it": (
        {0: LOST, 1: Failure(-9, 101)},
        1,
        "rank 1 was killed by signal 9: see its log",
    ),
    "both to be tried again, one with its own line": (
        {0: LOST, 1: Failure(75, text="the disk is full")},
        75,
        "the disk is full",
    ),
    "only lost peers": ({0: LOST}, 75, "lost contact to another rank"),
    "all stopped": ({0: STOPPED, 1: STOPPED}, 143, "stopped at step 7"),
    "one stopped, the other stopped by the agent": ({0: Failure(-15), 1: STOPPED}, 143, "stopped at step 7"),
    "one stopped, the other lost it": ({0: LOST, 1: STOPPED}, 143, "stopped at step 7"),
    "stopped while it started": (
        {0: Failure(-15)},
        143,
        "rank 0 was stopped before it could save: start again to resume from the last checkpoint",
    ),
    "two causes": (
        {0: Failure(1, 102, "second"), 1: Failure(1, 101, "first")},
        1,
        "rank 1 ended with exit code 1: first",
    ),
    "bad data, and peers that NCCL aborts": (
        {0: Failure(-6, 99), 1: Failure(65, text="bad labels"), 2: Failure(-6)},
        65,
        "bad labels",
    ),
    "the disk is full, and a peer that NCCL aborts": (
        {0: Failure(-6, 99), 1: Failure(75, text="the disk is full")},
        75,
        "the disk is full",
    ),
    "stopped, and a peer that NCCL aborts": ({0: Failure(-6, 99), 1: STOPPED}, 143, "stopped at step 7"),
    "only aborted": ({0: LOST, 1: Failure(-6, 101)}, 75, ABORTED),
    "a code without a line": ({0: Failure(64)}, 64, "rank 0 ended with exit code 64: see its log"),
}


@pytest.mark.parametrize(("failures", "code", "message"), CASES.values(), ids=CASES)
def test_cause_when_ranks_fail_then_the_first_cause_goes_before_consequences(
    failures: dict[int, Failure], code: int, message: str
) -> None:
    error = cause_of(failures)
    assert (error.exit_code, str(error)) == (code, message)


@pytest.fixture
def error_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "error.json"
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("bad labels"), 65, "bad labels"),
        (UserError("no GPU"), 64, "no GPU"),
        (KeyError("weights"), 1, "KeyError: 'weights'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rank_when_it_fails_then_its_code_and_line_are_left_for_the_launcher(
    error_file: Path, error: Exception, code: int, message: str
) -> None:
    def work() -> None:
        raise error

    assert rank_main(work) == code
    assert json.loads(error_file.read_text())["message"]["message"] == message


def test_rank_when_done_then_code_0_and_a_late_sigterm_does_not_change_it(error_file: Path) -> None:
    assert rank_main(lambda: None) == ExitCode.DONE
    signal.raise_signal(signal.SIGTERM)
    assert not error_file.exists()


ABORTS_AT_THE_END = """
import atexit, os, sys, threading
from diht_k8s.api.errors import DataError
from diht_k8s.runtime.signals import leave, rank_main

class Held:
    def __del__(self):  # like a tensor that a thread of gloo releases when the interpreter has gone
        os.abort()

def fail():
    raise DataError("bad labels")

sys.held = Held()
threading.Thread(target=threading.Event().wait).start()  # would be waited for
atexit.register(print, "closed")
print("worked", end=" ")
if sys.argv[2] == "nobody reads":
    os.close(1)
leave(rank_main(fail if sys.argv[1] == "fails" else int))
"""


@pytest.mark.parametrize(("work", "code"), [("succeeds", 0), ("fails", 65)])
@pytest.mark.parametrize("reader", ["somebody reads", "nobody reads"])
def test_rank_when_the_interpreter_would_abort_at_its_end_then_its_code_and_output_stay(
    work: str, code: int, reader: str
) -> None:
    command = [sys.executable, "-c", ABORTS_AT_THE_END, work, reader]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == code, ended.stderr
    assert reader == "nobody reads" or ended.stdout == "worked closed\n"


def test_gang_when_described_by_the_environment_then_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Gang.from_environment(4) == Gang(processes=4)
    described = {
        "DIHT_NUM_NODES": "2",
        "DIHT_NODE_RANK": "1",
        "DIHT_MASTER": "run-train-0-0.run",
        "DIHT_PROCESSES": "3",
        "DIHT_PEER_HOSTS": "run-train-0-*.run",
    }
    for name, value in described.items():
        monkeypatch.setenv(name, value)
    hosts = ("run-train-0-0.run", "run-train-0-1.run")
    assert Gang.from_environment(4) == Gang(2, 3, 1, "run-train-0-0.run", hosts=hosts)


@pytest.mark.parametrize("size", [10, 300_000])
def test_texts_of_any_size_reach_a_rank(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("DIHT_TEXT", "")
    export_env("DIHT_TEXT", "é" * size)
    code = "from diht_k8s.runtime.launcher import read_env; print(len(read_env('DIHT_TEXT')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == size


@pytest.mark.parametrize(("given", "found"), [({}, "1"), ({"NCCL_LAUNCH_ORDER_IMPLICIT": "0"}, "0")])
def test_ranks_when_launched_then_nccl_keeps_the_order_of_the_host_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], found: str
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "environ", {**os.environ, **given})
    monkeypatch.setattr(launcher, "_launch_elastic", lambda *_: seen.append(os.environ["NCCL_LAUNCH_ORDER_IMPLICIT"]))
    launcher.launch(Gang(), "a.module", run_id="run")
    assert seen == [found]
