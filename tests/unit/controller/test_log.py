"""The operator's log: one JSON object a line, with the run that it speaks of."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from diht_k8s.controller import __main__ as program


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Whatever the program sets is set back."""
    root, names = logging.getLogger(), ("urllib3",)
    before = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:], root.level = before[0], before[1]
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


def test_line_of_the_log_is_json_with_the_run_whatever_the_message_holds(capsys: pytest.CaptureFixture[str]) -> None:
    program._log("json", "info")
    where = {"run": "r", "namespace": "n"}
    logging.getLogger("diht_k8s.controller").info('two\nlines, "quotes" and \x1b[31m', extra=where)
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["run"], found["namespace"], found["levelname"]) == ("r", "n", "INFO")
    assert found["message"] == 'two\nlines, "quotes" and \x1b[31m'


def test_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    program._log("json", "info")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("diht_k8s.controller").exception("unexpected")
    [line] = capsys.readouterr().err.splitlines()
    assert "ValueError: broken" in json.loads(line)["exc_info"]
