"""The chart on a real cluster, with the operator's own image: install, test, upgrade, roll back, uninstall, install again; two scopes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.charts import (
    NEW_FIELD,
    PREVIOUS,
    Helm,
    HelmError,
    build_operator_image,
    next_version,
    recipe,
    runs_place,
)
from tests.cluster.operators import Runs
from tests.cluster.tools import PROJECT, Kubectl, KubectlError, cannot, fresh_namespace, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ONE_STAGE: dict[str, Any] = {"label": None, "train": None, "evaluate": None}
NAMESPACED = ("rbac.scope=namespaced", "rbac.kueue=false", "crds.install=false")
USERS = str(PROJECT / "manifests/base/users.yaml")


@pytest.fixture(scope="module")
def operator_image(own: bool, kubectl: Kubectl) -> None:
    if not own:
        cannot("KUBECONFIG is another cluster's: images cannot be loaded into its nodes from here")
    build_operator_image()


@pytest.fixture
def runs(kubectl: Kubectl, recipe_image: str, operator_image: None) -> Iterator[Runs]:
    with runs_place(kubectl, recipe_image) as place:
        yield place


@pytest.fixture
def admin(helm: str, runs: Runs) -> Iterator[Helm]:
    """Helm in the namespace of the runs; what is still installed there goes."""
    found = Helm(helm, runs.kubectl.kubeconfig, runs.namespace)
    yield found
    print(runs.kubectl("logs", "--namespace", runs.namespace, "--selector=app.kubernetes.io/name=diht-operator", "--tail=40"))  # fmt: skip
    for release in json.loads(found("list", "--all", "--output=json")):
        found("uninstall", release["name"])


@pytest.fixture
def rights(kubectl: Kubectl) -> Iterator[None]:
    """What an administrator does once, where users install for themselves: the CRD, and the roles of people."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(PROJECT / "manifests/crd/diht.dev_dihtruns.yaml"))
    kubectl("apply", "-f", USERS)
    yield
    kubectl("delete", "-f", USERS)


def objects(runs: Runs, release: str) -> list[str]:
    """What a release has in its namespace."""
    kinds = "deployments,replicasets,pods,serviceaccounts,roles,rolebindings,services,configmaps,leases,networkpolicies"
    return runs.kubectl(
        "get", kinds, "--namespace", runs.namespace, f"--selector=app.kubernetes.io/instance={release}", "-o", "name"
    ).split()


def everything(runs: Runs) -> set[str]:
    """Every object of the namespace, of whatever kind, but for what Kubernetes makes by itself: pods of Jobs, and events."""
    kinds = runs.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    asked = ",".join(kind for kind in kinds if kind.partition(".")[0] not in ("events", "pods", "leases"))
    return set(runs.kubectl("get", asked, "--namespace", runs.namespace, "-o", "name").split())


def jobs(runs: Runs) -> dict[str, str]:
    found = runs.kubectl.json("get", "jobs", "--namespace", runs.namespace)["items"]
    return {job["metadata"]["name"]: job["metadata"]["uid"] for job in found}


def test_user_of_one_namespace_installs_there_and_no_other_namespace_is_served(
    runs: Runs, admin: Helm, rights: None, audit: Any, kubectl: Kubectl
) -> None:
    since, namespace = datetime.now(UTC), runs.namespace
    kubectl("create", "rolebinding", "alice", "--clusterrole=admin", "--user=alice", "--namespace", namespace)
    alice = replace(admin, user="alice")
    assert f"namespace {namespace} only" in alice.install("diht-operator", *NAMESPACED, flags=recipe(runs))
    tested = alice.test("diht-operator")
    assert "the operator takes runs on and reports" in tested
    assert "a run has filtered four pictures to its end" in tested
    assert objects(runs, "diht-operator-test") == [], "the test has left nothing"
    with fresh_namespace(kubectl, "other") as other:
        kubectl.apply(json.dumps(runs.document("mine", **ONE_STAGE)), "--namespace", other)
        runs.apply("mine", **ONE_STAGE)
        runs.wait_for("mine", "Complete")
        assert "status" not in kubectl.json("get", "dihtrun", "mine", "--namespace", other)
        replace(admin, namespace=other).install("diht-operator", *NAMESPACED)
        accepted = ("wait", "dihtrun/mine", "--for=condition=Accepted", "--namespace", other, "--timeout=30s")
        assert "condition met" in kubectl(*accepted), "the operator of the other namespace takes it"
    calls = audit(user=f"system:serviceaccount:{namespace}:diht-operator", since=since, verbs=("create", "patch", "get", "list", "watch", "delete"))  # fmt: skip
    assert [event["objectRef"] for event in calls if event["responseStatus"]["code"] == 403] == []
    assert any(event["objectRef"]["resource"] == "dihtruns" for event in calls)
    alice("uninstall", "diht-operator", "--wait")
    wait_until(lambda: objects(runs, "diht-operator") == [], "nothing but the run is left", 30)
    assert runs.condition("mine", "Complete")["status"] == "True"


def test_user_without_rights_is_told_what_is_missing(admin: Helm, rights: None) -> None:
    with pytest.raises(HelmError, match=r'(?s)"mallory" cannot .* in API group .* in the namespace'):
        replace(admin, user="mallory").install("diht-operator", *NAMESPACED)


STATES = {"long": "Running", "done": "Complete", "later": "Suspended", "held": "Queued", "wrong": "UserError"}
"""A run in every state, and the reason of its condition Progressing."""


def make_runs_in_every_state(runs: Runs) -> None:
    """The queue is played by hand: it does to the Job of the run what Kueue does."""
    runs.apply("long", {"filter": ["hang"]}, **ONE_STAGE)
    runs.apply("done", **ONE_STAGE)
    runs.apply("later", suspend=True, **ONE_STAGE)
    held = runs.document("held", {"filter": ["hang"]}, **ONE_STAGE)
    held["spec"]["pods"]["queueName"] = "gpus"
    runs.kubectl.apply(json.dumps(held), "--namespace", runs.namespace)
    runs.apply("wrong", {"filter": [64]}, **ONE_STAGE)
    runs.wait_for("held", "Progressing", "Running")
    hold = ("patch", "job", "held-filter-1", "--namespace", runs.namespace, "--type=merge", "-p")
    runs.kubectl(*hold, json.dumps({"spec": {"suspend": True}}))
    for name, reason in STATES.items():
        runs.wait_for(name, "Progressing", reason)


def states(runs: Runs) -> dict[str, str]:
    return {name: runs.condition(name, "Progressing")["reason"] for name in STATES}


def test_upgrade_from_the_previous_version_brings_new_fields_and_leaves_runs_in_every_state_alone(
    runs: Runs, admin: Helm, tmp_path: Path
) -> None:
    settings = ("rbac.scope=namespaced",)
    admin.install("mine", *settings, chart=PREVIOUS, flags=("--take-ownership",))
    make_runs_in_every_state(runs)
    before = jobs(runs)
    new = json.dumps(runs.document("new", **{**ONE_STAGE, "filter": {NEW_FIELD: True}}))
    ask = ("--namespace", runs.namespace, "--dry-run=server", "--validate=strict")
    with pytest.raises(KubectlError, match=f'unknown field "spec.filter.{NEW_FIELD}"'):
        runs.kubectl.apply(new, *ask)
    admin.upgrade("mine", *settings, chart=next_version(tmp_path))
    wait_until(lambda: "created" in runs.kubectl.apply(new, *ask), "the new field is served", 30)
    assert (jobs(runs), states(runs)) == (before, STATES)
    runs.apply("after", **ONE_STAGE)
    runs.wait_for("after", "Complete")
    admin("rollback", "mine", "--wait", "--timeout=60s")
    wait_until(lambda: refused(runs, new, ask), "the older definition is back", 30)
    runs.patch("later", {"suspend": False})
    runs.wait_for("later", "Complete")
    assert (jobs(runs).items() >= before.items(), states(runs)) == (True, {**STATES, "later": "Complete"})


def refused(runs: Runs, document: str, ask: tuple[str, ...]) -> bool:
    try:
        runs.kubectl.apply(document, *ask)
    except KubectlError:
        return True
    return False


def test_uninstall_leaves_runs_and_definition_only_and_install_again_adopts_what_runs(runs: Runs, admin: Helm) -> None:
    since, settings = everything(runs), ("rbac.scope=namespaced",)
    admin.install("mine", *settings, flags=("--take-ownership",))
    make_runs_in_every_state(runs)
    before = jobs(runs)
    admin("uninstall", "mine", "--wait")
    mine = {f"dihtrun.diht.dev/{name}" for name in STATES} | {f"job.batch/{name}" for name in before}
    wait_until(lambda: everything(runs) - since == mine, "nothing but the runs is left", 30)
    assert (jobs(runs), states(runs)) == (before, STATES)
    admin.install("mine", *settings)
    assert jobs(runs) == before
    runs.patch("long", {"suspend": True})
    runs.wait_for("long", "Progressing", "Suspended")
    assert [event for event in runs.events("long") if event == "Started"] == ["Started"]


def test_second_release_of_a_namespace_stands_by_until_the_first_is_gone(runs: Runs, admin: Helm) -> None:
    admin.install("one", "rbac.scope=namespaced", "crds.install=false")
    admin.install("two", "rbac.scope=namespaced", "crds.install=false")
    assert holder(runs).startswith("one-")
    admin("uninstall", "one", "--wait")
    wait_until(lambda: holder(runs).startswith("two-"), "the second acts", 60)
    runs.apply("r", suspend=True, **ONE_STAGE)
    runs.wait_for("r", "Progressing", "Suspended")


def holder(runs: Runs) -> str:
    """The pod that acts."""
    lease = runs.kubectl.json("get", "lease", "diht-operator", "--namespace", runs.namespace)
    return lease["spec"]["holderIdentity"]


def test_second_installation_for_all_namespaces_is_refused_and_the_first_leaves_nothing_behind(
    runs: Runs, admin: Helm, kubectl: Kubectl
) -> None:
    """Without a pod, so that no other test's run is touched."""
    admin.install("wide", "replicas=0", flags=("--take-ownership",))
    with fresh_namespace(kubectl, "second") as second:
        there = rf"is there already \(release wide in namespace {runs.namespace}\)"
        with pytest.raises(HelmError, match=there):
            replace(admin, namespace=second).install("other", "replicas=0", "crds.install=false")
        with pytest.raises(HelmError, match="cannot be imported into the current release"):
            replace(admin, namespace=second).install("other", "replicas=0", "rbac.scope=namespaced")
    admin("uninstall", "wide", "--wait")
    assert "dihtruns.diht.dev" in kubectl("get", "crd", "-o", "name")
    kinds = "clusterroles,clusterrolebindings"
    assert kubectl("get", kinds, "--selector=app.kubernetes.io/instance=wide", "-o", "name") == ""


@pytest.mark.slow
def test_install_for_all_namespaces_serves_them(runs: Runs, admin: Helm, recipe_image: str, kubectl: Kubectl) -> None:
    """Marked slow because it must have the cluster to itself: its operator takes every run of every namespace."""
    admin.install("wide", flags=("--take-ownership", *recipe(runs)))
    assert "a run has filtered four pictures to its end" in admin.test("wide")
    with runs_place(kubectl, recipe_image) as elsewhere:
        elsewhere.apply("theirs")
        elsewhere.wait_for("theirs", "Complete", timeout_s=150)
