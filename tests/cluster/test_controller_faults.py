"""What goes wrong in a run, on a real cluster with stub programs: each fault has its reason in the status, and costs
what it should.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.operators import Runs, World, binding, condition, evict, kill_program, stages, world
from tests.cluster.tools import Kubectl, wait_until

pytestmark = pytest.mark.cluster
ONE = {"label": None, "train": None, "evaluate": None}
"""A run of the stage filter alone."""


@pytest.fixture(scope="module")
def place(kubectl: Kubectl, recipe_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One namespace and operator for all tests of this file that leave them as they are."""
    with world(kubectl, recipe_image, tmp_path_factory.mktemp("operator")) as found:
        yield found


@pytest.fixture
def runs(place: World) -> Runs:
    return place.runs


def test_killed_program_starts_again_and_counts(runs: Runs) -> None:
    runs.apply("killed", {"filter": ["hang", "ok"]}, **ONE)
    wait_until(lambda: (runs.folder / "killed/runs/latest/filter/step").exists(), "its first step")
    kill_program("killed-filter-1-0")
    status = runs.wait_for("killed", "Complete")
    stage = stages(status)["filter"]
    assert (stage["attempt"], stage["restarts"], stage["restartsCountTowardsMax"]) == (2, 1, 1)
    assert [(a["number"], a["reason"], a.get("counted")) for a in status["attempts"]] == [
        (1, "Error", True),
        (2, "Complete", None),
    ]
    assert "Restarting" in runs.events("killed")


def test_drained_pod_restarts_the_gang_where_it_was_and_counts_nothing(runs: Runs) -> None:
    runs.apply(
        "drained", {"train": ["hang", "ok"]}, filter=None, label=None, evaluate=None, failurePolicy={"maxRestarts": 0}
    )
    [pod] = wait_until(lambda: [p for p in runs.pods("drained") if p["status"]["phase"] == "Running"], "the pod")
    wait_until(lambda: runs.status("drained").get("progress", {}).get("metrics"), "progress")
    evict(runs, pod["metadata"]["name"])
    status = runs.wait_for("drained", "Complete")
    stage = stages(status)["train"]
    assert (stage["attempt"], stage["restarts"], stage.get("restartsCountTowardsMax", 0)) == (2, 1, 0)
    # The pod's own reason if it still existed at the reconciliation, else the Job controller's.
    assert status["attempts"][0]["reason"] in {"EvictionByEvictionAPI", "DisruptionTarget"}


@pytest.mark.parametrize(
    ("name", "pods", "reason", "says"),
    [
        ("no-image", {"image": "local/none:1"}, "ImagePullFailed", "local/none:1"),
        ("no-gpu", {"resources": {"nvidia.com/gpu": 1}}, "Unschedulable", "Insufficient nvidia.com/gpu"),
        (
            "no-volume",
            {
                "volumes": [{"name": "x", "secret": {"secretName": "none"}}],
                "volumeMounts": [{"name": "x", "mountPath": "/x"}],
            },
            "ReferenceMissing",
            '"none" not found',
        ),
        ("no-account", {"serviceAccountName": "none"}, "ReferenceMissing", "none"),
        ("bad-pod", {"labels": {"not/a/key": "x"}}, "InvalidSpec", "not/a/key"),
    ],
)
def test_pod_that_cannot_start_says_why(runs: Runs, name: str, pods: dict[str, Any], reason: str, says: str) -> None:
    common = runs.document(name, **ONE)["spec"]["pods"]
    lists = {key: [*common[key], *pods.get(key, [])] for key in ("volumes", "volumeMounts")}
    runs.apply(name, **ONE, pods={**common, **pods, **lists})

    def told() -> bool:  # a kubelet that does not know the claim of another volume yet names that one first
        found = runs.condition(name, "Progressing")
        return found.get("reason") == reason and says in found["message"]

    wait_until(told, f"{reason}: {says}", 40)
    wait_until(lambda: reason in runs.events(name), "the event", 10)
    runs.kubectl("delete", "dihtrun", name, "-n", runs.namespace)


def test_suspended_run_stops_its_pods_and_resumes_with_the_next_attempt(runs: Runs) -> None:
    runs.apply("pause", {"filter": ["hang", "ok"]}, **ONE)
    wait_until(lambda: [p for p in runs.pods("pause") if p["status"]["phase"] == "Running"], "the pod")
    wait_until(lambda: (runs.folder / "pause/runs/latest/filter/step").exists(), "its first step")
    runs.patch("pause", {"suspend": True})
    status = runs.wait_for("pause", "Progressing", "Suspended", timeout_s=60)
    assert stages(status)["filter"]["state"] == "Stopped"
    assert stages(status)["filter"].get("restarts", 0) == 0
    assert runs.pods("pause") == []
    runs.patch("pause", {"suspend": False})
    assert stages(runs.wait_for("pause", "Complete"))["filter"]["attempt"] == 2


def test_jobs_removed_by_hand_come_back(runs: Runs) -> None:
    runs.apply("removed", {"filter": ["hang", "ok"]}, **ONE)
    runs.wait_begun("removed", "filter")
    [uid] = runs.children("removed").values()
    runs.kubectl("delete", "job", "removed-filter-1", "-n", runs.namespace, "--wait=false")
    status = runs.wait_for("removed", "Complete")
    assert (stages(status)["filter"]["attempt"], stages(status)["filter"].get("restarts", 0)) == (1, 0)
    assert runs.children("removed") != {"removed-filter-1": uid}


def test_finished_run_is_deleted_after_its_time_and_its_output_stays(runs: Runs) -> None:
    runs.apply("brief", **ONE, ttlSecondsAfterFinished=1)
    wait_until(lambda: runs.gone("brief"), "the end of the run", 60)
    assert (runs.folder / "brief/runs/latest/filter/COMMITTED.json").exists()


def test_log_full_of_nonsense_is_made_plain_and_harms_nobody(runs: Runs) -> None:
    runs.apply("noisy", {"filter": ["noise"]}, **ONE, failurePolicy={"maxRestarts": 0})
    runs.apply("quiet", **ONE)
    status = runs.wait_for("noisy", "Failed")
    assert condition(status, "Failed")["message"].startswith("filter: filter was told to end with 75")
    tail = stages(status)["filter"]["cause"]["logTail"]
    assert {"red", "x" * 253 + "..."} < set(tail)
    assert all(line.isprintable() and len(line) <= 256 for line in tail)
    assert len(json.dumps(status)) < 10_000
    runs.wait_for("quiet", "Complete")


def test_operator_without_a_right_says_which(place: World) -> None:
    runs = place.runs
    role = runs.kubectl.json("get", "clusterrole", "diht-operator")
    runs.kubectl("delete", "rolebinding", "diht-operator", "-n", runs.namespace)
    rules = [rule for rule in role["rules"] if rule["resources"] != ["jobs"]]
    rules.append({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]})
    less = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "less"}, "rules": rules}
    runs.kubectl.create(less, runs.namespace)
    subject = f"--serviceaccount={runs.namespace}:diht-operator"
    runs.kubectl("create", "rolebinding", "less", "--role=less", subject, "-n", runs.namespace)
    try:
        runs.apply("denied", **ONE)
        status = runs.wait_for("denied", "Progressing", "PermissionDenied", timeout_s=40)
        assert 'cannot create resource "jobs"' in condition(status, "Progressing")["message"]
    finally:
        runs.kubectl.create(binding(runs.namespace, "RoleBinding", "diht-operator"), runs.namespace)
        runs.kubectl("delete", "rolebinding", "less", "-n", runs.namespace)
    runs.wait_for("denied", "Complete", timeout_s=120)
