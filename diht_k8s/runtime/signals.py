"""Ends of a program: SIGTERM and SIGINT as a flag, SIGTERM when the parent dies, and how a rank records its exit.

Long loops check the flag: work stops at a safe point, not in the middle of a write. A lost terminal leaves no trainings
behind.

Each rank leaves its exit code and an error record for its launcher, which finds the cause among several failures.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from diht_k8s.api.errors import BY_EXIT_CODE, DihtError, ExitCode, RetryableError, StopRequested


class StopFlag:
    """Set by the first SIGTERM or SIGINT; a second SIGINT ends the program at once."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> StopFlag:
        """Take over SIGTERM and SIGINT of this process (main thread only)."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def raise_if_requested(self, saved: str = "finished work is kept") -> None:
        """Raise at a safe point.

        Raises:
            StopRequested: a signal came.
        """
        if self.requested:
            raise StopRequested(f"stopped on request; {saved}: start again to resume")


PARENT_VARIABLE: Final = "DIHT_PARENT"
"""Process id of the program that started this one."""
_PR_SET_PDEATHSIG: Final = 1


@contextlib.contextmanager
def named_parent() -> Iterator[None]:
    """Name this process as the parent of programs that start inside.

    Left in the environment, the name would end this process at its own next `end_with_parent`.
    """
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(PARENT_VARIABLE, None)


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies, if the environment names it."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)


LOST_PEER = "lost contact to another rank"
"""First words of the error of a rank that lost another rank."""
STOPPED = "stopped on request; the last checkpoint is kept: start again to resume"


def rank_main(work: Callable[[], object]) -> int:
    """Run a rank's work; its exit code. The message goes where the launcher finds it."""
    try:
        work()
    except DihtError as error:
        return _write_record(int(error.exit_code), str(error))
    except Exception as error:
        traceback.print_exc()
        return _write_record(int(ExitCode.UNEXPECTED), f"{type(error).__name__}: {error}")
    finally:
        # The agent stops the other ranks when one has ended; what is on its way out must keep its exit code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return int(ExitCode.DONE)


def leave(code: int) -> NoReturn:
    """End this process with `code` after its `atexit` functions, without taking the interpreter down.

    A thread of gloo may be the last holder of a tensor while a group is alive, and torch, DeepSpeed and this project
    keep groups in their modules. To release it takes the GIL of an interpreter that is gone: the process would abort,
    and SIGABRT would hide the code (pytorch/pytorch#190489). multiprocessing ends its children in the same way.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or nobody reads it
            stream.flush()
    os._exit(code)


def _write_record(code: int, message: str) -> int:
    """Leave an error record as torch's elastic agent reads it; the code."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        record = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        Path(path).write_text(json.dumps(record))
    return code


def cause_of(failures: Mapping[int, Any]) -> DihtError:
    """The error to end with, of torch's records of the ranks that failed.

    A rank that fails takes the others with it, within the second that torch's records resolve: so causes go before
    consequences, and of those that end alike, who has something of its own to say before who lost another. NCCL aborts
    the process of a rank that lost another, before Python can say so.
    """

    def order(item: tuple[int, Any]) -> tuple[int, int]:
        code, lost = item[1].exitcode, _message_in(item[1].error_file_data).startswith(LOST_PEER)
        consequences = (
            (ExitCode.STOPPED, False),
            (ExitCode.RETRYABLE, False),
            (-signal.SIGABRT, False),
            (ExitCode.RETRYABLE, True),
            (-signal.SIGTERM, False),
        )
        place = 1 + consequences.index((code, lost)) if (code, lost) in consequences else 0
        return place, item[1].timestamp

    rank, failure = min(failures.items(), key=order)
    return _error_from(int(failure.exitcode), rank, failure.error_file_data)


def _message_in(data: Any) -> str:
    """The line that a rank left for the launcher, "" without one."""
    message = data.get("message") if isinstance(data, dict) else None
    return message.get("message", "") if isinstance(message, dict) else ""  # torch's placeholder is not a dict


def _error_from(exit_code: int, rank: int, data: Any) -> DihtError:
    text = _message_in(data)
    if exit_code in BY_EXIT_CODE:
        return BY_EXIT_CODE[exit_code](text or f"rank {rank} ended with exit code {exit_code}: see its log")
    if exit_code == -signal.SIGTERM:
        return StopRequested(
            f"rank {rank} was stopped before it could save: start again to resume from the last checkpoint"
        )
    if exit_code == -signal.SIGABRT:
        return RetryableError(
            f"{LOST_PEER}, or its own device (rank {rank} was aborted, which NCCL does to a rank then): see its log"
        )
    how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return DihtError(f"rank {rank} {how}" + (f": {text}" if text else ": see its log"))
