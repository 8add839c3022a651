"""Every sample, and a run with every field of queues and gangs, is accepted by a real API server: the run and its Jobs
(dry run).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from diht_k8s.cli.main import main
from tests.cluster.tools import PROJECT, Kubectl

pytestmark = pytest.mark.cluster
SAMPLES = sorted((PROJECT / "manifests/samples").glob("*.yaml"))
FIELDS: dict[str, Any] = {
    "queueName": "q",
    "queuePriorityClass": "high",
    "minWorkers": 2,
    "topology": {"required": "cloud.example.org/rack", "sliceRequired": "kubernetes.io/hostname", "sliceSize": 2},
    "schedulerName": "other",
    "priorityClassName": "system-cluster-critical",
    "gang": "PodGroup",
}


def with_every_field() -> str:
    document = yaml.safe_load((PROJECT / "manifests/samples/sixteen-nodes-kueue.yaml").read_text())
    document["spec"]["pods"] |= FIELDS
    return yaml.safe_dump(document)


@pytest.mark.parametrize(
    "text",
    [*(each.read_text() for each in SAMPLES), with_every_field()],
    ids=[*(each.stem for each in SAMPLES), "every-field"],
)
def test_run_and_its_jobs_pass_a_dry_run_on_the_server(
    kubectl: Kubectl, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(PROJECT / "manifests/crd/diht.dev_dihtruns.yaml"))
    kubectl.wait_established("dihtruns.diht.dev")
    file = tmp_path / "run.yaml"
    file.write_text(text)
    dry = ("--dry-run=server", "--validate=strict", "--namespace", namespace)
    kubectl("create", "-f", str(file), *dry)
    assert main(["plan", str(file)]) == 0
    objects = [
        each for each in yaml.safe_load_all(capsys.readouterr().out) if each and each.get("kind") in ("Job", "Service")
    ]
    assert any(each["kind"] == "Job" for each in objects)
    for each in objects:
        each["metadata"].pop("namespace", None)
        each["metadata"].pop("ownerReferences", None)
        kubectl("create", "-f", "-", *dry, stdin=yaml.safe_dump(each))
    if "topology" in text:
        job = next(each for each in objects if each["metadata"]["name"].endswith("-filter-1"))
        assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
        assert job["metadata"]["annotations"]["kueue.x-k8s.io/job-min-parallelism"] == "2"
        template = job["spec"]["template"]
        assert (
            template["metadata"]["annotations"]["kueue.x-k8s.io/podset-required-topology"] == "cloud.example.org/rack"
        )
        assert template["spec"]["schedulerName"] == "other"
