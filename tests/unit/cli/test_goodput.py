"""What `diht status`, `diht watch` and `diht run` say of the time of a run."""

from __future__ import annotations

from diht_k8s.api.run import Stage
from diht_k8s.api.status import Goodput, RestartsInPlace, StageGoodput, StageState, StageStatus, StartUp, Status
from diht_k8s.cli.display import goodput_lines, local_goodput
from diht_k8s.pipeline.run_status import RunStatus, StageRecord, StageTime, TimeParts

PARTS = {
    "wall_seconds": 1000,
    "productive_percent": "94.1",
    "productive_seconds": 941,
    "starting_seconds": 32,
    "lost_seconds": 27,
}
START = [StartUp(name="pod", seconds="3.0"), StartUp(name="firstBatch", seconds="0.4")]


def test_lines_say_where_the_time_of_run_and_stage_went() -> None:
    stage = StageStatus(
        name="train",
        stage=Stage.TRAIN,
        state=StageState.RUNNING,
        attempt=2,
        restarts_in_place=RestartsInPlace(total=3),
        goodput=StageGoodput(**PARTS, start_up=START),
    )
    said = "94.1 % productive; 3.2 % starting in 5 attempts; 2.7 % redone"
    assert goodput_lines(Status(stages=[stage], goodput=Goodput(**PARTS))) == [
        f"time: {said} (1000 s)",
        f"  train: {said} (newest start: pod 3.0 s, first batch 0.4 s)",
    ]
    assert goodput_lines(Status()) == []


def test_local_run_says_the_same() -> None:
    time = StageTime(since=1.0, closed=TimeParts(productive=968, starting=32), lost=27)
    record = StageRecord(Stage.TRAIN, attempt=2, total_in_place=3, time=time)
    said = "94.1 % productive; 3.2 % starting in 5 attempts; 2.7 % redone"
    assert local_goodput(RunStatus(stages=(record,))) == [f"time: {said} (1000 s)", f"  train: {said}"]
    assert local_goodput(RunStatus()) == []
