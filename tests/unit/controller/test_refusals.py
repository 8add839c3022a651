"""Refused objects: what a person is told at once, what is tried again, and what waits for another document."""

from __future__ import annotations

from typing import Any

import pytest

from diht_k8s.api.reasons import Reason
from diht_k8s.cli.status_sentences import sentence
from diht_k8s.controller.actions import name_of, refusal
from diht_k8s.controller.observe import MISSING_AFTER_S
from diht_k8s.kube.errors import ClusterError, UnavailableError
from tests.unit.controller.documents import at
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import ONE, ORDER, SPEC, Clock, make, reason, settle, status

UNKNOWN = 'Job in version "v1" cannot be handled as a Job: strict decoding error: unknown field "spec.template.spec.x"'
QUOTA = 'jobs.batch "r-filter-1" is forbidden: exceeded quota: q, requested: count/jobs.batch=1'


class Counting(FakeCluster):
    """Counts the Jobs that it was asked to create."""

    tried = 0

    def create(self, document: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        self.tried += document["kind"] == "Job" and not dry_run
        return super().create(document, dry_run=dry_run)


def refusing(code: int, message: str) -> tuple[Counting, Process, Clock]:
    """A new run, and an API server that refuses its Job."""
    cluster, clock = Counting(), Clock()
    spec = {key: value for key, value in {**SPEC, **ONE}.items() if value is not None}
    cluster.add_run({"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "r"}, "spec": spec})
    cluster.refuse["create Job"] = ClusterError(code, "Reason", message)
    return cluster, Process(cluster, clock), clock


def recorded(cluster: FakeCluster) -> list[tuple[str, str, str]]:
    return [(each["type"], each["reason"], each["message"]) for each in cluster.recorded]


@pytest.mark.parametrize(
    ("code", "words", "expected", "says", "waits"),
    [
        (400, UNKNOWN, Reason.INVALID_SPEC, f"the API server refuses Job j: {UNKNOWN}: change the run document", True),
        (422, "w", Reason.INVALID_SPEC, "the API server refuses Job j: w: change the run document", True),
        (413, "w", Reason.INVALID_SPEC, "the API server refuses Job j: w: change the run document", True),
        (403, QUOTA, Reason.QUOTA_EXCEEDED, f"the API server refuses Job j: {QUOTA}", False),
        (403, "LimitRange", Reason.POD_REFUSED, "the API server refuses Job j: LimitRange", False),
        (
            403,
            "u cannot create x",
            Reason.PERMISSION_DENIED,
            "the operator may not do that: u cannot create x: check its Role",
            False,
        ),
        (
            400,
            "w denied the request: no",
            Reason.POD_REFUSED,
            "the API server refuses Job j: w denied the request: no",
            False,
        ),
        (422, "p denied request: no", Reason.POD_REFUSED, "the API server refuses Job j: p denied request: no", False),
        (
            500,
            "failed calling webhook w",
            Reason.POD_REFUSED,
            "the API server refuses Job j: failed calling webhook w",
            False,
        ),
        (404, "no such kind", Reason.REFERENCE_MISSING, "the API server refuses Job j: no such kind", False),
    ],
)
def test_refusal_names_the_object_and_has_the_servers_words(
    code: int, words: str, expected: Reason, says: str, waits: bool
) -> None:
    subject = name_of({"kind": "Job", "metadata": {"name": "j"}})
    found = refusal(ClusterError(code, "R", words), subject)
    assert found is not None
    assert (found.reason, found.message, found.until_changed) == (expected, says, waits)


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError(503, "ServiceUnavailable", "busy"),
        UnavailableError(500, "InternalError", "etcdserver: leader changed"),
        ClusterError(401, "Unauthorized", "who are you"),
        ClusterError(409, "Conflict", "Operation cannot be fulfilled on resourcequotas: try again"),
    ],
)
def test_refusal_that_nobody_can_act_on_is_raised(error: ClusterError) -> None:
    with pytest.raises(ClusterError) as raised:
        refusal(error, "Job j")
    assert raised.value is error


def test_namespace_on_its_way_out_is_no_refusal() -> None:
    assert refusal(ClusterError(403, "Forbidden", "namespace n is being terminated"), "Job j") is None


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (
            400,
            UNKNOWN,
            f"r is not taken on (InvalidSpec): the API server refuses Job r-filter-1: {UNKNOWN}: change the run "
            f"document",
        ),
        (403, QUOTA, f"r does not run (QuotaExceeded): filter: the API server refuses Job r-filter-1: {QUOTA}"),
    ],
    ids=["document", "quota"],
)
def test_refused_job_is_told_in_the_pass_that_tried_it(code: int, words: str, said: str) -> None:
    cluster, process, _ = refusing(code, words)
    process.reconcile()
    assert cluster.tried == 1
    assert cluster.writes == ["status r", "status r", "event"]
    assert sentence("r", status(cluster)) == said
    problem = said.partition("): ")[2]
    assert recorded(cluster) == [("Warning", reason(cluster), problem)], "and no word of a start"
    assert [stage.workload for stage in status(cluster).stages] == [None], "no Job is named that is not there"


def test_document_that_is_refused_is_sent_again_only_when_it_changes() -> None:
    cluster, process, _ = refusing(400, UNKNOWN)
    waits = [process.reconcile() for _ in range(4)]
    assert (cluster.tried, waits) == (1, [None] * 4)
    said = status(cluster)
    cluster.refuse["create Job"] = ClusterError(422, "Invalid", "spec.template.spec.y: Required value")
    cluster.edit("r", filter={"workers": 3})
    settle(process)
    assert (cluster.tried, said != status(cluster)) == (2, True)
    assert [kind for kind, _, _ in recorded(cluster)] == ["Warning", "Warning"], "another refusal, another event"
    cluster.refuse.clear()
    cluster.edit("r", filter={"workers": 2})
    settle(process)
    assert (reason(cluster), reason(cluster, "Accepted"), list(cluster.jobs)) == ("Pending", "Valid", ["r-filter-1"])
    assert recorded(cluster)[2:] == [("Normal", "Started", "filter: attempt 1 started")]


TYPO = ClusterError(422, "Invalid", "spec.template.spec.volumes[0].csi.driver: Invalid value")


def whole(job: str, error: ClusterError) -> tuple[FakeCluster, Process, Clock]:
    """A new run of all stages, and an API server that refuses one of its Jobs."""
    cluster, clock = make(), Clock()
    cluster.refuse[f"check Job {job}"] = error
    return cluster, Process(cluster, clock), clock


def test_objects_of_all_stages_are_checked_once_a_document() -> None:
    cluster, process, clock = whole("none", TYPO)
    settle(process)
    jobs = [name for name in cluster.checked if name.startswith("Job ")]
    assert jobs == [f"Job {name}" for name in ORDER]
    asked = len(cluster.checked)
    settle(Process(cluster, clock))
    assert len(cluster.checked) == asked, "nor by a new operator"
    cluster.edit("r", suspend=True)
    settle(Process(cluster, clock))
    assert len(cluster.checked) == 2 * asked


@pytest.mark.parametrize("job", ["r-filter-1", "r-evaluate-1"])
def test_typo_in_any_stage_is_told_before_the_first_one_starts(job: str) -> None:
    cluster, process, clock = whole(job, TYPO)
    assert process.reconcile() is None
    words = f"the API server refuses Job {job}: {TYPO.message}: change the run document"
    assert sentence("r", status(cluster)) == f"r is not taken on (InvalidSpec): {words}"
    settle(process)
    asked, process = len(cluster.checked), Process(cluster, clock)
    settle(process)
    assert (cluster.jobs, len(cluster.checked)) == ({}, 2 * asked), "a new operator asks once more"
    cluster.refuse.clear()
    cluster.edit("r", evaluate={**SPEC["evaluate"], "pods": {}})
    settle(process)
    assert (reason(cluster, "Accepted"), list(cluster.jobs)) == ("Valid", ["r-filter-1"])


def test_typo_of_an_edit_lets_the_running_stage_go_on() -> None:
    cluster, process, _ = whole("none", TYPO)
    settle(process)
    cluster.run_pods("r-filter-1")
    cluster.refuse["check Job r-train-1"] = TYPO
    cluster.edit("r", pods={**SPEC["pods"], "labels": {"a": "b"}})
    settle(process)
    assert (reason(cluster, "Accepted"), list(cluster.jobs)) == ("InvalidSpec", ["r-filter-1"])
    cluster.end("r-filter-1", 0)
    settle(process)
    assert list(cluster.jobs) == ["r-filter-1"], "nothing more starts"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (403, QUOTA),
        (403, "u cannot create x"),
        (400, 'admission webhook "w" does not support dry run'),
        (500, "failed calling webhook w"),
        (404, "no such kind"),
        (409, "r-evaluate-1 already exists"),
    ],
)
def test_what_another_moment_may_allow_does_not_hold_a_run_up(code: int, words: str) -> None:
    cluster, process, _ = whole("r-evaluate-1", ClusterError(code, "Reason", words))
    settle(process)
    assert (reason(cluster, "Accepted"), list(cluster.jobs)) == ("Valid", ["r-filter-1"])


def test_check_without_an_answer_is_made_again() -> None:
    cluster, process, _ = whole("r-evaluate-1", UnavailableError(503, "ServiceUnavailable", "busy"))
    with pytest.raises(UnavailableError):
        process.reconcile()
    cluster.refuse.clear()
    settle(process)
    assert list(cluster.jobs) == ["r-filter-1"]


def test_refusal_says_nothing_about_a_new_run_of_the_same_name() -> None:
    """`kubectl replace --force`: both are at generation 1, and the operator may never have seen that there was none."""
    cluster, process, _ = refusing(400, UNKNOWN)
    settle(process)
    document = cluster.runs.pop("r")
    cluster.refuse.clear()
    cluster.add_run({key: document[key] for key in ("apiVersion", "kind", "metadata", "spec")}, uid="another")
    settle(process)
    assert (reason(cluster, "Accepted"), list(cluster.jobs)) == ("Valid", ["r-filter-1"])


def test_new_operator_tries_a_refused_document_once_and_writes_nothing_about_it() -> None:
    cluster, process, clock = refusing(400, UNKNOWN)
    settle(process)
    cluster.writes.clear()
    settle(Process(cluster, clock))
    assert (cluster.tried, cluster.writes) == (2, [])


def test_refusal_by_the_cluster_is_tried_again_and_clears_itself() -> None:
    cluster, process, _ = refusing(403, QUOTA)
    waits = [process.reconcile() for _ in range(4)]
    assert (cluster.tried, waits) == (4, [1.0, 2.0, 4.0, 8.0])
    cluster.refuse.clear()
    process.reconcile()
    assert (reason(cluster), list(cluster.jobs)) == ("Pending", ["r-filter-1"]), "told in the pass that made it"
    assert [kind for _, kind, _ in recorded(cluster)] == ["QuotaExceeded", "Started"]
    process.reconcile()
    assert [stage.workload and stage.workload.name for stage in status(cluster).stages] == ["r-filter-1"]


def test_lost_answer_is_no_start() -> None:
    cluster, process, _ = refusing(0, "no answer")
    cluster.refuse["create Job"] = UnavailableError(0, "Unreachable", "no answer")
    with pytest.raises(UnavailableError):
        process.reconcile()
    assert (recorded(cluster), status(cluster).stages[0].workload) == ([], None)


@pytest.mark.parametrize("after_s", [0.1, 1.9, 3.0, 7.3, 20.0])
def test_refused_pods_are_told_within_five_seconds_of_their_jobs_event(after_s: float) -> None:
    cluster, process, clock = refusing(0, "")
    cluster.refuse.clear()
    process.reconcile()  # makes the Job, of which the watch tells
    began, passes, wait_s = clock.now, 0, process.reconcile()
    words = 'Error creating: pods "r-filter-1-0" is forbidden: maximum cpu usage per Container is 1, but limit is 2'
    process.reconciler._observer._warning_events._clock = lambda: clock.now
    while reason(cluster) == "Pending" and clock.now < began + 60:
        assert wait_s is not None
        clock.now, passes = clock.now + wait_s, passes + 1
        if clock.now >= began + after_s:
            uid = cluster.jobs["r-filter-1"]["metadata"]["uid"]
            cluster.warning_events = [
                {
                    "involvedObject": {"uid": uid},
                    "reason": "FailedCreate",
                    "message": words,
                    "metadata": {},
                    "lastTimestamp": at(began + after_s),
                }
            ]
        wait_s = process.reconcile()
    assert sentence("r", status(cluster)) == f"r does not run (PodRefused): filter: {words}"
    assert clock.now - (began + after_s) < (2.5 if after_s < MISSING_AFTER_S else 5.0)
    assert passes <= 2 + (clock.now - began) / MISSING_AFTER_S, "and not in a storm"
    assert recorded(cluster)[-1] == ("Warning", "PodRefused", f"filter: {words}")
