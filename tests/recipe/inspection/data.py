"""`diht` in a folder, in this process: what a new user types."""

from __future__ import annotations

import pytest

from diht_k8s.cli.main import main


def diht(capsys: pytest.CaptureFixture[str], command: str) -> tuple[int, str, str]:
    """Run a command as it would be typed."""
    capsys.readouterr()
    code = main(command.removeprefix("diht ").split())
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def last_command(shown: str) -> str:
    """The command that the last line of a text advises."""
    line = shown.strip().splitlines()[-1]
    return line[line.rindex("diht ") :]
