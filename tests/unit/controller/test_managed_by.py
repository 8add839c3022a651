"""`spec.managedBy`: a run of another controller is left alone in every state, and its status is that controller's."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from diht_k8s.controller.cache.runs import RunStore, RunWatch
from tests.unit.controller.cached_runs import ENDED, ended_run, run
from tests.unit.controller.documents import NOW, at
from tests.unit.controller.fake import Process
from tests.unit.controller.script import Script, page
from tests.unit.controller.stories import Clock, make, settle

MULTIKUEUE = "kueue.x-k8s.io/multikueue"
MIRRORED: dict[str, dict[str, Any]] = {
    "new": {},
    "running": {"stages": [{"stage": "filter", "state": "Running", "attempt": 1}], "observedGeneration": 1},
    "ended": {**ENDED, "completionTime": at(NOW - 10**6), "observedGeneration": 1},
    "unknown": {"strange": 1},
}


@pytest.mark.parametrize("state", MIRRORED)
@pytest.mark.parametrize("spec", [{}, {"suspend": True}, {"ttlSecondsAfterFinished": 0}], ids=str)
def test_run_of_another_controller_is_never_written(state: str, spec: dict[str, Any]) -> None:
    cluster = make(managedBy=MULTIKUEUE, **spec)
    cluster.runs["r"]["status"] = MIRRORED[state]
    before = copy.deepcopy(cluster.runs)
    process = Process(cluster, Clock())
    settle(process)
    assert process.runs.due(NOW) == []
    assert (cluster.writes, cluster.runs, cluster.jobs, cluster.recorded) == ([], before, {}, [])
    assert process.reconcile() is None
    cluster.runs["r"]["metadata"]["deletionTimestamp"] = at(NOW)
    settle(process)
    assert cluster.writes == []


@pytest.mark.parametrize("managed_by", [None, "diht.dev/operator"])
def test_run_of_our_operator_is_reconciled(managed_by: str | None) -> None:
    cluster = make(managedBy=managed_by)
    settle(Process(cluster, Clock()))
    assert "create Job r-filter-1" in cluster.writes


def test_watch_passes_over_runs_of_another_controller_and_sees_the_others() -> None:
    documents = [
        {**found.document, "metadata": dict(found.document["metadata"])}
        for found in (run("theirs", managedBy=MULTIKUEUE), ended_run("old", managedBy=MULTIKUEUE), run("ours"))
    ]
    runs, changed = RunStore(), list[str]()
    watch = RunWatch(Script(page(*documents)), runs, lambda key: changed.append(key[1]), clock=lambda: 0.0)
    watch._list()
    assert (changed, runs.keys(), len(runs)) == (["ours"], [("n", "ours")], 1)
