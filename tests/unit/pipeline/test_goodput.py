"""Goodput: each second of a stage goes to one part, whatever happens and whenever somebody looks."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diht_k8s.api.reports import TimeSpent
from diht_k8s.api.run import Stage
from diht_k8s.api.status import StageGoodput, StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState, AttemptTimes, CommittedWork, age_of, most_spent
from diht_k8s.pipeline.goodput import (
    goodput_of,
    goodput_text,
    paused,
    saved_time,
    stage_goodput,
    time_parts,
    whole_seconds,
    with_goodput,
)
from diht_k8s.pipeline.run_status import RunStatus, StageRecord, StageTime, TimeParts

T = Stage.TRAIN
RUNNING, FAILED, SUCCEEDED = AttemptState.RUNNING, AttemptState.FAILED, AttemptState.SUCCEEDED


def seen(
    number: int, state: AttemptState, *moments: float | None, ended: float | None = None, spent: TimeSpent | None = None
) -> Attempt:
    created, admitted, placed, running = [*moments, None, None, None][:4]
    assert created is not None
    return Attempt(T, number, state, times=AttemptTimes(created, admitted, placed, running, ended), spent=spent)


def spent(steps: float, *, starting: float = 10, resumed: float = 0, kept: float = 0, **other: Any) -> TimeSpent:
    path = resumed + steps - other.get("lost", 0)
    return TimeSpent(starting=starting, steps=steps, resumed=resumed, path=path, kept=kept, **other)


def told(*looks: list[Attempt], record: StageRecord | None = None) -> StageTime:
    """The time of a stage after looks at it, each of them twice."""
    status = RunStatus(stages=(record or StageRecord(T),))
    for attempts in looks:
        status = with_goodput(status, attempts)
        assert with_goodput(status, attempts) == status, "a second look changes nothing"
    time = status.stages[0].time
    assert sum(astuple(time_parts(time))) == pytest.approx(time.until - time.since)
    return time


FIRST = seen(1, FAILED, 100, 130, 135, 140, ended=300, spent=spent(100, kept=60))
SECOND = seen(2, RUNNING, 310, 310, 312, 320, spent=spent(50, resumed=60, kept=60))
STORIES: dict[str, tuple[list[list[Attempt]], dict[str, float]]] = {
    "its program starts": ([[seen(1, RUNNING, 100, 130, 135, 140)]], {"queued": 30, "scheduling": 5, "starting": 5}),
    "it trains": (
        [[seen(1, RUNNING, 0, 0, 0, 5, spent=spent(50, data=2, checkpoints=3, validation=4))]],
        {"starting": 15, "productive": 50, "waiting_for_data": 2, "checkpointing": 3, "validating": 4},
    ),
    "it fails: what no checkpoint holds is lost": (
        [[FIRST]],
        {"queued": 30, "scheduling": 5, "starting": 15, "productive": 60, "lost": 40, "recovering": 50},
    ),
    "it resumes where its checkpoint is": (
        [[FIRST], [FIRST, SECOND]],
        {"queued": 30, "scheduling": 7, "starting": 33, "productive": 110, "lost": 40, "recovering": 60},
    ),
    "nobody looked before": (
        [[FIRST, SECOND]],
        {"queued": 30, "scheduling": 7, "starting": 33, "productive": 110, "lost": 40, "recovering": 60},
    ),
    "it resumes further, since a checkpoint was committed that nobody heard of": (
        [[FIRST], [replace(SECOND, spent=spent(50, resumed=90, kept=90))]],
        {"queued": 30, "scheduling": 7, "starting": 33, "productive": 140, "lost": 10, "recovering": 60},
    ),
    "rounds in place": (
        [[seen(1, RUNNING, 0, 0, 0, 0, spent=spent(90, lost=20, recovering=7))]],
        {"starting": 10, "productive": 70, "lost": 20, "recovering": 7},
    ),
    "it ended before it said anything": (
        [[seen(1, FAILED, 0, 0, 0, 10, ended=30)]],
        {"starting": 10, "recovering": 20},
    ),
    "it ended well and said nothing, as older programs": (
        [[seen(1, SUCCEEDED, 0, 0, 0, 10, ended=30)]],
        {"starting": 10, "productive": 20},
    ),
    "back to its queue, and admitted again": (
        [
            [seen(1, RUNNING, 0, 1, 1, 1, spent=spent(89, kept=80))],
            [seen(1, RUNNING, 0, 150, 150, 160, spent=spent(40, resumed=80, kept=80))],
        ],
        {"queued": 51, "starting": 30, "productive": 120, "lost": 9},
    ),
    "an older line is read again": (
        [[SECOND], [replace(SECOND, spent=spent(20, resumed=60, kept=60))]],
        {"scheduling": 2, "starting": 18, "productive": 50},
    ),
    "its objects are gone": (
        [[FIRST], []],
        {"queued": 30, "scheduling": 5, "starting": 15, "productive": 60, "lost": 40, "recovering": 50},
    ),
    "clocks disagree": (
        [[seen(1, FAILED, 100, 90, 120, 110, ended=125, spent=spent(100, starting=0))]],
        {"scheduling": 20, "lost": 5},
    ),
}


@pytest.mark.parametrize(("looks", "expected"), STORIES.values(), ids=STORIES)
def test_seconds_go_to_the_part_that_they_were_spent_on(looks: list[list[Attempt]], expected: dict[str, float]) -> None:
    found = time_parts(told(*looks))
    assert {name: value for name, value in vars(found).items() if value} == pytest.approx(expected)


SHRUNK_FAILED = replace(
    seen(2, FAILED, 310, 330, 332, 340, ended=410, spent=spent(50, resumed=60, kept=80)), share=0.75
)
THIRD = seen(3, RUNNING, 420, 420, 420, 420, spent=spent(30, resumed=80, kept=80))
ON_FEWER_NODES: dict[str, tuple[list[list[Attempt]], dict[str, float]]] = {
    "it trains on 3 of 4: a quarter of the time that it holds nodes is of the missing one": (
        [[replace(seen(1, RUNNING, 0, 10, 20, 24, spent=spent(80, starting=4, data=8)), share=0.75)]],
        {"queued": 10, "scheduling": 10, "starting": 6, "productive": 60, "waiting_for_data": 6, "missing_nodes": 24},
    ),
    "all nodes redo what a few had made": (
        [[FIRST], [SHRUNK_FAILED], [THIRD]],
        {
            "queued": 50,
            "scheduling": 7,
            "starting": 38.5,
            "productive": 105,
            "lost": 62.5,
            "recovering": 77.5,
            "missing_nodes": 19.5,
        },
    ),
    "rounds in place": (
        [[replace(seen(1, RUNNING, 0, 0, 0, 0, spent=spent(80, lost=20, recovering=10)), share=0.5)]],
        {"starting": 5, "productive": 30, "lost": 10, "recovering": 5, "missing_nodes": 50},
    ),
    "an edit of numNodes counts from the next attempt on": (
        [[SECOND], [replace(SECOND, share=0.5)]],
        {"scheduling": 2, "starting": 18, "productive": 50},
    ),
    "another run computes the same": (
        [[replace(seen(1, FAILED, 0, 0, 0, 0, ended=40), share=0.5, reason="ComputedElsewhere")]],
        {"waiting_for_run": 40},
    ),
}


@pytest.mark.parametrize("reread", [False, True], ids=["in memory", "saved in between"])
@pytest.mark.parametrize(("looks", "expected"), ON_FEWER_NODES.values(), ids=ON_FEWER_NODES)
def test_time_on_fewer_nodes_counts_in_node_seconds(
    looks: list[list[Attempt]], expected: dict[str, float], reread: bool
) -> None:
    record = StageRecord(T)
    for attempts in looks:
        record = look(record, attempts, another=reread)
    found = {name: value for name, value in vars(time_parts(record.time)).items() if value}
    assert found == pytest.approx(expected, abs=0.01)


def test_share_of_a_large_gang_survives_its_ledger() -> None:
    whole = replace(seen(1, RUNNING, 1, 1, 1, 1, spent=spent(100_000, starting=0)), share=63 / 64)
    record = look(look(StageRecord(T), [replace(whole, spent=None)], another=False), [whole], another=True)
    assert time_parts(record.time).missing_nodes == pytest.approx(100_000 / 64, abs=1)


def test_time_between_suspension_and_the_next_attempt_is_not_the_clusters() -> None:
    status = RunStatus(stages=(StageRecord(T, time=paused(told([FIRST]))),))
    found = time_parts(with_goodput(status, [FIRST, SECOND]).stages[0].time)
    assert (found.suspended, found.recovering) == (10, 50)


def test_stage_without_own_account_of_its_work_loses_what_is_not_committed() -> None:
    record = StageRecord(Stage.FILTER, work=CommittedWork(3, 30))
    first = replace(seen(1, FAILED, 0, 0, 0, 0, ended=50, spent=TimeSpent(starting=5, steps=45)), stage=Stage.FILTER)
    found = time_parts(told([first], record=record))
    assert (found.productive, found.lost) == (30, 15)


def test_stages_follow_each_other_without_a_gap() -> None:
    filter_, train = StageRecord(Stage.FILTER, StageState.COMPLETE), StageRecord(T)
    first = replace(seen(1, SUCCEEDED, 10, 10, 10, 10, ended=50), stage=Stage.FILTER)
    status = with_goodput(RunStatus(stages=(filter_, train)), [first, seen(1, RUNNING, 53, 55)])
    assert time_parts(status.stages[1].time) == TimeParts(queued=2, other=3)


@dataclass
class World:
    """A cluster in which a training goes on; what it says, and what is true."""

    now: float = 1000.0
    number: int = 0
    productive_kept: float = 0.0
    lost: float = 0.0
    productive: float = 0.0
    """node-seconds over the nodes wished for, as `lost`."""


durations = st.floats(0, 500, allow_nan=False).map(lambda value: round(value, 2))
ENDS = ("message", "no message", "suspended", "in place", "well")
one_attempt = st.fixed_dictionaries(
    {
        "queue": durations,
        "node": durations,
        "pod": durations,
        "starting": durations,
        "steps": durations,
        "kept": st.floats(0, 1),
        "stall": durations,
        "data": durations,
        "rest": durations,
        "share": st.sampled_from((1.0, 1.0, 0.75, 0.5)),
        "gap": durations,
        "looks": st.sets(st.integers(0, 4)),
        "restart": st.booleans(),
        "end": st.sampled_from(ENDS),
    }
)


def play(record: StageRecord, history: list[dict[str, float]]) -> tuple[StageRecord, World]:
    """Play attempts one after another; at some moments somebody looks, and at some the operator is another one."""
    world = World()
    for story in history:
        world.number += 1
        moments = [world.now]
        for name in ("queue", "node", "pod"):
            moments.append(moments[-1] + story[name])
        resumed = world.productive_kept
        in_place = story["end"] == "in place"
        lost = story["steps"] * (1 - story["kept"]) if story["end"] != "well" else 0.0
        kept = resumed + story["steps"] - lost
        path = kept if in_place else resumed + story["steps"]
        account = TimeSpent(
            starting=story["starting"],
            steps=story["steps"],
            checkpoints=story["stall"],
            data=story["data"],
            resumed=resumed,
            path=path,
            kept=kept,
            lost=lost if in_place else 0.0,
        )
        ended = moments[3] + age_of(account) + story["rest"]
        state = SUCCEEDED if story["end"] == "well" else FAILED
        half = TimeSpent(starting=story["starting"], resumed=resumed, path=resumed, kept=resumed)
        views = [
            seen(world.number, RUNNING, *moments[:2]),
            seen(world.number, RUNNING, *moments),
            seen(world.number, RUNNING, *moments, spent=half),
            seen(world.number, RUNNING, *moments, spent=account),
            seen(world.number, state, *moments, ended=ended, spent=None if story["end"] == "no message" else account),
        ]
        for index, view in enumerate(replace(view, share=story["share"]) for view in views):
            if index in story["looks"] or index == len(views) - 1:  # type: ignore[operator]
                record = look(record, [view], another=bool(story["restart"]))
        if story["end"] == "suspended":
            record = replace(record, time=paused(record.time))
        world.productive_kept, world.lost = kept, world.lost + story["share"] * lost
        world.productive += story["share"] * (kept - resumed)
        world.now = ended + story["gap"]
    return record, world


def look(record: StageRecord, attempts: list[Attempt], *, another: bool) -> StageRecord:
    if another:
        shown = stage_goodput(record.time, ended=False)
        if shown is not None:
            record = replace(record, time=saved_time(StageGoodput.model_validate(shown.model_dump())))
    found = with_goodput(RunStatus(stages=(record,)), attempts)
    assert with_goodput(found, attempts) == found
    time = found.stages[0].time
    parts = time_parts(time)
    assert min(astuple(parts)) >= -1e-9
    assert sum(astuple(parts)) == pytest.approx(time.until - time.since, abs=0.5)
    assert time.until >= record.time.until - 0.01
    whole = whole_seconds(parts)
    assert sum(whole.values()) == round(parts.total)
    assert min(whole.values()) >= 0
    return found.stages[0]


@settings(max_examples=200)
@given(st.lists(one_attempt, min_size=1, max_size=8))
def test_parts_sum_to_the_wall_time_whatever_happens(history: list[dict[str, float]]) -> None:
    record, world = play(StageRecord(T), history)
    last = history[-1]
    assert record.time.until - record.time.since == pytest.approx(world.now - last["gap"] - 1000.0, abs=0.1)
    if all(story["end"] != "no message" or 3 in story["looks"] for story in history):  # type: ignore[operator]
        found = time_parts(record.time)
        assert found.lost == pytest.approx(world.lost, abs=0.5)
        assert found.productive == pytest.approx(world.productive, abs=0.5)


def test_status_that_somebody_changed_counts_on_from_what_it_shows() -> None:
    shown = stage_goodput(told([FIRST]), ended=False)
    assert shown is not None
    for ledger in ("", "[]", "null", "[1e999]", '{"a":1}', "[" * 800, shown.ledger[:-1]):
        time = saved_time(shown.model_copy(update={"ledger": ledger}))
        found = time_parts(time)
        assert (found.productive, found.lost, found.total) == (60, 40, 200)
        assert (
            time_parts(with_goodput(RunStatus(stages=(StageRecord(T, time=time),)), [SECOND]).stages[0].time).total
            == 280
        )


def test_nonsense_of_a_program_changes_no_sum() -> None:
    nonsense = most_spent([TimeSpent(starting=float("nan"), steps=-5, data=1e300, lost=float("inf"))])
    time = told([seen(1, FAILED, 0, 0, 0, 10, ended=60, spent=nonsense)])
    assert time_parts(time).total == 60


def test_largest_ledger_fits_its_field() -> None:
    most = TimeParts(*[9999999999.99] * len(fields(TimeParts)))
    numbers: dict[str, Any] = {
        name: 9999999999.99
        for name in (
            "since",
            "until",
            "previous_end",
            "reported_until",
            "lost",
            "reached",
            "checkpointed",
            "open_lost",
            "open_reached",
            "open_checkpointed",
        )
    }
    time = StageTime(
        closed=most,
        open=most,
        tail=TimeParts(other=9999999999.99),
        attempt=2**31 - 1,
        share=0.123456,
        reached_share=0.123456,
        **numbers,
    )
    assert stage_goodput(time, ended=False) is not None


def test_sentence_names_the_largest_parts_first() -> None:
    time = StageTime(since=1, closed=TimeParts(productive=956, starting=32, queued=12), lost=15)
    shown = goodput_of([time])
    assert goodput_text(shown, 5) == "94.1 % productive; 3.2 % starting in 5 attempts; 1.5 % redone; 1.2 % queued"


def test_sentence_says_what_an_elastic_training_lacks() -> None:
    shown = goodput_of([StageTime(since=1, closed=TimeParts(productive=700, starting=50, missing_nodes=250))])
    assert goodput_text(shown, 1) == "70.0 % productive; 25.0 % missing nodes; 5.0 % starting"
