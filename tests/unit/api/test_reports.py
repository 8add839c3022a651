from __future__ import annotations

import json

import pytest

from diht_k8s.api.reports import Cause, Progress, parse_progress
from diht_k8s.api.run import Stage

LINE = Progress(
    stage=Stage.FILTER, step="captions", done=5, total=10, per_second=2.5, eta_seconds=2, metrics={"kept": 0.5}
)


def test_progress_line_is_read_back() -> None:
    assert parse_progress(LINE.line()) == LINE
    assert "\n" not in LINE.line()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "{}",
        '{"diht":"progress"',
        '{"diht":"progress","stage":"nope"}',
        LINE.line() + " " * 5000,
        '{"diht":"progress",\x1b[31m}',
    ],
)
def test_any_other_line_is_no_progress(line: str) -> None:
    assert parse_progress(line) is None


def test_newer_programs_may_add_fields() -> None:
    assert parse_progress(LINE.line()[:-1] + ',"newer":1}') == LINE


@pytest.mark.parametrize("message", ["short", "x" * 10000, "ü" * 5000, '"' * 5000])
def test_cause_fits_a_termination_message(message: str) -> None:
    text = Cause(exit_code=64, reason="UserError", message=message).encoded()
    assert len(text.encode()) <= 4096
    assert json.loads(text)["exit_code"] == 64
