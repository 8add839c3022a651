"""The chart on a real cluster, with the operator's own image: for one namespace beside other tests, and for all
namespaces its whole life.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.charts import (
    CHART,
    WAIT,
    Helm,
    HelmError,
    build_operator_image,
    recipe,
    runs_place,
)
from tests.cluster.operators import Runs, define
from tests.cluster.tools import PATIENCE, PROJECT, Kubectl, KubectlError, cannot, fresh_namespace, wait_until
from tests.contract.charts import EVERYTHING, NEWEST

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ONE_STAGE: dict[str, Any] = {"label": None, "train": None, "evaluate": None}
NAMESPACED = (
    "rbac.scope=namespaced",
    "rbac.kueue=false",
    "rbac.podGroups=false",
    "rbac.podStatus=false",
    "crds.install=false",
)
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
    print(
        runs.kubectl(
            "logs", "--namespace", runs.namespace, "--selector=app.kubernetes.io/name=diht-operator", "--tail=40"
        )
    )
    found.uninstall_all()


@pytest.fixture(scope="module")
def rights(kubectl: Kubectl) -> Iterator[None]:
    """What an administrator does once, where users install for themselves: the CRD, and the roles of people."""
    define(kubectl)
    kubectl("apply", "-f", USERS)
    yield
    kubectl("delete", "-f", USERS)


def objects(runs: Runs, release: str) -> list[str]:
    """What a release has in its namespace."""
    kinds = "deployments,replicasets,pods,serviceaccounts,roles,rolebindings,services,configmaps,networkpolicies"
    return runs.kubectl(
        "get", kinds, "--namespace", runs.namespace, f"--selector=app.kubernetes.io/instance={release}", "-o", "name"
    ).split()


def everything(runs: Runs) -> set[str]:
    """Every object of the namespace, of whatever kind, but for what Kubernetes makes by itself: pods of Jobs, and
    events.
    """
    kinds = runs.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    asked = ",".join(kind for kind in kinds if kind.partition(".")[0] not in ("events", "pods"))
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
    assert "a run has filtered four images to its end" in tested
    assert objects(runs, "diht-operator-test") == [], "the test has left nothing"
    with fresh_namespace(kubectl, "other") as other:
        kubectl.create(runs.document("mine", **ONE_STAGE), other)
        runs.apply("mine", **ONE_STAGE)
        runs.wait_for("mine", "Complete")
        assert "status" not in kubectl.json("get", "dihtrun", "mine", "--namespace", other)
        replace(admin, namespace=other).install("diht-operator", *NAMESPACED)
        patience = f"--timeout={30 * PATIENCE}s"
        accepted = ("wait", "dihtrun/mine", "--for=condition=Accepted", "--namespace", other, patience)
        assert "condition met" in kubectl(*accepted), "the operator of the other namespace takes it"
    calls = audit(
        user=f"system:serviceaccount:{namespace}:diht-operator",
        since=since,
        verbs=("create", "patch", "get", "list", "watch", "delete"),
    )
    assert [event["objectRef"] for event in calls if event["responseStatus"]["code"] == 403] == []
    assert any(event["objectRef"]["resource"] == "dihtruns" for event in calls)
    alice("uninstall", "diht-operator", "--wait")
    wait_until(lambda: objects(runs, "diht-operator") == [], "nothing but the run is left", 30)
    assert runs.condition("mine", "Complete")["status"] == "True"


def test_user_without_rights_learns_what_is_missing(admin: Helm, rights: None) -> None:
    with pytest.raises(HelmError, match=r'(?s)"mallory" cannot .* in API group .* in the namespace'):
        replace(admin, user="mallory").install("diht-operator", *NAMESPACED)


def test_api_server_takes_everything_that_the_chart_can_make_and_the_base_manifests(
    helm: str, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    """Asked only: nothing is made; not the hooks of the test, whose pod wants its service account there. The kinds of
    the Prometheus operator are not served here.
    """
    values = tmp_path / "values.yaml"
    ours = {**EVERYTHING, "metrics": {"service": {"enabled": True}, "dashboard": {"enabled": True}}}
    values.write_text(yaml.safe_dump(ours))
    admin = Helm(helm, kubectl.kubeconfig, namespace)
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(rendered_by_helm(admin, values, tmp_path)))
    ask = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    assert kubectl("apply", *ask, "-k", str(tmp_path)).count("serverside-applied") == 13
    base = {"namespace": namespace, "resources": [os.path.relpath(PROJECT / "manifests/base", tmp_path)]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(base))
    assert kubectl("apply", *ask, "-k", str(tmp_path)).count("serverside-applied") == 10


def rendered_by_helm(admin: Helm, values: Path, folder: Path) -> dict[str, Any]:
    """A kustomization of what helm renders with the values."""
    (folder / "all.yaml").write_text(
        admin("template", "all", str(CHART), "--no-hooks", "--kube-version", NEWEST, "--values", str(values))
    )
    return {"resources": ["all.yaml"]}


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("view", ["get dihtruns", "get dihtruns/status"], ["create dihtruns", "delete dihtruns"]),
        ("edit", ["create dihtruns", "patch dihtruns", "delete dihtruns"], ["patch dihtruns/status"]),
        ("admin", ["create dihtruns", "patch dihtruns/status"], ["create dihtruns/finalizers"]),
    ],
)
def test_role_of_a_person_in_a_namespace_reaches_its_runs(
    kubectl: Kubectl, rights: None, namespace: str, role: str, may: list[str], may_not: list[str]
) -> None:
    """By the aggregated roles, as soon as the controller of roles has put them together."""
    kubectl("create", "rolebinding", "bob", f"--clusterrole={role}", "--user=bob", "--namespace", namespace)

    def can(what: str) -> bool:
        verb, resource = what.split()
        resource, _, sub = resource.partition("/")
        sub = (f"--subresource={sub}",) if sub else ()
        try:
            return "yes" in kubectl(
                "auth", "can-i", verb, f"{resource}.diht.dev", *sub, "--as=bob", "--namespace", namespace
            )
        except KubectlError:  # it prints no and ends with 1
            return False

    wait_until(lambda: all(can(what) for what in may), f"{role} may {may}", 20)
    assert not any(can(what) for what in may_not)


RELEASE = "diht-operator"
"""as the README has it"""
STATES = {"long": "Running", "done": "Complete", "later": "Suspended", "held": "Queued", "wrong": "UserError"}
"""A run in every state, and the reason of its condition Progressing."""


def make_runs_in_every_state(runs: Runs) -> None:
    """The queue is played by hand: it does to the Job of the run what Kueue does."""
    runs.apply("long", {"filter": ["hang"]}, **ONE_STAGE)
    runs.apply("done", **ONE_STAGE)
    runs.apply("later", suspend=True, **ONE_STAGE)
    held = runs.document("held", {"filter": ["hang"]}, **ONE_STAGE)
    held["spec"]["pods"]["queueName"] = "gpus"
    runs.kubectl.create(held, runs.namespace)
    runs.apply("wrong", {"filter": [64]}, **ONE_STAGE)
    runs.wait_for("held", "Progressing", "Running")
    hold = ("patch", "job", "held-filter-1", "--namespace", runs.namespace, "--type=merge", "-p")
    runs.kubectl(*hold, json.dumps({"spec": {"suspend": True}}))
    for name, reason in STATES.items():
        runs.wait_for(name, "Progressing", reason)


def states(runs: Runs) -> dict[str, str]:
    return {name: runs.condition(name, "Progressing")["reason"] for name in STATES}


NEW_FIELD = "tomorrow"


def next_chart(folder: Path) -> Path:
    """The chart as a next release may bring it: its definition of runs knows one more field of spec.filter."""
    chart = Path(shutil.copytree(CHART, folder / "chart"))
    definition = chart / "templates/crd/diht.dev_dihtruns.yaml"
    before = definition.read_text()
    after = re.sub(r"(?m)^( +)minActions:$", rf"\1{NEW_FIELD}:\n\1  type: boolean\n\g<0>", before)
    assert after != before
    definition.write_text(after)
    return chart


def taken(runs: Runs, document: str, ask: tuple[str, ...]) -> bool:
    try:
        return "created" in runs.kubectl.apply(document, *ask)
    except KubectlError:  # the older definition is served for a moment yet
        return False


def refused(runs: Runs, document: str, ask: tuple[str, ...]) -> bool:
    try:
        runs.kubectl.apply(document, *ask)
    except KubectlError as error:  # for a moment after a change of the definition the API server knows no runs at all
        return f'unknown field "spec.filter.{NEW_FIELD}"' in str(error)
    return False


def readme_line(runs: Runs) -> list[str]:
    """The README's `helm install`, word by word, but for the places of image and namespace."""
    line = re.search(r"^helm (install .*)$", (CHART / "README.md").read_text(), re.MULTILINE)
    assert line
    places = {
        "registry.example.org/diht-operator": "local/diht-operator",
        "diht-system": runs.namespace,
        "helm/": f"{CHART.parent}/",
    }
    words = line[1]
    for theirs, ours in places.items():
        assert theirs in words
        words = words.replace(theirs, ours)
    return words.split()


def in_the_way(second: Helm, runs: Runs) -> None:
    """A second installation for all namespaces is refused, and one that takes the definition of the first."""
    there = rf"is there already \(release {RELEASE} in namespace {runs.namespace}\)"
    with pytest.raises(HelmError, match=there):
        second.install("other", "replicas=0", "crds.install=false")
    with pytest.raises(HelmError, match="cannot be imported into the current release"):
        second.install("other", "replicas=0", "rbac.scope=namespaced")


def upgrade_and_roll_back(runs: Runs, admin: Helm, folder: Path) -> None:
    """A next release brings a new field and leaves runs in every state alone, as does the way back."""
    before = jobs(runs)
    new = json.dumps(runs.document("new", **{**ONE_STAGE, "filter": {NEW_FIELD: True}}))
    ask = ("--namespace", runs.namespace, "--dry-run=server", "--validate=strict")
    with pytest.raises(KubectlError, match=f'unknown field "spec.filter.{NEW_FIELD}"'):
        runs.kubectl.apply(new, *ask)
    admin.upgrade(RELEASE, chart=next_chart(folder))
    wait_until(lambda: taken(runs, new, ask), "the new field is served", 30)
    assert (jobs(runs), states(runs)) == (before, STATES)
    runs.apply("after", **ONE_STAGE)
    runs.wait_for("after", "Complete")
    admin("rollback", RELEASE, *WAIT)
    wait_until(lambda: refused(runs, new, ask), "the older definition is back", 30)
    runs.patch("later", {"suspend": False})
    runs.wait_for("later", "Complete")
    assert (jobs(runs).items() >= before.items(), states(runs)) == (True, {**STATES, "later": "Complete"})


def uninstall_and_install_again(runs: Runs, admin: Helm, since: set[str]) -> None:
    """Runs, definition and Lease stay, and nothing else; the next installation adopts what runs."""
    before, found = jobs(runs), states(runs)
    admin("uninstall", RELEASE, "--wait")
    mine = {f"dihtrun.diht.dev/{name}" for name in (*STATES, "after")} | {f"job.batch/{name}" for name in before}
    kept = mine | {"lease.coordination.k8s.io/diht-operator"}
    wait_until(lambda: everything(runs) - since == kept, "nothing but the runs and the Lease is left", 30)
    assert "dihtruns.diht.dev" in runs.kubectl("get", "crd", "-o", "name")
    kinds = "clusterroles,clusterrolebindings"
    assert runs.kubectl("get", kinds, f"--selector=app.kubernetes.io/instance={RELEASE}", "-o", "name") == ""
    assert (jobs(runs), states(runs)) == (before, found)
    admin.install(RELEASE, "rbac.scope=namespaced")
    assert jobs(runs) == before
    runs.patch("long", {"suspend": True})
    runs.wait_for("long", "Progressing", "Suspended")
    assert [event for event in runs.events("long") if event == "Started"] == ["Started"]


@pytest.mark.exclusive
def test_readme_line_installs_an_operator_for_all_namespaces_that_upgrades_goes_back_goes_and_comes_again(
    runs: Runs, admin: Helm, recipe_image: str, kubectl: Kubectl, tmp_path: Path
) -> None:
    """The sample of manifests/samples with stub programs on a volume of its namespace in place of a bucket."""
    since, ours = everything(runs), ("--set", "image.tag=test", *admin.taking_over, *WAIT)
    assert "serves all namespaces" in admin(*readme_line(runs), *ours)
    sample = yaml.safe_load((PROJECT / "manifests/samples/minimal.yaml").read_text())
    with runs_place(kubectl, recipe_image) as elsewhere:
        stub = elsewhere.document("minimal")["spec"]
        kubectl.create(
            {**sample, "spec": {**sample["spec"], "data": stub["data"], "pods": stub["pods"]}}, elsewhere.namespace
        )
        make_runs_in_every_state(runs)
        in_the_way(replace(admin, namespace=elsewhere.namespace), runs)
        elsewhere.wait_for("minimal", "Complete", timeout_s=150)
    upgrade_and_roll_back(runs, admin, tmp_path)
    uninstall_and_install_again(runs, admin, since)
