"""`spec.managedBy` under a real MultiKueue of two control planes: the run goes to the other cluster, and its status
comes back.

Of what Kueue leaves to others the test does two things by hand: it makes the run's Workload on the first cluster, and
says on the second that the Workload is finished.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from diht_k8s.kube.connection import USER_AGENT
from tests.cluster import forked
from tests.cluster.control_planes import multi_kueue, second_plane
from tests.cluster.operators import Operator, Runs, World, condition, install, world
from tests.cluster.queues import STAGES, OneAtATime
from tests.cluster.tools import RESTRICTED, Kubectl, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
MULTIKUEUE = "kueue.x-k8s.io/multikueue"
COMMANDS = {"status": ["far"], "list": []}


@dataclass(frozen=True)
class Clusters:
    """A first cluster, whose runs go to a second one; both have an operator in a namespace of one name."""

    here: Runs
    operator: Operator
    there: World

    def diht(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command beside the first cluster."""
        words = [command, *arguments, "--namespace", self.here.namespace]
        return forked.call(*words, KUBECONFIG=str(self.here.kubectl.kubeconfig))

    def say(self, *parts: str) -> None:
        """Until each command that shows a run on the first cluster says all of this."""
        for command, arguments in COMMANDS.items():
            said = self.diht(command, *arguments).stdout
            assert all(part in said for part in parts), f"diht {command}: {said}"

    def workload(self, name: str) -> None:
        """The Workload of a run on the first cluster, which Kueue leaves to others to make."""
        owner = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "name": name, "controller": True}
        owner["uid"] = self.here.get(name)["metadata"]["uid"]
        container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": "1"}}}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        document = {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "Workload",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": {
                "queueName": "one",
                "active": True,
                "priority": 0,
                "podSets": [{"name": "main", "count": 1, "template": template}],
            },
        }
        self.here.kubectl.create(document, self.here.namespace)

    def finish(self, name: str) -> None:
        """Say on the second cluster that a Workload is finished."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"/apis/kueue.x-k8s.io/v1beta2/namespaces/{self.there.namespace}/workloads/{name}"
        conditions = self.there.kubectl.read(path)["status"]["conditions"]
        end = {"type": "Finished", "status": "True", "reason": "Succeeded", "message": "the run ended"}
        conditions.append({**end, "lastTransitionTime": now})
        self.there.kubectl.send("PATCH", f"{path}/status", {"status": {"conditions": conditions}})


@pytest.fixture
def clusters(kueue: None, kubectl: Kubectl, recipe_image: str, tmp_path: Path) -> Iterator[Clusters]:
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
    with world(kubectl, recipe_image, folders[1]) as there, second_plane(kubectl, folders[0]) as first:
        OneAtATime(kubectl, there.runs)
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": there.namespace, "labels": RESTRICTED},
        }
        first.create(namespace)
        operator = Operator(there.namespace, install(first, there.namespace, folders[0]), folders[0] / "operator.log")
        here = Runs(first, there.namespace, there.runs.image, there.runs.project, there.runs.folder)
        with multi_kueue(first, kubectl, there.namespace, folders[0]):
            try:
                yield Clusters(here, operator.start(), there)
            finally:
                operator.stop()
                print(operator.log.read_text()[-4000:])


def writers(document: dict[str, Any]) -> set[str]:
    """Who has written an object."""
    return {entry["manager"] for entry in document["metadata"]["managedFields"]}


@pytest.mark.parametrize(
    ("end", "kind"),
    [("ok", "Complete"), pytest.param(65, "Failed", marks=pytest.mark.slow)],
    ids=["complete", "failed"],
)
def test_run_goes_to_the_other_cluster_and_its_status_comes_back(clusters: Clusters, end: Any, kind: str) -> None:
    here, there = clusters.here, clusters.there.runs
    stub = {"train": [{"gate": {"train": 20, "then": end}}]}
    data = {"sources": [{"name": "web", "shards": ["/output/none.tar"]}], "output": "/output/far"}
    here.apply("far", stub, managedBy=MULTIKUEUE, data=data, failurePolicy={"maxRestarts": 0}, **STAGES)
    here.apply("near", suspend=True, **STAGES)
    wait_until(lambda: here.status("near").get("conditions"), "our operator serves the first cluster")
    clusters.say("no status yet", "spec.managedBy")
    clusters.workload("far")

    remote = wait_until(lambda: None if there.gone("far") else there.get("far"), "the run on the second cluster")
    assert remote["spec"] == {key: value for key, value in here.get("far")["spec"].items() if key != "managedBy"}
    wait_until(lambda: condition(here.status("far"), "Progressing").get("reason") == "Running", "its status comes back")
    clusters.say("far runs")
    there.wait_begun("far", "train")
    (there.folder / "far/gate").write_bytes(b"x")
    status = there.wait_for("far", kind)
    wait_until(lambda: here.status("far") == there.status("far"), "the same status on both clusters")
    clusters.say("far is complete" if kind == "Complete" else "far failed (")

    clusters.finish("far")
    wait_until(lambda: there.gone("far"), "Kueue removes the run on the second cluster")
    assert condition(here.status("far"), kind) == condition(status, kind)
    clusters.say("far is complete" if kind == "Complete" else "far failed (")
    assert USER_AGENT in writers(here.get("near"))
    assert USER_AGENT not in writers(here.get("far"))
    assert here.children("far") == {}
    ours = "involvedObject.kind=DihtRun,involvedObject.name=far"
    assert here.kubectl.read(f"/api/v1/namespaces/{here.namespace}/events?fieldSelector={ours}")["items"] == []
