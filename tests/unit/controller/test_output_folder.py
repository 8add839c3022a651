"""The folder of a stage in the status: as its programs said when they ended, since the operator reads no storage."""

from __future__ import annotations

import pytest

from diht_k8s.api.reports import Cause
from tests.unit.controller.stories import settle, status, training

BELOW = "s3://corpus/run/train/0123456789abcdef"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (BELOW, BELOW),
        ("s3://elsewhere/train/0123456789abcdef", None),
        (f"{BELOW}\n", None),
        (BELOW + "0" * 2000, None),
        (None, None),
    ],
    ids=["below the output", "elsewhere", "with a line break", "too long", "an older program"],
)
def test_folder_is_what_the_programs_said_as_they_ended(said: str | None, shown: str | None) -> None:
    cluster, process, _ = training()
    process.reconcile()
    cause = Cause(exit_code=0, reason="Completed", message="", output=said)
    cluster.end("r-train-1", 0, message=cause.encoded())
    settle(process)
    assert [stage.output_uri for stage in status(cluster).stages if stage.name == "train"] == [shown]
