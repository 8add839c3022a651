"""What is deleted once a run or a stage has ended, and what is not."""

from __future__ import annotations

import pytest

from diht_k8s.controller.saved_status import saved_run_status
from diht_k8s.pipeline.run_status import RunState
from tests.unit.controller.fake import Dead, Process
from tests.unit.controller.stories import ONE, Clock, make, play, settle, status


def test_run_whose_deletion_was_missed_is_removed() -> None:
    cluster = make()
    process = Process(cluster, Clock())
    process.sync()
    cluster.runs.clear()
    assert process.reconciler.reconcile(("n", "r")) is None
    assert process.runs.keys() == []


def test_run_whose_time_to_live_is_over_is_deleted() -> None:
    cluster, clock = make(ttlSecondsAfterFinished=60), Clock()
    play(cluster)
    process = Process(cluster, clock)
    process.reconcile()
    assert (list(cluster.runs), process.runs.due(clock.now)) == (["r"], [])
    clock.now += 200
    assert process.runs.due(clock.now) == [("n", "r")]
    process.reconcile()
    assert cluster.runs == {}


def test_run_that_changed_since_its_time_was_over_is_not_deleted() -> None:
    cluster, clock = make(ttlSecondsAfterFinished=60), Clock()
    play(cluster)
    process = Process(cluster, clock)
    process.sync()
    clock.now += 200
    cluster.edit("r", ttlSecondsAfterFinished=6000)
    process.reconciler.reconcile(("n", "r"))
    assert list(cluster.runs) == ["r"]


def test_job_that_still_runs_after_its_run_has_ended_is_deleted_by_the_next_operator() -> None:
    cluster, clock = make(**ONE, activeDeadlineSeconds=60), Clock()
    process = Process(cluster, clock)
    settle(process)
    cluster.run_pods("r-filter-1")
    settle(process)
    clock.now += 100
    cluster.die_after = len(cluster.writes) + 1
    with pytest.raises(Dead):
        process.reconcile()
    cluster.die_after = None
    assert (saved_run_status(status(cluster)).state, list(cluster.jobs)) == (RunState.FAILED, ["r-filter-1"])
    process = Process(cluster, clock)
    settle(process)
    assert cluster.jobs == {}
    assert process.reconciler._memories == {}


def test_finished_stage_whose_job_was_removed_after_its_time_does_not_start_again() -> None:
    cluster = make()
    process = Process(cluster, Clock())
    process.reconciler._executor._job_ttl_s = 86_400
    settle(process)
    assert cluster.jobs["r-filter-1"]["spec"]["ttlSecondsAfterFinished"] == 86_400
    cluster.end("r-filter-1", 0)
    settle(process)
    del cluster.jobs["r-filter-1"]
    cluster.pods = {}
    settle(process)
    settle(Process(cluster, Clock()))
    assert list(cluster.jobs) == ["r-vocabulary-1"]
