"""What TorchX shows of an application: its description, computed from its Jobs and pods, and the log of a replica,
across all the pods that it has had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError
from torchx.schedulers.api import DescribeAppResponse
from torchx.specs import NONE, AppState, ReplicaState, ReplicaStatus, Resource, Role, RoleStatus

from diht_k8s.api.errors import RetryableError
from diht_k8s.api.reports import Cause
from diht_k8s.kube.client import Cluster, lines
from diht_k8s.kube.errors import ignore_not_found
from diht_k8s.kube.object_fields import INDEX_LABEL, owner_of
from diht_k8s.launch.pod_template import slug
from diht_k8s.launch.render import LABEL_ROLE

CANCELLED_ANNOTATION: Final = "diht.dev/cancelled"
_PHASES: Final = {
    "Pending": ReplicaState.PENDING,
    "Running": ReplicaState.RUNNING,
    "Succeeded": ReplicaState.SUCCEEDED,
    "Failed": ReplicaState.FAILED,
}
_SHORT_WAITS: Final = ("ContainerCreating", "PodInitializing")


def job_state(job: Mapping[str, Any]) -> AppState:
    """The state of a Job. It is pending while Kueue suspends it or no pod is ready."""
    status = job.get("status", {})
    if _condition(job, "Complete"):
        return AppState.SUCCEEDED
    cancelled = CANCELLED_ANNOTATION in job["metadata"].get("annotations", {})
    if _condition(job, "Failed"):
        return AppState.CANCELLED if cancelled else AppState.FAILED
    return AppState.RUNNING if status.get("ready") or status.get("succeeded") else AppState.PENDING


def app_state(jobs: Sequence[Mapping[str, Any]]) -> AppState:
    """The state of an application: failed as soon as one Job failed, succeeded once all Jobs have."""
    states = [job_state(job) for job in jobs]
    for state in (AppState.FAILED, AppState.CANCELLED, AppState.RUNNING, AppState.PENDING):
        if state in states:
            return state
    return AppState.SUCCEEDED


def description(
    app_id: str, jobs: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]
) -> DescribeAppResponse:
    """TorchX's description of an application.

    Args:
        app_id: `namespace:name`.
        jobs: its Jobs, at least one.
        pods: their pods, oldest first.
    """
    state = app_state(jobs)
    return DescribeAppResponse(
        app_id=app_id,
        state=state,
        num_restarts=sum(_restarts(job) for job in jobs),
        msg=_message(state, jobs, pods),
        roles=[_role(job) for job in jobs],
        roles_statuses=[RoleStatus(_role_name(job), _replicas(job, pods)) for job in jobs],
    )


def owned_pods(jobs: Sequence[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The pods whose owner is one of the Jobs: labels prove nothing, since anybody may set them."""
    uids = {job["metadata"]["uid"] for job in jobs}
    return [pod for pod in pods if owner_of(pod["metadata"]).get("uid") in uids]


def replica_pods(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], replica: int) -> list[Mapping[str, Any]]:
    """All pods of a replica so far, in the order of `pods`."""
    return [
        pod
        for pod in pods
        if owner_of(pod["metadata"]).get("uid") == job["metadata"]["uid"]
        and pod["metadata"]["labels"].get(INDEX_LABEL) == str(replica)
    ]


def main_container(job: Mapping[str, Any]) -> str:
    """Name of the container that runs the role's program."""
    return slug(_role_name(job))


def _role_name(job: Mapping[str, Any]) -> str:
    return job["metadata"]["labels"].get(LABEL_ROLE, job["metadata"]["name"])


def _role(job: Mapping[str, Any]) -> Role:
    """The role, as far as its Job describes it."""
    spec = job["spec"]
    containers = spec["template"]["spec"]["containers"]
    container = next((item for item in containers if item["name"] == main_container(job)), containers[0])
    command = [*container.get("command", []), *container.get("args", [])]
    return Role(
        name=_role_name(job),
        image=container["image"],
        entrypoint=command[0] if command else "",
        args=command[1:],
        env={item["name"]: item["value"] for item in container.get("env", []) if "value" in item},
        num_replicas=spec["completions"],
        max_retries=spec["backoffLimit"] // spec["completions"],
        resource=_resource(container.get("resources", {}).get("limits", {})),
        port_map={item["name"]: item["containerPort"] for item in container.get("ports", [])},
    )


def _resource(limits: Mapping[str, str]) -> Resource:
    """The resources that TorchX has fields for, in the units that `pods` writes; -1 for others."""
    cpu, memory = limits.get("cpu", ""), limits.get("memory", "")
    return Resource(
        cpu=int(cpu[:-1]) // 1000 if cpu.endswith("m") else int(cpu) if cpu.isdigit() else -1,
        memMB=int(memory[:-1]) if memory.endswith("M") else -1,
        gpu=int(limits.get("nvidia.com/gpu", 0)),
    )


def _replicas(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> list[ReplicaStatus]:
    done = _indexes(job.get("status", {}).get("completedIndexes", ""))
    name = _role_name(job)
    statuses = []
    for replica in range(job["spec"]["completions"]):
        own = replica_pods(job, pods, replica)
        if replica in done:
            state = ReplicaState.SUCCEEDED
        elif own:
            state = _PHASES.get(own[-1].get("status", {}).get("phase", ""), ReplicaState.UNKNOWN)
        else:
            state = ReplicaState.CANCELLED if job_state(job) is AppState.CANCELLED else ReplicaState.PENDING
        statuses.append(ReplicaStatus(id=replica, role=name, state=state, hostname=_host(own)))
    return statuses


def _host(pods: Sequence[Mapping[str, Any]]) -> str:
    """DNS name of a replica's newest pod, without the cluster's domain."""
    if not pods:
        return ""
    spec = pods[-1]["spec"]
    host = spec.get("hostname", pods[-1]["metadata"]["name"])
    return f"{host}.{spec['subdomain']}.{pods[-1]['metadata']['namespace']}" if "subdomain" in spec else host


def _indexes(text: str) -> set[int]:
    """The indexes of a list such as `0,2-4`."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _restarts(job: Mapping[str, Any]) -> int:
    """Number of pods that replaced another one: all pods but the first of each replica."""
    status = job.get("status", {})
    pods = sum(int(status.get(state) or 0) for state in ("active", "terminating", "succeeded", "failed"))
    return max(0, pods - job["spec"]["completions"])


def _message(state: AppState, jobs: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]) -> str:
    """Why the application failed or waits."""
    if state is AppState.FAILED:
        causes = [
            _failure(pod) for pod in sorted(pods, key=_ended_at) if pod.get("status", {}).get("phase") == "Failed"
        ]
        causes += [condition.get("message", "") for job in jobs if (condition := _condition(job, "Failed"))]
        return next(filter(None, causes), NONE)
    if state is AppState.PENDING:
        queued = [
            f"Job {job['metadata']['name']} is held back ({condition.get('reason', '')}): its queue has not admitted it"
            for job in jobs
            if (condition := _condition(job, "Suspended"))
        ]
        return next(filter(None, [*queued, *map(_wait, pods)]), NONE)
    return NONE


def _failure(pod: Mapping[str, Any]) -> str:
    ended = _terminated(pod)
    name = pod["metadata"]["name"]
    if not ended:
        return f"pod {name}: {pod['status'].get('message') or pod['status'].get('reason') or 'failed'}"
    try:
        text = Cause.model_validate_json(ended.get("message", "")).message
    except ValidationError:
        text = next(iter(reversed(ended.get("message", "").strip().splitlines())), "")
    return f"pod {name} ended with exit code {ended['exitCode']} ({ended.get('reason', '')})" + (
        f": {text}" if text else ""
    )


def _terminated(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `terminated` state of the container that failed first; empty if none failed."""
    ends = [
        item["state"]["terminated"]
        for item in pod["status"].get("containerStatuses", [])
        if "terminated" in item["state"]
    ]
    bad = [end for end in ends if end["exitCode"]]
    return min(bad, key=lambda end: end.get("finishedAt") or "", default={})


def _ended_at(pod: Mapping[str, Any]) -> str:
    return _terminated(pod).get("finishedAt") or "9"


def waiting_reason(pod: Mapping[str, Any]) -> tuple[str, str] | None:
    """Reason and message of what keeps a pod from starting; None if it starts or waits only shortly."""
    for item in pod.get("status", {}).get("containerStatuses", []):
        waiting = item.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in _SHORT_WAITS:
            return waiting.get("reason", ""), waiting.get("message", "")
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", ""), condition.get("message", "")
    return None


def _wait(pod: Mapping[str, Any]) -> str:
    reason = waiting_reason(pod)
    return f"pod {pod['metadata']['name']} waits: {reason[0]}: {reason[1]}" if reason else ""


def _condition(item: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    conditions = item.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind and one["status"] == "True"), None)


POLL_S: Final = 1.0
Pod = Mapping[str, Any]
OpenLog = Callable[[Pod, datetime | None, bool], Iterator[str]]


@dataclass(frozen=True, kw_only=True)
class ReplicaLog:
    """Where the log of a replica comes from."""

    pods: Callable[[], Sequence[Pod]]
    """the pods that the replica has had so far, oldest first."""
    container: str
    open: OpenLog
    """the lines of a pod's log, each with its time before it: pod, since when, whether to follow."""
    ended: Callable[[], bool]
    """whether no further pod will come."""
    sleep: Callable[[float], None] = time.sleep


def replica_lines(
    source: ReplicaLog, *, since: datetime | None = None, until: datetime | None = None, follow: bool = False
) -> Iterator[str]:
    """The lines of a replica, each with its newline and as the program wrote it.

    Args:
        source: where the lines come from.
        since: drops lines before this time; a time without a zone is local.
        until: drops lines after this time, and stops following there.
        follow: wait for more lines, and for the pod that replaces a failed one, until the application has ended.
    """
    first, last = _aware(since), _aware(until)
    newest: dict[str, datetime] = {}
    done: set[str] = set()
    while True:
        ended = source.ended()
        for pod in source.pods():
            uid = pod["metadata"]["uid"]
            if uid in done or not _started(pod, source.container):
                continue
            seen = newest.get(uid)
            with suppress(*([RetryableError] if follow else [])):  # a broken stream is reopened where it ended
                for at, text in _timed(source.open(pod, seen or first, follow)):
                    if last is not None and at > last:
                        return
                    if _is_old(at, first, seen):
                        continue
                    newest[uid] = at
                    yield text + "\n"
            if _finished(pod, source.container):
                done.add(uid)
        if not follow or ended:
            return
        source.sleep(POLL_S)


def _is_old(at: datetime, first: datetime | None, newest: datetime | None) -> bool:
    """Whether a line is older than requested, or was printed before."""
    return (first is not None and at < first) or (newest is not None and at <= newest)


def pod_lines(
    cluster: Cluster, pod: Pod, container: str, *, since: datetime | None, now: datetime, follow: bool
) -> Iterator[str]:
    """The lines of a container's log, each behind its timestamp and without its end; none if the pod does not exist.

    Args:
        cluster: the cluster.
        pod: the pod.
        container: name of the container.
        since: drops older lines, to the second.
        now: the present time.
        follow: continue until the container ends.
    """
    metadata = pod["metadata"]
    options: dict[str, Any] = {"container": container, "timestamps": True, "follow": follow}
    if since is not None:
        options["sinceSeconds"] = max(1, int((now - since).total_seconds()) + 1)
    with ignore_not_found():
        for line in lines(cluster.log(metadata["namespace"], metadata["name"], **options)):
            yield line.decode(errors="replace")


def _timed(stamped: Iterator[str]) -> Iterator[tuple[datetime, str]]:
    """Each line apart from its timestamp; a line without one takes that of the line before."""
    at = datetime.min.replace(tzinfo=UTC)
    for line in stamped:
        stamp, _, text = line.partition(" ")
        try:
            at = datetime.fromisoformat(stamp)
        except ValueError:
            text = line
        yield at, text


def _aware(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC) if moment is not None else None


def _state(pod: Pod, container: str) -> Mapping[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((item["state"] for item in statuses if item["name"] == container), {})


def _started(pod: Pod, container: str) -> bool:
    return bool(_state(pod, container).keys() & {"running", "terminated"})


def _finished(pod: Pod, container: str) -> bool:
    return "terminated" in _state(pod, container)
