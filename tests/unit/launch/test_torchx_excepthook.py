"""One line for our errors in the `torchx` command, and nothing changed for anybody else."""

from __future__ import annotations

import sys
import threading

import pytest

from diht_k8s.api.errors import UserError
from diht_k8s.launch.torchx_scheduler import install_excepthook

ERROR = UserError("no such replica: use 0 or 1")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the hooks of the interpreter get."""
    got: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: got.append(error))
    monkeypatch.setattr(threading, "excepthook", lambda arguments: got.append(arguments.exc_value))
    return got


def fail_in_thread(error: Exception) -> None:
    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    ("program", "error", "printed", "passed_on"),
    [
        ("/usr/bin/torchx", ERROR, "diht: no such replica: use 0 or 1\n", 0),
        ("/usr/bin/torchx", KeyError("a"), "", 2),
        ("my_program.py", ERROR, "", 2),
    ],
    ids=["our error", "another error", "another program"],
)
def test_our_error_is_one_line_of_the_torchx_command(
    seen: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    error: Exception,
    printed: str,
    passed_on: int,
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    install_excepthook()
    install_excepthook()
    fail_in_thread(error)
    sys.excepthook(type(error), error, None)
    assert capsys.readouterr().err == printed
    assert seen == [error] * passed_on
