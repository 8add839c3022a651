"""Checkpoints in the status: what the training logs, kept while it logs nothing, whatever nonsense a log holds."""

from __future__ import annotations

import pytest

from diht_k8s.api.base import timestamp
from diht_k8s.api.reports import Cause, Progress, SavedCheckpoint
from diht_k8s.api.run import Stage
from diht_k8s.api.status import LastCheckpoint
from tests.unit.controller.documents import NOW
from tests.unit.controller.stories import settle, status, training

URI = "s3://corpus/run/train/checkpoints/step-000000020"
AT = timestamp(NOW - 30)


def line(step: int | None, time: float | None = NOW - 30, uri: str = URI) -> str:
    saved = None if step is None else SavedCheckpoint(step=step, uri=uri, time=None if time is None else int(time))
    return Progress(stage=Stage.TRAIN, step="steps", done=30, total=100, checkpoint=saved).line()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([line(20)], LastCheckpoint(step=20, time=AT, uri=URI)),
        ([line(None)], None),
        ([line(20, time=None)], LastCheckpoint(step=20, uri=URI)),
        ([line(20), line(20, time=None)], LastCheckpoint(step=20, time=AT, uri=URI)),
        ([line(20), line(None)], LastCheckpoint(step=20, time=AT, uri=URI)),
        ([line(20), line(40, uri="s3://b/40")], LastCheckpoint(step=40, time=AT, uri="s3://b/40")),
        (
            [line(-5, 1e18, "s3://b/\x1b[31m" + "x" * 2000)],
            LastCheckpoint(step=0, time="9999-12-31T23:59:59Z", uri="s3://b/" + "x" * 1078 + "..."),
        ),
    ],
    ids=["named", "none yet", "of an older program", "the same of an older program", "kept", "newer", "nonsense"],
)
def test_last_checkpoint_is_what_the_training_logged_last(lines: list[str], expected: LastCheckpoint | None) -> None:
    cluster, process, clock = training()
    for text in lines:
        cluster.logs["r-train-1-0"] = text
        process.reconcile()
        clock.now += 11
    assert status(cluster).last_checkpoint == expected


@pytest.mark.parametrize("code", [0, 143])
def test_checkpoint_of_the_end_is_read_though_the_program_has_ended(code: int) -> None:
    cluster, process, _ = training()
    process.reconcile()
    cluster.logs["r-train-1-0"] = line(57)
    cluster.end("r-train-1", code, message=Cause(exit_code=code, reason="StopRequested", message="m").encoded())
    settle(process)
    found = status(cluster).last_checkpoint
    assert found is not None
    assert found.step == 57
