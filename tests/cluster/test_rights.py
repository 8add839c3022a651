"""Every right of the operator is one that it uses, and it asks for no other: its rules against what the API server's
audit log says.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cluster.charts import Helm, build_operator_image, runs_place
from tests.cluster.operators import Runs, define
from tests.cluster.tools import Kubectl, cannot, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ONE_STAGE: dict[str, Any] = {"label": None, "train": None, "evaluate": None}
GANG: dict[str, Any] = {
    "model": "ViT-B-16",
    "samples": 8,
    "batchSize": 8,
    "distillation": {"mode": "Disabled"},
    "numNodes": 2,
}
VERBS = ("create", "get", "list", "watch", "update", "patch", "delete", "deletecollection")
NOT_HERE = {
    ("diht.dev", "dihtruns", "get"): "a run that a broken watch has missed",
    ("", "pods/status", "patch"): "an elastic gang in place that loses a node (tests/cluster/test_elastic.py)",
    **{
        ("kueue.x-k8s.io", resource, verb): "Kueue is not here (tests/cluster/test_controller_queue.py)"
        for resource, verbs in (
            ("workloads", ("create", "get", "list", "watch", "delete")),
            ("workloads/status", ("patch",)),
        )
        for verb in verbs
    },
    **{
        ("scheduling.k8s.io", "podgroups", verb): "needs a feature gate (tests/cluster/test_pod_groups.py)"
        for verb in ("create", "get", "patch", "delete")
    },
}
"""Rights that this test does not provoke, and when they are used."""


@pytest.fixture
def runs(own: bool, kubectl: Kubectl, recipe_image: str) -> Iterator[Runs]:
    if not own:
        cannot("KUBECONFIG is another cluster's: images cannot be loaded into its nodes from here")
    build_operator_image()
    define(kubectl)
    with runs_place(kubectl, recipe_image) as place:
        yield place


def granted(runs: Runs) -> set[tuple[str, str, str]]:
    """Group, resource and verb of each right of the release's Roles."""
    selector = "--selector=app.kubernetes.io/instance=diht-operator"
    roles = runs.kubectl.json("get", "roles", "--namespace", runs.namespace, selector)["items"]
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(events: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """What was asked for and allowed."""
    found = set()
    for event in events:
        at = event.get("objectRef")
        if at is None or "resource" not in at or event.get("responseStatus", {}).get("code") == 403:
            continue
        resource = f"{at['resource']}/{at['subresource']}" if "subresource" in at else at["resource"]
        found.add((at.get("apiGroup", ""), resource, event["verb"]))
    return found


def provoke(runs: Runs) -> None:
    """Runs that need, together, every right: a gang that fails, one that is suspended, one whose Job is deleted without
    its pods, one that expires, foreign objects, a pod that cannot start; and a Lease that is gone.
    """
    namespace = ("--namespace", runs.namespace)
    runs.kubectl("create", "job", "job-taken-filter-1", "--image=local/none:1", *namespace)
    runs.kubectl("create", "service", "clusterip", "service-taken-train-1", "--clusterip=None", *namespace)
    runs.apply("job-taken", **ONE_STAGE)
    runs.apply("service-taken", filter=None, label=None, evaluate=None, train=GANG)
    runs.apply("gang", {"train": [75, 75, 75, "ok"]}, filter=None, label=None, evaluate=None, train=GANG)
    runs.apply("held", {"filter": ["hang"]}, **ONE_STAGE)
    runs.apply("short", ttlSecondsAfterFinished=0, **ONE_STAGE)
    lost = runs.document("lost", **ONE_STAGE)
    lost["spec"]["pods"]["serviceAccountName"] = "none"
    runs.kubectl.create(lost, runs.namespace)
    runs.apply("orphan", {"filter": ["hang"]}, **ONE_STAGE)
    for name in ("held", "orphan"):
        runs.wait_for(name, "Progressing", "Running")
    runs.kubectl("delete", "job", "orphan-filter-1", "--cascade=orphan", *namespace)
    runs.patch("held", {"suspend": True})
    runs.wait_for("held", "Progressing", "Suspended")
    runs.wait_for("lost", "Progressing", "ReferenceMissing")
    for name in ("job-taken", "service-taken"):
        runs.wait_for(name, "Accepted", "NameConflict")
    runs.kubectl("delete", "lease", "diht-operator", *namespace)
    wait_until(
        lambda: "diht-operator" in runs.kubectl("get", "leases", "-o", "name", *namespace), "the Lease made again"
    )
    wait_until(lambda: runs.gone("short"), "the run whose time to live is over")
    runs.wait_for("gang", "Complete", timeout_s=240)


def test_operator_uses_every_right_that_it_has_and_asks_for_no_other(runs: Runs, helm: str, audit: Any) -> None:
    since = datetime.now(UTC)
    installed = Helm(helm, runs.kubectl.kubeconfig, runs.namespace)
    installed.install("diht-operator", "rbac.scope=namespaced", "crds.install=false")
    provoke(runs)
    events = audit(user=f"system:serviceaccount:{runs.namespace}:diht-operator", since=since, verbs=VERBS)
    refused = [event["objectRef"] for event in events if event.get("responseStatus", {}).get("code") == 403]
    assert refused == []
    rights = granted(runs)
    installed("uninstall", "diht-operator")
    assert rights - used(events) - NOT_HERE.keys() == set(), "rights that nothing needs"
    assert used(events) <= rights
