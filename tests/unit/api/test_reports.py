from __future__ import annotations

import json
from typing import Annotated, Any, get_args, get_origin

import pytest

from diht_k8s.api.reports import (
    LATEST,
    MOST_ROUNDS,
    MOST_SECONDS,
    MOST_STEPS,
    Cause,
    CommittedShards,
    NodeResult,
    Progress,
    Record,
    Rounds,
    SavedCheckpoint,
    TimeSpent,
    parse_progress,
    worst,
)
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


LARGE = "1" + "0" * 400
BOUNDS = [
    ("step", "-3", 0),
    ("step", "41", 41),
    ("step", LARGE, MOST_STEPS),
    ("exit_code", "-9", 0),
    ("exit_code", LARGE, 255),
    ("worker", LARGE, MOST_SECONDS),
    ("rounds.round", "-1", 1),
    ("rounds.round", LARGE, MOST_ROUNDS),
    ("rounds.exit_code", "256", 255),
    ("rounds.node", "-5", -1),
    ("rounds.step", str(2**62), MOST_STEPS),
    ("checkpoint.step", LARGE, MOST_STEPS),
    ("checkpoint.time", LARGE, LATEST),
    ("checkpoint.seconds", "-1", 0),
    ("checkpoint.seconds", LARGE, MOST_SECONDS),
    ("time_spent.steps", "-5.5", 0.0),
    ("time_spent.steps", "1e999", 0.0),
    ("time_spent.kept", "1e300", MOST_SECONDS),
    ("time_spent.start_up", '{"a": 1e300}', {"a": MOST_SECONDS}),
]


@pytest.mark.parametrize(("field", "given", "read"), BOUNDS, ids=[f"{field} {given[:6]}" for field, given, _ in BOUNDS])
def test_number_of_a_report_is_brought_into_its_range_as_it_is_read(field: str, given: str, read: Any) -> None:
    inner = {"rounds": '"round": 1', "checkpoint": '"step": 1, "uri": "u"', "time_spent": '"other": 0'}
    *outer, name = field.split(".")
    text = f'"{name}": {given}'
    text = f'"{outer[0]}": {{{inner[outer[0]]}, {text}}}' if outer else text
    found: Any = Cause.model_validate_json(f'{{"exit_code": 1, "reason": "r", "message": "m", {text}}}')
    for key in field.split("."):
        found = getattr(found, key)
    assert found == read


@pytest.mark.parametrize("kind", [Progress, Cause, NodeResult, SavedCheckpoint, Rounds, CommittedShards, TimeSpent])
def test_no_number_of_a_report_is_without_bounds(kind: type[Record]) -> None:
    """A new field of a report gets a range with its type."""
    free = [name for name, field in kind.model_fields.items() if _has_number(field.annotation) and not field.metadata]
    assert [name for name in free if name != "metrics"] == [], "metrics may be NaN: a loss is"


def _has_number(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return False
    return annotation in (int, float) or any(map(_has_number, get_args(annotation)))
