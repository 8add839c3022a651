"""The operator on a real cluster, with stub programs: a whole run, what is written and what is not, SIGKILL after every
write.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import Operator, Runs, World, stages, world
from tests.cluster.tools import PATIENCE, Kubectl, wait_until

pytestmark = pytest.mark.cluster
JOBS = ["evaluate-1", "filter-1", "heads-1", "predict-1", "train-1", "vocabulary-1"]
TRAIN = {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}}


@pytest.fixture
def still(kubectl: Kubectl, recipe_image: str, tmp_path: Path) -> Iterator[World]:
    """A world whose operator is not started yet."""
    with world(kubectl, recipe_image, tmp_path, start=False) as found:
        yield found


def test_run_of_four_stages_completes_and_nothing_is_written_after(still: World, audit: Any) -> None:
    since, operator, runs = datetime.now(UTC), still.operator.start(), still.runs
    runs.apply("whole", filter={"workers": 2})
    status = runs.wait_for("whole", "Complete", timeout_s=150)
    assert {name: stage["state"] for name, stage in stages(status).items()} == dict.fromkeys(
        ["filter", "label-vocabulary", "label-heads", "label-predict", "train", "evaluate"], "Complete"
    )
    assert sorted(runs.children("whole")) == [f"whole-{job}" for job in JOBS]
    assert (status["observedGeneration"], status["progress"]["percentage"]) == (1, 100)
    jobs = runs.kubectl.json("get", "jobs", "-n", runs.namespace)["items"]
    assert {job["metadata"]["ownerReferences"][0]["uid"] for job in jobs} == {runs.get("whole")["metadata"]["uid"]}
    wait_until(lambda: "Complete" in runs.events("whole"), "its last event", 10)  # comes after the status
    reasons = runs.events("whole")
    assert (reasons.count("Started"), reasons.count("Complete")) == (6, 1)
    assert operator.get("/healthz")[0] == operator.get("/readyz")[0] == 200
    assert "diht_operator_runs 1.0" in operator.get("/metrics")[1]
    settled = datetime.now(UTC)
    time.sleep(3)
    assert [event["objectRef"] for event in audit(user=operator.user, since=settled)] == []
    writes = audit(user=operator.user, since=since)
    assert [event["objectRef"] for event in writes if event["responseStatus"]["code"] >= 300] == []
    assert len(writes) <= 10 * len(JOBS)


def live_and_die(runs: Runs, operator: Operator, name: str, timeout_s: float) -> int:
    """Start an operator that dies after its first write, again and again, until the run is complete; how often."""
    deadline, lives = time.monotonic() + timeout_s, 0
    while runs.condition(name, "Complete").get("status") != "True":
        assert time.monotonic() < deadline, runs.status(name)
        assert operator.start().process is not None
        lives += 1
        while operator.process is not None and operator.process.poll() is None:
            if runs.condition(name, "Complete").get("status") == "True":
                break
            time.sleep(0.3)
    operator.stop()
    return lives


def test_run_under_an_operator_that_dies_after_every_write_ends_as_if_it_had_not(still: World, audit: Any) -> None:
    runs, since = still.runs, datetime.now(UTC)
    operator = replace(still.operator, program="tests.cluster.crashing")
    runs.apply("r", {"filter": [75, "ok"]}, label=None, evaluate=None, train={**TRAIN, "numNodes": 2})
    lives = live_and_die(runs, operator, "r", 240 * PATIENCE)
    assert sorted(runs.children("r")) == ["r-filter-1", "r-filter-2", "r-train-1"]
    status = runs.status("r")
    assert {name: (s["state"], s["attempt"], s.get("restarts", 0)) for name, s in stages(status).items()} == {
        "filter": ("Complete", 2, 1),
        "train": ("Complete", 1, 0),
    }
    created = [event for event in audit(user=operator.user, since=since) if event["objectRef"]["resource"] == "jobs"]
    assert len(created) == 3, "a Job was created twice, or asked for again"
    assert lives >= 9
    pods = [pod["metadata"]["labels"]["diht.dev/attempt"] for pod in runs.pods("r")]
    assert len(pods) <= 4  # a node that is lost for a moment takes ended ones along
