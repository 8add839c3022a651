"""The end of a run stays its end, whatever becomes of its Jobs."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reasons import ConditionType
from diht_k8s.controller.saved_status import is_true
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import ONE, Clock, make, play, settle, status


def lose_jobs(cluster: FakeCluster) -> None:
    cluster.jobs, cluster.pods = {}, {}


def fail_job(cluster: FakeCluster) -> None:
    cluster.end("r-filter-1", 1)


def complete_job(cluster: FakeCluster) -> None:
    cluster.end("r-filter-1", 0)


@pytest.mark.parametrize("later", [lose_jobs, fail_job, complete_job])
@pytest.mark.parametrize(("code", "kind"), [(0, ConditionType.COMPLETE), (64, ConditionType.FAILED)])
def test_end_of_a_run_is_final(code: int, kind: ConditionType, later: Any) -> None:
    cluster = make(**ONE)
    play(cluster, {"r-filter-1": code})
    before = status(cluster)
    assert is_true(before, kind)
    later(cluster)
    cluster.edit("r", failurePolicy={"maxRestarts": 7})
    process = Process(cluster, Clock())
    settle(process)
    after = status(cluster)
    assert [(each.type, each.status, each.reason) for each in after.conditions] == [
        (each.type, each.status, each.reason) for each in before.conditions
    ]
    assert (after.completion_time, after.attempts) == (before.completion_time, before.attempts)
    assert after.observed_generation == 2
