"""What TorchX reports of Jobs and pods in every state that they can be in."""

from __future__ import annotations

from typing import Any

import pytest
from torchx.specs import NONE, AppDef, AppState, ReplicaState, Resource, Role

from diht_k8s.api.reports import Cause
from diht_k8s.launch.app_description import CANCELLED_ANNOTATION, app_state, description, job_state
from diht_k8s.launch.render import JobConfig, render

ROLE = Role(
    name="main",
    image="app:1",
    entrypoint="run",
    args=["-x"],
    env={"A": "1"},
    num_replicas=2,
    max_retries=1,
    resource=Resource(cpu=2, gpu=1, memMB=64),
    port_map={"c10d": 1},
)


def job(*conditions: str, cancelled: bool = False, **status: Any) -> dict[str, Any]:
    item = render(AppDef("app", roles=[ROLE]), JobConfig(), "app-x")[0]
    found = [{"type": kind, "status": "True", "reason": "Why", "message": f"{kind} it is"} for kind in conditions]
    item["status"] = {"conditions": [{"type": "Failed", "status": "False"}, *found], **status}
    item["metadata"]["uid"] = "job-uid"
    item["metadata"]["annotations"] = {CANCELLED_ANNOTATION: "true"} if cancelled else {}
    return item


def pod(index: int, phase: str, *, number: int = 0, **status: Any) -> dict[str, Any]:
    labels = {"batch.kubernetes.io/job-completion-index": str(index)}
    name = f"app-x-{index}-{number}"
    owners = [{"kind": "Job", "name": "app-x", "uid": "job-uid", "controller": True}]
    return {
        "metadata": {"name": name, "namespace": "ns", "labels": labels, "uid": name, "ownerReferences": owners},
        "spec": {"hostname": f"app-x-{index}", "subdomain": "app-x"},
        "status": {"phase": phase, **status},
    }


def terminated(code: int, message: str = "", at: str = "2026-01-01T00:00:00Z") -> list[dict[str, Any]]:
    ended = {"exitCode": code, "reason": "Error", "message": message, "finishedAt": at}
    return [{"name": "main", "state": {"terminated": ended}}]


@pytest.mark.parametrize(
    ("item", "state"),
    [
        (job(), AppState.PENDING),
        (job(active=2, ready=0), AppState.PENDING),
        (job(active=2, ready=1), AppState.RUNNING),
        (job(active=1, succeeded=1), AppState.RUNNING),
        (job("Suspended"), AppState.PENDING),
        (job("SuccessCriteriaMet", ready=1), AppState.RUNNING),
        (job("Complete", succeeded=2), AppState.SUCCEEDED),
        (job("FailureTarget", ready=1), AppState.RUNNING),
        (job("Failed"), AppState.FAILED),
        (job("Failed", cancelled=True), AppState.CANCELLED),
        (job(cancelled=True, ready=2), AppState.RUNNING),
        (job("Complete", cancelled=True), AppState.SUCCEEDED),
    ],
)
def test_job_is_where_its_conditions_say(item: dict[str, Any], state: AppState) -> None:
    assert job_state(item) is state


DONE, BAD, BUSY, NEW = job("Complete"), job("Failed"), job(ready=1), job()


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        ([DONE, DONE], AppState.SUCCEEDED),
        ([DONE, BUSY], AppState.RUNNING),
        ([DONE, NEW], AppState.PENDING),
        ([BUSY, BAD], AppState.FAILED),
        ([NEW, BUSY], AppState.RUNNING),
    ],
)
def test_application_ends_with_its_first_failed_and_its_last_good_job(jobs: list[Any], state: AppState) -> None:
    assert app_state(jobs) is state


def test_state_of_a_replica_is_that_of_its_newest_pod() -> None:
    pods = [pod(0, "Failed"), pod(0, "Running", number=1), {**pod(1, "Running"), "metadata": {"labels": {}}}]
    (role,) = description("ns:app-x", [job(ready=1, failed=1)], pods).roles_statuses
    assert [(one.id, one.state, one.hostname) for one in role.replicas] == [
        (0, ReplicaState.RUNNING, "app-x-0.app-x.ns"),
        (1, ReplicaState.PENDING, ""),
    ]


@pytest.mark.parametrize(
    ("item", "states"),
    [
        (job("Complete", completedIndexes="0-1"), [ReplicaState.SUCCEEDED] * 2),
        (job(completedIndexes="1"), [ReplicaState.PENDING, ReplicaState.SUCCEEDED]),
        (job("Failed", cancelled=True), [ReplicaState.CANCELLED] * 2),
    ],
)
def test_state_of_a_replica_without_pods_comes_from_the_job(item: dict[str, Any], states: list[ReplicaState]) -> None:
    (role,) = description("ns:app-x", [item], []).roles_statuses
    assert [one.state for one in role.replicas] == states


def test_role_is_read_back_from_its_job() -> None:
    (role,) = description("ns:app-x", [job()], []).roles
    assert (role.name, role.image, role.entrypoint, role.args) == ("main", "app:1", "run", ["-x"])
    assert (role.num_replicas, role.max_retries, role.port_map, role.env["A"]) == (2, 1, {"c10d": 1}, "1")
    assert (role.resource.cpu, role.resource.gpu, role.resource.memMB) == (2, 1, 64)


CAUSE = Cause(exit_code=64, reason="UserError", message="lr is negative").encoded()


@pytest.mark.parametrize(
    ("item", "pods", "message"),
    [
        (
            job("Failed"),
            [
                pod(0, "Failed", containerStatuses=terminated(1, "late", "2026-01-01T00:00:09Z")),
                pod(1, "Failed", containerStatuses=terminated(64, CAUSE)),
            ],
            "pod app-x-1-0 ended with exit code 64 (Error): lr is negative",
        ),
        (
            job("Failed"),
            [pod(0, "Failed", containerStatuses=terminated(1, "Traceback\n  more\nKeyError: 'a'\n"))],
            "pod app-x-0-0 ended with exit code 1 (Error): KeyError: 'a'",
        ),
        (
            job("Failed"),
            [pod(0, "Failed", containerStatuses=terminated(137))],
            "pod app-x-0-0 ended with exit code 137 (Error)",
        ),
        (job("Failed"), [pod(0, "Failed", reason="Evicted", message="disk is full")], "pod app-x-0-0: disk is full"),
        (job("Failed"), [], "Failed it is"),
        (job("Suspended"), [], "Job app-x is held back (Why): its queue has not admitted it"),
        (
            job(),
            [
                pod(
                    0,
                    "Pending",
                    containerStatuses=[
                        {
                            "name": "main",
                            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
                        }
                    ],
                )
            ],
            "pod app-x-0-0 waits: ImagePullBackOff: no such image",
        ),
        (
            job(),
            [
                pod(
                    0,
                    "Pending",
                    conditions=[
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no gpu"}
                    ],
                )
            ],
            "pod app-x-0-0 waits: Unschedulable: no gpu",
        ),
        (
            job(),
            [
                pod(
                    0,
                    "Pending",
                    containerStatuses=[{"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}],
                )
            ],
            NONE,
        ),
        (job(ready=2), [], NONE),
    ],
    ids=[
        "first cause",
        "last line",
        "killed",
        "evicted",
        "deadline",
        "queued",
        "image",
        "unschedulable",
        "usual",
        "fine",
    ],
)
def test_message_says_why(item: dict[str, Any], pods: list[dict[str, Any]], message: str) -> None:
    assert description("ns:app-x", [item], pods).msg == message


@pytest.mark.parametrize(
    ("item", "restarts"),
    [
        (job(), 0),
        (job(failed=3, active=2), 3),
        (job(failed=1, active=1), 0),
        (job("Failed", failed=2), 0),
        (job("Failed", failed=3), 1),
        (job("Failed", failed=2, succeeded=1), 1),
        (job("Failed", cancelled=True, failed=2), 0),
        (job("Failed", cancelled=True, failed=3), 1),
        (job(cancelled=True, failed=1, terminating=2), 1),
        (job("Complete", failed=1, succeeded=2), 1),
    ],
)
def test_restarts_are_pods_that_another_one_replaced(item: dict[str, Any], restarts: int) -> None:
    assert description("ns:app-x", [item], []).num_restarts == restarts
