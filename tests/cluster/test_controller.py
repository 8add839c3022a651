"""The operator on a real cluster, with stub programs: a whole run, its status, what is written and what is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import Operator, Runs, install, output_folder, stages
from tests.cluster.tools import Kubectl, cannot

pytestmark = pytest.mark.cluster
JOBS = ["filter-1", "vocabulary-1", "heads-1", "predict-1", "train-1", "evaluate-1"]


@pytest.fixture
def runs(
    kubectl: Kubectl, own: bool, namespace: str, recipe_image: str, project_volume: dict[str, Any]
) -> Iterator[Runs]:
    """Makes runs with stub programs in the test's namespace."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its pods cannot share a folder of this machine")
    with output_folder(kubectl, namespace) as folder:
        yield Runs(kubectl, namespace, recipe_image, project_volume, folder)


@pytest.fixture
def idle_operator(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    """An operator that is not started yet."""
    operator = Operator(namespace, install(kubectl, namespace, tmp_path), tmp_path / "operator.log")
    yield operator
    operator.stop()
    print(operator.log.read_text()[-6000:] if operator.log.exists() else "never started")


@pytest.fixture
def operator(idle_operator: Operator) -> Operator:
    return idle_operator.start()


def test_run_of_four_stages_completes_and_says_so(runs: Runs, operator: Operator, audit: Any) -> None:
    since = datetime.now(UTC)
    runs.apply("whole", filter={"workers": 2})
    runs.kubectl("wait", "--for=condition=Complete", "dihtrun/whole", "-n", runs.namespace, "--timeout=120s", timeout_s=130)  # fmt: skip
    status = runs.status("whole")
    assert {name: stage["state"] for name, stage in stages(status).items()} == dict.fromkeys(
        ["filter", "label-vocabulary", "label-heads", "label-predict", "train", "evaluate"], "Complete"
    )
    assert list(runs.children("whole")) == sorted(f"whole-{job}" for job in JOBS)
    assert status["observedGeneration"] == 1
    assert status["progress"]["percentage"] == 100
    reasons = runs.events("whole")
    assert reasons.count("Started") == 6
    assert reasons.count("Complete") == 1
    owners = runs.kubectl.json("get", "jobs", "-n", runs.namespace)["items"]
    assert {job["metadata"]["ownerReferences"][0]["uid"] for job in owners} == {runs.get("whole")["metadata"]["uid"]}
    settled = datetime.now(UTC)
    time.sleep(5)
    assert [e["objectRef"] for e in audit(user=operator.user, since=settled)] == []
    writes = audit(user=operator.user, since=since)
    assert all(event["responseStatus"]["code"] < 300 for event in writes)
    assert len(writes) <= 10 * len(JOBS)
