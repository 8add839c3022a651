"""Observed attempts: a table from Jobs and pods to attempts, causes and reasons."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reasons import Reason
from diht_k8s.api.reports import Cause
from diht_k8s.api.run import Stage
from diht_k8s.controller.avoided_nodes import suspect_node
from diht_k8s.controller.observe import (
    LOST_AFTER_S,
    SETTLE_S,
    _pull_message,
    is_starting,
)
from diht_k8s.controller.pending_causes import event_problem
from diht_k8s.kube.job_summary import JobSummary, job_summary
from diht_k8s.kube.pod_summary import PodSummary, pod_summary
from diht_k8s.pipeline.attempts import AttemptState
from diht_k8s.pipeline.run_status import Failure
from tests.unit.controller.documents import DISRUPTED, NO_NODE, NOW, at, ended, failed_pod, job, pod
from tests.unit.controller.observed import observe

FAILED = {"Failed": "BackoffLimitExceeded"}
FAILING = {"FailureTarget": "PodFailurePolicy"}
TWO = [pod(0), pod(1)]
CAUSE = Cause(exit_code=64, reason="UserError", message="batchSize is no number").encoded()


LOST_WORKER = pod(1, "filter", ready=False, ready_since=NOW - 5, conditions=DISRUPTED, deleted=NOW)
TABLE: list[tuple[str, dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = [
    ("no pods yet", job(created=NOW - 1), [], {"state": "Pending", "active": 0}),
    ("one of two runs", job(created=NOW - 1), [pod(0)], {"state": "Pending", "active": 1}),
    ("all run", job(), TWO, {"state": "Running", "active": 2}),
    (
        "one is done, one runs",
        job(),
        [pod(0, phase="Succeeded", state=ended(0)), pod(1)],
        {"state": "Running", "active": 1},
    ),
    (
        "complete",
        job(conditions={"Complete": "CompletionsReached"}),
        [pod(0, phase="Succeeded", state=ended(0))],
        {"state": "Succeeded", "active": 0},
    ),
    (
        "rank 0 has committed, the other is on its way out",
        job(conditions={"SuccessCriteriaMet": "SuccessPolicy"}),
        [pod(0, phase="Succeeded", state=ended(0)), pod(1)],
        {"state": "Succeeded", "active": 1, "ending": True},
    ),
    (
        "complete although a pod failed late",
        job(conditions={"SuccessCriteriaMet": "x", "Complete": "x"}),
        [pod(0, phase="Succeeded", state=ended(0)), failed_pod(1, 143)],
        {"state": "Succeeded"},
    ),
    (
        "user error",
        job(conditions=FAILING),
        [failed_pod(0, 64, message=CAUSE), pod(1)],
        {
            "state": "Failed",
            "exit_code": 64,
            "reason": "UserError",
            "message": "batchSize is no number",
            "infrastructure": False,
            "ending": True,
        },
    ),
    (
        "user error wins over the peer that lost it",
        job(conditions=FAILED),
        [failed_pod(0, 75, finished=NOW - 11), failed_pod(1, 64, message=CAUSE)],
        {"exit_code": 64},
    ),
    (
        "transient error",
        job(conditions=FAILED),
        [failed_pod(0, 75, message="x\nstorage does not answer\n"), failed_pod(1, 143)],
        {"exit_code": 75, "message": "storage does not answer", "infrastructure": False},
    ),
    (
        "out of memory",
        job(conditions=FAILED),
        [failed_pod(0, 137, why="OOMKilled", message=CAUSE), failed_pod(1, 75)],
        {"reason": "OOMKilled", "exit_code": 137, "infrastructure": False},
    ),
    (
        "a program that cannot be started",
        job(conditions=FAILED),
        [failed_pod(0, 128, why="StartError", message="exec: no such file"), failed_pod(1, 143)],
        {"reason": "StartError", "infrastructure": False},
    ),
    (
        "killed by somebody",
        job(conditions=FAILED),
        [failed_pod(0, 137), failed_pod(1, 75, finished=NOW - 9)],
        {"exit_code": 137, "infrastructure": False},
    ),
    (
        "drained",
        job(conditions=FAILED),
        [failed_pod(0, 143), failed_pod(1, 143, conditions=DISRUPTED)],
        {"infrastructure": True, "reason": "EvictionByEvictionAPI", "exit_code": 143},
    ),
    (
        "drained, though another failed of it",
        job(conditions=FAILED),
        [failed_pod(0, 75), failed_pod(1, 143, conditions=DISRUPTED)],
        {"infrastructure": True},
    ),
    (
        "drained, but the user's error counts",
        job(conditions=FAILED),
        [failed_pod(0, 64), failed_pod(1, 143, conditions=DISRUPTED)],
        {"infrastructure": False, "exit_code": 64},
    ),
    (
        "deleted by somebody, and asked to stop by that",
        job(conditions=FAILED),
        [failed_pod(0, 143, deleted=NOW), failed_pod(1, 143)],
        {
            "infrastructure": True,
            "reason": "PodRemoved",
            "exit_code": 143,
            "message": "pod r-train-1-0 on node-0 was deleted: pod r-train-1-0 was killed by SIGTERM (Error)",
        },
    ),
    (
        "stopped by nobody that we know",
        job(conditions=FAILED),
        [failed_pod(0, 143), failed_pod(1, 143)],
        {"infrastructure": True},
    ),
    (
        "refused by the kubelet",
        job(conditions=FAILED),
        [pod(0, phase="Failed", state={}, reason="UnexpectedAdmissionError")],
        {"infrastructure": True, "exit_code": None},
    ),
    ("pods were removed", job(conditions=FAILED), [], {"infrastructure": True, "reason": "PodRemoved"}),
    (
        "failing, and the pod that failed is gone",
        job(conditions=FAILING),
        [pod(0)],
        {"infrastructure": True, "reason": "PodRemoved", "exit_code": None},
    ),
    (
        "node lost",
        job(),
        [pod(0), pod(1, ready=False, ready_since=NOW - LOST_AFTER_S, node="node-1")],
        {"state": "Failed", "infrastructure": True, "reason": "NodeLost", "active": 1, "ending": False},
    ),
    (
        "node lost, as the taint says",
        job(),
        [pod(0), pod(1, ready=False, ready_since=NOW - 5, conditions=DISRUPTED)],
        {"state": "Failed", "reason": "NodeLost"},
    ),
    (
        "node lost, the pod should be gone",
        job(),
        [pod(0), pod(1, deleted=NOW - 31)],
        {"state": "Failed", "reason": "NodeLost"},
    ),
    (
        "node lost, the pod should be gone by now",
        job(),
        [pod(0), pod(1, deleted=NOW - 30)],
        {"state": "Failed", "reason": "NodeLost"},
    ),
    (
        "a worker is lost, the other finishes without it",
        job("filter"),
        [pod(0, "filter"), LOST_WORKER],
        {"state": "Running", "active": 1},
    ),
    (
        "a worker is lost, the other is about to start",
        job("filter"),
        [pod(0, "filter", phase="Pending"), LOST_WORKER],
        {"state": "Pending", "active": 1},
    ),
    (
        "all workers are lost",
        job("filter"),
        [pod(0, "filter", phase="Succeeded", state=ended(0)), LOST_WORKER],
        {"state": "Failed", "infrastructure": True, "reason": "NodeLost", "active": 1, "ending": False},
    ),
    (
        "a worker is lost and another has a user error",
        job("filter", conditions=FAILING),
        [failed_pod(0, 64, stage="filter"), LOST_WORKER],
        {"state": "Failed", "infrastructure": False, "exit_code": 64},
    ),
    (
        "a worker is lost, the stage is committed",
        job("filter", conditions={"SuccessCriteriaMet": "SuccessPolicy"}),
        [pod(0, "filter", phase="Succeeded", state=ended(0)), LOST_WORKER],
        {"state": "Succeeded", "active": 0, "ending": True},
    ),
    (
        "the pod that failed first counts",
        job(conditions=FAILED),
        [failed_pod(0, 75, finished=NOW - 9), failed_pod(1, 1, finished=NOW - 11)],
        {"exit_code": 1},
    ),
    (
        "not ready for a moment",
        job(),
        [pod(0), pod(1, ready=False, ready_since=NOW - 5)],
        {"state": "Running", "active": 2},
    ),
    ("Job on its way out", job(deleted=True), [pod(0)], {"state": "Running", "ending": True, "active": 1}),
    ("Job on its way out without pods", job(deleted=True), [], {"state": "Running", "ending": True, "active": 1}),
    (
        "Job on its way out, what is left is on a lost node",
        job(deleted=True),
        [pod(1, ready=False, ready_since=NOW - 5, deleted=NOW + 60, conditions=DISRUPTED)],
        {"state": "Failed", "infrastructure": True, "reason": "NodeLost", "active": 0},
    ),
    (
        "Job on its way out, one pod lives and one is on a lost node",
        job(deleted=True),
        [pod(0), pod(1, ready=False, ready_since=NOW - 5, deleted=NOW + 60, conditions=DISRUPTED)],
        {"state": "Running", "ending": True, "active": 1},
    ),
    (
        "part of a gang",
        job(),
        [pod(0), pod(1, phase="Pending", conditions=NO_NODE, node="")],
        {"state": "Pending", "partially_started_at": NOW - 99},
    ),
    (
        "part of a gang has nodes and does not run yet",
        job(),
        [pod(0, phase="Pending"), pod(1, phase="Pending", conditions=NO_NODE, node="")],
        {"state": "Pending", "partially_started_at": None, "unplaced_since": None},
    ),
    (
        "workers need no gang",
        job("filter"),
        [pod(0, "filter"), pod(1, "filter", phase="Pending", conditions=NO_NODE)],
        {"state": "Running", "partially_started_at": None},
    ),
]


@pytest.mark.parametrize(
    ("job_document", "pods", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_attempt_as_observed(
    job_document: dict[str, Any], pods: list[dict[str, Any]], expected: dict[str, Any]
) -> None:
    [observed] = observe([job_document], pods)
    assert {name: getattr(observed.attempt, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("conditions", "pods", "started_at"),
    [
        ({}, [], None),
        ({}, [pod(0)], NOW - 99),
        ({"Complete": "x"}, [], NOW - 50),
        (FAILED, [], NOW - 50),
        (FAILED, [failed_pod(0, 75)], NOW - 15),
    ],
    ids=["waits for nodes", "has a node", "complete, pods gone", "failed, pods gone", "failed"],
)
def test_attempt_starts_with_its_first_pod_on_a_node_or_with_its_job_if_none_is_left(
    conditions: dict[str, str], pods: list[dict[str, Any]], started_at: float | None
) -> None:
    document = job(conditions=conditions)
    document["status"]["startTime"] = at(NOW - 50)
    assert observe([document], pods)[0].attempt.started_at == started_at


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (None, AttemptState.FAILED),
        ({"rules": [{"succeededCount": 1}]}, AttemptState.PENDING),
        ({"rules": [{"succeededCount": 2}]}, AttemptState.FAILED),
        ({"rules": [{"succeededIndexes": "0"}]}, AttemptState.FAILED),
        ({"rules": []}, AttemptState.FAILED),
    ],
    ids=["none", "one pod", "two pods", "a certain pod", "no rule"],
)
def test_last_worker_is_not_missed_where_one_success_ends_the_job(
    policy: dict[str, Any] | None, state: AttemptState
) -> None:
    document = job("filter")
    document["spec"] |= {"successPolicy": policy}
    [observed] = observe([document], [pod(0, "filter", phase="Succeeded", state=ended(0)), LOST_WORKER])
    assert observed.attempt.state is state
    [none_succeeded] = observe([document], [LOST_WORKER])
    assert none_succeeded.attempt.state is AttemptState.FAILED


def test_first_failure_waits_until_its_peers_are_in_unless_nothing_can_change_it() -> None:
    recent = [failed_pod(0, 75, finished=NOW - 1), pod(1)]
    [observed] = observe([job(conditions=FAILING)], recent)
    assert (observed.attempt.state, observed.settles_at) == (AttemptState.RUNNING, NOW - 1 + SETTLE_S)
    assert observe([job(conditions=FAILING)], recent, now=NOW + 2)[0].attempt.state is AttemptState.FAILED
    assert observe([job(conditions=FAILING)], recent, now=NOW - 500)[0].attempt.state is AttemptState.FAILED, (
        "clock set back"
    )
    [observed] = observe([job(conditions=FAILING)], [failed_pod(0, 64, finished=NOW - 1), pod(1)])
    assert observed.attempt.state is AttemptState.FAILED


def test_drained_pod_explains_the_end_at_once_and_after_it_is_gone() -> None:
    gone = job(conditions=FAILING)
    gone["status"]["conditions"][0]["message"] = (
        "Pod n/r-train-1-1 has condition DisruptionTarget matching FailJob rule at index 1"
    )
    pods = [failed_pod(0, 143, finished=NOW - 1), pod(1, conditions=DISRUPTED)]
    [observed] = observe([job(conditions=FAILING)], pods)
    assert (observed.attempt.reason, observed.attempt.infrastructure) == ("EvictionByEvictionAPI", True)
    [observed] = observe([gone], [failed_pod(0, 75)])
    assert (observed.attempt.reason, observed.attempt.exit_code, observed.attempt.infrastructure) == (
        "DisruptionTarget",
        75,
        True,
    )
    [observed] = observe([gone], [])
    assert (observed.attempt.reason, observed.attempt.infrastructure) == ("DisruptionTarget", True)
    [observed] = observe([gone], [failed_pod(0, 64)])
    assert (observed.attempt.exit_code, observed.attempt.infrastructure) == (64, False)


@pytest.mark.parametrize(
    ("code", "why", "says"),
    [(137, "Error", "SIGKILL (Error)"), (139, "Error", "SIGSEGV (Error)"), (137, "OOMKilled", "SIGKILL (OOMKilled)")],
)
def test_program_that_was_killed_could_not_say_why(code: int, why: str, says: str) -> None:
    log = "[WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator to CPU"
    [observed] = observe([job(conditions=FAILED)], [failed_pod(0, code, why=why, message=log)])
    assert observed.attempt.message == "pod r-train-1-0 was killed by " + says
    [observed] = observe([job(conditions=FAILED)], [failed_pod(0, 255, message="its last words")])
    assert observed.attempt.message == "its last words", "no signal"


OWN_LIMIT = "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi. "


@pytest.mark.parametrize(
    ("began", "conditions", "told"),
    [
        (True, [], ("Evicted", False, f"pod r-train-1-0: {OWN_LIMIT.strip(' .')}: raise it in pods.resources", "")),
        (False, [], ("Evicted", True, OWN_LIMIT.strip(), "node-0")),
        (True, DISRUPTED, ("EvictionByEvictionAPI", True, None, "")),
    ],
    ids=["limit of its own", "not admitted", "drained"],
)
def test_eviction_for_a_limit_of_its_own_is_the_programs_fault(
    began: bool, conditions: list[dict[str, Any]], told: tuple[str, bool, str | None, str]
) -> None:
    evicted = failed_pod(0, 143, message=CAUSE, reason="Evicted", conditions=conditions)
    evicted["status"]["message"] = OWN_LIMIT
    if not began:
        evicted["status"]["containerStatuses"] = []
    others = [failed_pod(1, 1, finished=NOW - 5)] if began else []
    [observed] = observe([job(conditions=FAILED)], [evicted, *others])
    attempt, (reason, infrastructure, message, suspect) = observed.attempt, told
    assert (attempt.reason, attempt.infrastructure, attempt.exit_code) == (reason, infrastructure, None)
    assert message in (None, attempt.message)
    failure = Failure(attempt.exit_code, attempt.reason, infrastructure=attempt.infrastructure)
    assert suspect_node(failure, observed) == suspect


def test_stop_that_we_asked_for_is_no_disruption() -> None:
    [observed] = observe([job(conditions=FAILED)], [failed_pod(0, 143), failed_pod(1, 143)], pausing=True)
    assert (observed.attempt.exit_code, observed.attempt.infrastructure) == (143, False)


def test_pods_whose_job_was_removed_still_count_up_to_the_known_attempt() -> None:
    assert observe([], TWO) == []
    [observed] = observe([], TWO, newest={"train": 1})
    assert (observed.attempt.state, observed.attempt.active, observed.attempt.ending) == (AttemptState.RUNNING, 2, True)
    assert observe([], [pod(0, deleted=NOW - 60)], newest={"train": 1}) == [], "a pod on a lost node is not waited for"


@pytest.mark.parametrize(
    ("jobs", "pods", "expected"),
    [
        ([job()], [], True),
        ([job()], [pod(0), pod(1, phase="Pending")], True),
        ([job()], [pod(0), pod(1, phase="Pending", conditions=NO_NODE)], True),
        ([job()], TWO, False),
        ([job()], [failed_pod(0, 75), pod(1, phase="Pending")], False),
        ([job()], [pod(0, deleted=NOW), pod(1, phase="Pending")], False),
        ([job()], [pod(0, conditions=DISRUPTED), pod(1, phase="Pending")], False),
        ([job("filter")], [pod(0, "filter", phase="Succeeded", state=ended(0))], False),
        ([job(conditions=FAILING)], [pod(0)], False),
        (
            [job(conditions=FAILED), job(attempt=2, uid="two")],
            [failed_pod(0, 75), pod(0, attempt=2, job_uid="two")],
            True,
        ),
        ([job(deleted=True)], [pod(0)], False),
        ([], [pod(0)], False),
    ],
    ids=[
        "no pods yet",
        "one runs",
        "one finds no node",
        "all run",
        "one failed",
        "one is deleted",
        "one is evicted",
        "one is done",
        "Job fails",
        "the attempt before failed",
        "Job is deleted",
        "no Job",
    ],
)
def test_news_of_a_start_can_wait_until_all_pods_run_or_something_goes_wrong(
    jobs: list[dict[str, Any]], pods: list[dict[str, Any]], expected: bool
) -> None:
    found = [each for document in jobs if isinstance(each := job_summary(document), JobSummary)]
    seen = [each for document in pods if isinstance(each := pod_summary(document), PodSummary)]
    assert is_starting(found, seen) == expected


def owned_by(document: dict[str, Any], *owners: dict[str, Any], **labels: str) -> dict[str, Any]:
    document["metadata"]["ownerReferences"] = list(owners)
    document["metadata"]["labels"] |= {f"batch.kubernetes.io/{key}": value for key, value in labels.items()}
    return document


OWNER = {"kind": "Job", "name": "r-train-1", "uid": "old", "controller": True}


@pytest.mark.parametrize(
    ("document", "active"),
    [
        (owned_by(pod(0)), 0),
        (owned_by(pod(0), {"kind": "ReplicaSet", "name": "r-train-1", "uid": "rs", "controller": True}), 0),
        (owned_by(pod(0), {**OWNER, "name": "another"}), 0),
        (owned_by(pod(0), {**OWNER, "controller": False}), 0),
        (owned_by(pod(0), **{"controller-uid": "theirs"}), 0),
        (owned_by(pod(0), OWNER), 1),
        (owned_by(pod(0), {**OWNER, "uid": "former", "name": "another"}), 1),
        (owned_by(pod(0), **{"controller-uid": "former"}), 1),
    ],
    ids=[
        "labels alone",
        "another kind",
        "another Job",
        "no controller",
        "label of another Job",
        "Job was deleted",
        "Job that was ours",
        "orphan of a Job that was ours",
    ],
)
def test_pod_counts_only_with_an_owner_that_can_be_a_job_of_the_run(document: dict[str, Any], active: int) -> None:
    assert (
        sum(each.attempt.active for each in observe([], [document], newest={"train": 1}, former=["former"])) == active
    )


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("EvictionByEvictionAPI", "node-1 was drained (pod r-train-1-1 was evicted)"),
        ("PreemptionByScheduler", "pod r-train-1-1 on node-1 was preempted by a pod of higher priority"),
        ("Novel", "pod r-train-1-1 on node-1 was disrupted (Novel)"),
    ],
)
def test_disruption_names_node_and_cause_also_when_the_pod_is_gone(reason: str, says: str) -> None:
    disrupted = pod(1, node="node-1", conditions=[{**DISRUPTED[0], "reason": reason}])
    [there] = observe([job(conditions=FAILING)], [failed_pod(0, 75), disrupted])
    gone = job(conditions=FAILING)
    gone["status"]["conditions"][0]["message"] = (
        "Pod n/r-train-1-1 has condition DisruptionTarget matching FailJob rule at index 1"
    )
    last = pod_summary(disrupted)
    assert isinstance(last, PodSummary)
    [after] = observe([gone], [], disrupted={last.name: last})
    [after_too] = observe([gone], [failed_pod(0, 75)], disrupted={last.name: last})
    for each in (there, after, after_too):
        assert (each.attempt.reason, each.attempt.message, each.attempt.exit_code) == (reason, says, None)
        assert each.attempt.infrastructure
    [unknown] = observe([gone], [])
    assert (unknown.attempt.message, unknown.attempt.exit_code) == (
        "pod r-train-1-1 was drained, evicted or preempted",
        None,
    )


def test_steps_of_a_stage_are_separate_attempts() -> None:
    first, second = observe([job("label-heads"), job("label-vocabulary", conditions={"Complete": ""})], [])
    assert (first.attempt.stage, first.attempt.step, second.attempt.step) == (Stage.LABEL, "heads", "vocabulary")
    assert (first.entry, second.entry) == ("label-heads", "label-vocabulary")


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


PROBLEMS = [
    (
        pod(0, phase="Pending", state=waiting("ErrImagePull", 'failed to pull image "x/y:1": not found')),
        Reason.IMAGE_PULL_FAILED,
        "x/y:1",
    ),
    (
        pod(
            0,
            phase="Pending",
            state=waiting(
                "ImagePullBackOff",
                'Back-off pulling image "x/y:1": ErrImagePull: failed to pull image "x/y:1": not found',
            ),
        ),
        Reason.IMAGE_PULL_FAILED,
        "x/y:1",
    ),
    (
        pod(0, phase="Pending", state=waiting("CreateContainerConfigError", 'secret "s" not found')),
        Reason.REFERENCE_MISSING,
        'secret "s" not found',
    ),
    (pod(0, phase="Pending", conditions=NO_NODE, node=""), Reason.UNSCHEDULABLE, "0/2 nodes are available"),
]


@pytest.mark.parametrize(
    ("document", "reason", "says"), PROBLEMS, ids=[str(p[1]) + str(i) for i, p in enumerate(PROBLEMS)]
)
def test_pod_that_waits_says_why(document: dict[str, Any], reason: Reason, says: str) -> None:
    [observed] = observe([job(size=1)], [document])
    assert observed.problem is not None
    assert observed.problem.reason is reason
    assert says in observed.problem.message


def test_image_that_is_tried_again_and_again_keeps_its_words() -> None:
    messages = {observe([job(size=1)], [document])[0].problem for document, *_ in PROBLEMS[:2]}
    assert len(messages) == 1


def test_queue_holds_a_job_and_events_are_asked_only_where_nothing_else_tells() -> None:
    [queued] = observe([job(suspended=True, labels={"kueue.x-k8s.io/queue-name": "q"})], [])
    assert queued.problem is not None
    assert (queued.problem.reason, queued.event_subject) == (Reason.QUEUED, "")
    assert observe([job(created=NOW - 1)], [])[0].event_subject == ""
    assert observe([job()], [])[0].event_subject == "uid-r-train-1"
    creating = pod(1, phase="Pending", state=waiting("ContainerCreating"))
    assert observe([job()], [pod(0), creating])[0].event_subject == "uid-r-train-1-1"
    just_made = pod(1, phase="Pending", state=waiting("ContainerCreating"), created=NOW - 1)
    assert observe([job()], [pod(0), just_made])[0].event_subject == ""


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("FailedCreate", 'pods "x" is forbidden: exceeded quota: q, requested: pods=1', Reason.QUOTA_EXCEEDED),
        ("FailedCreate", 'pods "x" is forbidden: violates PodSecurity "restricted:latest": ...', Reason.POD_REFUSED),
        ("FailedCreate", 'admission webhook "w" denied the request: no', Reason.POD_REFUSED),
        (
            "FailedCreate",
            'error looking up service account n/a: serviceaccount "a" not found',
            Reason.REFERENCE_MISSING,
        ),
        ("FailedMount", 'MountVolume.SetUp failed: secret "s" not found', Reason.REFERENCE_MISSING),
        ("Other", 'violates PodSecurity "restricted:latest"', Reason.POD_REFUSED),
        ("Other", 'admission webhook "w" denied the request: no', Reason.POD_REFUSED),
        ("BackOff", "Back-off restarting", None),
    ],
)
def test_events_that_explain_a_wait(reason: str, message: str, expected: Reason | None) -> None:
    found = event_problem(reason, message)
    assert (found.reason if found is not None else None) is expected


def test_pods_that_pod_security_refuses_say_what_to_do_however_long_its_words_are() -> None:
    found = event_problem(
        "FailedCreate", f'pods "x" is forbidden: violates PodSecurity "restricted:latest": {"y" * 5000}'
    )
    assert found is not None
    assert 'violates PodSecurity "restricted:latest"' in found.message
    assert found.message.endswith("or the namespace's label pod-security.kubernetes.io/enforce")
    assert len(found.message) <= 1024


def test_words_of_programs_are_made_plain() -> None:
    nasty = "ok\n\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b]8;;x\x1b\\ \x00 \u2028line" + "x" * 5000
    [observed] = observe([job(conditions=FAILED, size=1)], [failed_pod(0, 1, message=nasty)])
    assert observed.attempt.message.startswith("red line")
    assert len(observed.attempt.message) <= 1024
    assert at(0) == "1970-01-01T00:00:00Z"


def test_image_that_cannot_be_pulled_has_the_kubelets_words_in_both_of_its_states() -> None:
    words = "failed to pull and unpack image: 401 Unauthorized"
    messages = []
    for reason, said in (
        ("ErrImagePull", words),
        ("ImagePullBackOff", f'Back-off pulling image "a:1": ErrImagePull: {words}'),
    ):
        summary = pod_summary(pod(phase="Pending", state={"waiting": {"reason": reason, "message": said}}))
        assert isinstance(summary, PodSummary)
        messages.append(_pull_message(summary).rpartition("the kubelet says: ")[2])
    assert messages == [words, words]
