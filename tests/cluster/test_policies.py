"""The sample policies on a real API server: it takes them, they hold for whom they name and for nobody else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from diht_k8s.api.documents import load
from diht_k8s.cli.cluster import planned_objects
from tests.cluster.tools import CLUSTER, PROJECT, Kubectl, KubectlError, script, wait_until

pytestmark = pytest.mark.cluster
POLICIES = PROJECT / "manifests/policies"
JOB: dict[str, Any] = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"generateName": "policy-"},
    "spec": {
        "suspend": True,
        "template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none.example.org/none:1"}]}
        },
    },
}


@pytest.fixture
def operator(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """The user name of an operator's service account that may do everything, under the policy."""
    user = f"system:serviceaccount:{namespace}:diht-operator"
    text = (POLICIES / "operator-namespaces.yaml").read_text()
    text = text.replace("diht-operator-namespaces", f"diht-operator-{namespace}")
    kubectl.apply(text.replace("system:serviceaccount:diht-system:diht-operator", user))
    kubectl("create", "clusterrolebinding", f"policy-{namespace}", "--clusterrole=cluster-admin", f"--user={user}")
    yield user
    kubectl("delete", "clusterrolebinding", f"policy-{namespace}")
    kinds = "validatingadmissionpolicy,validatingadmissionpolicybinding"
    kubectl("delete", kinds, f"diht-operator-{namespace}")


def refused(kubectl: Kubectl, namespace: str, *user: str) -> str:
    """What a server says to a new Job; empty if it takes it."""
    words = ("create", "-f", "-", "--dry-run=server", "--namespace", namespace, *user)
    try:
        kubectl(*words, stdin=json.dumps(JOB))
    except KubectlError as error:
        return str(error)
    return ""


def test_operator_of_all_namespaces_writes_nothing_in_those_of_kubernetes(
    kubectl: Kubectl, namespace: str, operator: str
) -> None:
    mine = ("--as", operator)
    says = "has no business in the namespace kube-system"
    wait_until(lambda: says in refused(kubectl, "kube-system", *mine), "the policy to hold")
    assert refused(kubectl, namespace, *mine) == ""
    assert refused(kubectl, "kube-system") == "", "others are not concerned"
    with pytest.raises(KubectlError, match=says):
        kubectl("delete", "configmap", "kube-root-ca.crt", "--namespace", "kube-system", "--dry-run=server", *mine)


def test_network_policy_selects_the_pods_of_the_training_that_it_names(kubectl: Kubectl, namespace: str) -> None:
    text = (POLICIES / "training-network.yaml").read_text()
    kubectl("create", "-f", "-", "--validate=strict", "--namespace", namespace, stdin=text)
    spec = yaml.safe_load(text)["spec"]
    assert spec["ingress"][0]["from"][0]["podSelector"] == spec["podSelector"]
    run = load((PROJECT / "manifests/samples/sixteen-nodes-kueue.yaml").read_text(), name="sample")
    run = run.model_copy(update={"metadata": run.metadata.model_copy(update={"name": "my-run"})})
    wanted = spec["podSelector"]["matchLabels"].items()
    jobs = [each for each in planned_objects(run, namespace) if each["kind"] == "Job"]
    selected = [each for each in jobs if wanted <= each["spec"]["template"]["metadata"]["labels"].items()]
    assert [each["metadata"]["labels"]["diht.dev/stage"] for each in selected] == ["train"]


def test_operator_with_named_tenants_writes_in_their_namespaces_and_watches_the_others(
    kubectl: Kubectl, namespace: str
) -> None:
    name, user = f"op-{namespace}", f"system:serviceaccount:{namespace}:op-{namespace}"
    script("extra", "helm")
    values = ("--set", f"fullnameOverride={name}", "--set", f"rbac.tenants={{{namespace}}}", "--namespace", namespace)
    rbac = ("--show-only", "templates/rbac.yaml")
    chart = str(PROJECT / "helm/diht-operator")
    done = subprocess.run(
        [CLUSTER / "bin/helm", "template", "r", chart, *values, *rbac], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kubectl.apply(done.stdout)

    def may(verb: str, what: str, where: str) -> bool:
        try:
            resource, _, part = what.partition("/")
            words = ("auth", "can-i", verb, resource, f"--subresource={part}", "--namespace", where, "--as", user)
            return kubectl(*words).strip() == "yes"
        except KubectlError:
            return False

    try:
        wait_until(lambda: may("create", "jobs.batch", namespace), "the tenant's rights")
        for verb, what in (("create", "jobs.batch"), ("delete", "pods"), ("get", "pods/log"), ("create", "services")):
            assert may(verb, what, namespace), (verb, what)
            assert not may(verb, what, "default"), (verb, what)
        for verb, what in (("watch", "pods"), ("list", "jobs.batch"), ("patch", "dihtruns.diht.dev/status")):
            assert may(verb, what, "default"), (verb, what)
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding", name, f"{name}-tenant", "--ignore-not-found")
