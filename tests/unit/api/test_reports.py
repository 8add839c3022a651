from __future__ import annotations

import json

import pytest

from diht_k8s.api.reports import Cause, NodeResult, Progress, parse_progress, worst
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


FIT, SLOW, SLOWER, OUTPUT, BAD = (
    NodeResult(node="fit", output_seconds=0.1),
    NodeResult(node="slow", exchange_gb_per_second=9.0, output_seconds=0.1),
    NodeResult(node="slower", exchange_gb_per_second=8.0),
    NodeResult(node="output", output_seconds=3.0),
    NodeResult(node="bad", problem="sees 7 GPUs"),
)
AS_FIT = NodeResult(node="as fit", output_seconds=0.1)


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([], []),
        ([FIT, OUTPUT], ["output", "fit"]),
        ([FIT, SLOW, OUTPUT, SLOWER], ["slower", "slow", "output", "fit"]),
        ([SLOWER, FIT, BAD], ["bad", "slower", "fit"]),
        ([FIT, AS_FIT], ["fit", "as fit"]),
        ([AS_FIT, FIT], ["as fit", "fit"]),
        ([FIT] * 5 + [BAD], ["bad", "fit", "fit", "fit", "fit"]),
    ],
    ids=["none", "output", "exchange before output", "problem first", "a tie", "the other way round", "five"],
)
def test_worst_nodes_have_a_problem_or_are_slow(results: list[NodeResult], names: list[str]) -> None:
    assert [result.node for result in worst(results)] == names


NODES = [NodeResult(node="n" * 253, pod="p" * 63, problem="x" * 256)] * 5


def test_progress_line_with_the_worst_nodes_is_read_back() -> None:
    line = LINE.model_copy(update={"preflight": [FIT, BAD]})
    assert parse_progress(line.line()) == line


def test_progress_line_that_would_be_too_long_is_still_progress() -> None:
    long = LINE.model_copy(update={"step": "s" * 2000, "preflight": NODES})
    found = parse_progress(long.line())
    assert found is not None
    assert (found.done, found.preflight) == (5, [])


@pytest.mark.parametrize(
    ("length", "nodes", "kept"), [(1024, [BAD], 1), (9000, [BAD], 1), (1024, NODES, 0), (10, NODES, 5)]
)
def test_cause_gives_up_the_preflight_before_the_message_that_the_status_holds(
    length: int, nodes: list[NodeResult], kept: int
) -> None:
    text = Cause(exit_code=75, reason="R", message="m" * length, preflight=nodes).encoded()
    found = Cause.model_validate_json(text)
    assert len(text.encode()) <= 4096
    assert len(found.preflight) == kept
    assert len(found.message) >= min(length, 1024)
