"""Summaries of Jobs and pods: whatever an object holds, reading it raises nothing, so that no object can stop a
watch.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diht_k8s.controller.known_objects import FirstSeen
from diht_k8s.controller.observe import observe_attempts
from diht_k8s.kube.job_summary import JobSummary, job_summary
from diht_k8s.kube.object_fields import INDEX_LABEL, Unreadable
from diht_k8s.kube.pod_summary import CONTAINER_ANNOTATION, PodSummary, pod_summary
from tests.unit.controller.documents import DISRUPTED, NOW, at, ended, failed_pod, job, pod

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1", "²", "0x1", "-1", "2026-13-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = [
    job(conditions={"Failed": "BackoffLimitExceeded"}, deleted=True, labels={"kueue.x-k8s.io/queue-name": "q"}),
    pod(0),
    pod(1, phase="Pending", state={"waiting": {"reason": "ErrImagePull", "message": "m"}}),
    failed_pod(1, 143, conditions=DISRUPTED),
    pod(0, deleted=NOW, ready=False, state=ended(0)),
]


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each node of a document."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [prefix, *(path for key in keys for path in paths(value[key], (*prefix, key)))]


def changed(document: dict[str, Any], path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    found = copy.deepcopy(document)
    inner: Any = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool}


def check(summary: Any) -> None:
    """Each field has the type that it says."""
    if not isinstance(summary, JobSummary | PodSummary):
        assert summary is None or isinstance(summary, Unreadable)
        return
    for field in fields(summary):
        value, kind = getattr(summary, field.name), str(field.type)
        if not (value is None and kind.endswith("| None")):
            assert isinstance(value, TYPES[kind.removesuffix(" | None")]), field.name


@settings(max_examples=400)
@given(data=st.data())
def test_object_with_any_json_in_any_place_is_read_or_skipped(data: st.DataObject) -> None:
    document = data.draw(st.sampled_from(DOCUMENTS))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(document)))
        document = changed(document, path, data.draw(JSON))
        if not isinstance(document, dict):
            break
    for reduce in (job_summary, pod_summary):
        check(reduce(document))
    jobs = [each for each in [job_summary(document)] if isinstance(each, JobSummary)]
    pods = [each for each in [pod_summary(document)] if isinstance(each, PodSummary)]
    times = FirstSeen()
    observe_attempts(times.jobs(jobs, NOW), times.pods(pods, NOW), NOW, newest={"train": 9})


LABELS = ("metadata", "labels")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ((*LABELS, INDEX_LABEL), "abc", "InvalidIndex"),
        ((*LABELS, INDEX_LABEL), "²", "InvalidIndex"),
        ((*LABELS, "diht.dev/attempt"), "²", "InvalidAttempt"),
        ((*LABELS, "diht.dev/attempt"), "9" * 63, "InvalidAttempt"),
        ((*LABELS, "diht.dev/attempt"), str(2**31), "InvalidAttempt"),
        ((*LABELS, INDEX_LABEL), str(2**31), "InvalidIndex"),
        ((*LABELS, "diht.dev/stage"), "mining", "InvalidStage"),
        ((*LABELS, "diht.dev/stage"), "train-heads", "InvalidStage"),
        (("metadata", "resourceVersion"), "v1", "Malformed"),
        (("metadata", "uid"), None, "Malformed"),
        (("metadata", "creationTimestamp"), "yesterday", "Malformed"),
        (("status",), [], "Malformed"),
    ],
)
def test_pod_that_cannot_be_read_is_skipped_with_the_reason(path: tuple[str, ...], value: Any, reason: str) -> None:
    found = pod_summary(changed(pod(0), path, value))
    assert isinstance(found, Unreadable)
    assert (found.reason, found.identity[:2]) == (reason, ("n", "r-train-1-0"))


WAITS = {"waiting": {"reason": "PodInitializing"}}
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "m"}}
RUNS = {"running": {"startedAt": at(NOW - 60)}}


@pytest.mark.parametrize(
    ("phase", "ours", "before", "beside", "told"),
    [
        ("Pending", NO_IMAGE, RUNS, None, {"waiting": "ImagePullBackOff", "started_at": None}),
        ("Pending", WAITS, NO_IMAGE, None, {"waiting": "ImagePullBackOff", "started_at": None}),
        ("Pending", WAITS, ended(0), None, {"waiting": "PodInitializing", "started_at": None, "exit_code": None}),
        ("Failed", WAITS, ended(3), None, {"exit_code": 3, "container": "added"}),
        ("Running", RUNS, ended(137), None, {"exit_code": None, "started_at": NOW - 60, "container": "train"}),
        ("Failed", ended(64), ended(137), ended(1), {"exit_code": 64, "container": "train"}),
        ("Running", ended(0), RUNS, ended(1), {"exit_code": 0, "container": "train"}),
        ("Failed", ended(0), ended(0), ended(1), {"exit_code": 1, "container": "beside"}),
    ],
    ids=[
        "image that cannot be pulled beside a sidecar that runs",
        "image of a sidecar that cannot be pulled",
        "initialised",
        "initialisation failed",
        "sidecar that died beside a program that runs",
        "program that failed before its sidecars",
        "program that ended before its sidecars",
        "program that succeeded in a pod that failed",
    ],
)
def test_containers_that_a_cluster_adds_do_not_hide_the_program(
    phase: str, ours: dict[str, Any], before: dict[str, Any], beside: dict[str, Any] | None, told: dict[str, Any]
) -> None:
    document = pod(0, phase=phase, state=ours)
    document["metadata"]["annotations"] = {CONTAINER_ANNOTATION: "train"}
    document["status"]["initContainerStatuses"] = [{"name": "added", "state": before}]
    if beside is not None:
        document["status"]["containerStatuses"].insert(0, {"name": "beside", "state": beside})
    summary = pod_summary(document)
    assert isinstance(summary, PodSummary)
    assert {name: getattr(summary, name) for name in told} == told


def test_exit_code_that_the_kubelet_made_up_is_none() -> None:
    found = pod_summary(failed_pod(0, 137, why="ContainerStatusUnknown"))
    assert isinstance(found, PodSummary)
    assert (found.exit_code, found.reason) == (None, "ContainerStatusUnknown")
