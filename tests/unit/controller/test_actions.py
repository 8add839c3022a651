"""Actions: an object of the same name with another owner is left alone, and nothing is created next to it."""

from __future__ import annotations

from tests.unit.controller.fake import Process
from tests.unit.controller.stories import Clock, reason, settle, training


def test_service_of_somebody_else_is_left_alone_and_no_job_is_made_beside_it() -> None:
    cluster, _, _ = training()
    foreign = {"metadata": {"name": "r-train-1"}, "spec": {"selector": {"app": "theirs"}}}
    cluster.jobs, cluster.pods, cluster.services = {}, {}, {"r-train-1": foreign}
    process = Process(cluster, Clock())
    settle(process)
    assert reason(cluster, "Accepted") == "NameConflict"
    assert (cluster.jobs, cluster.services) == ({}, {"r-train-1": foreign})
    del cluster.services["r-train-1"]
    settle(process)
    assert (reason(cluster, "Accepted"), list(cluster.jobs)) == ("Valid", ["r-train-1"])
