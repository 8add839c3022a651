"""`diht submit`, `status`, `list`, `logs`, `plan`, `retry`, `cancel`: runs of a cluster, for people who do not know
kubectl.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import yaml

from diht_k8s.api.documents import document_of
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.reasons import ConditionType
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.reports import MAX_LINE_BYTES
from diht_k8s.api.run import DihtRun, other_manager
from diht_k8s.api.status import Status
from diht_k8s.api.status_reading import read_status
from diht_k8s.cli.checks import check_for_cluster
from diht_k8s.cli.display import goodput_lines, readable, show
from diht_k8s.cli.document import read_run
from diht_k8s.cli.status_sentences import details, event_sentence, sentence
from diht_k8s.controller.cache.runs import RETRY_ANNOTATION, cached_run
from diht_k8s.controller.job_builder import build_objects, first_starts, requires_pod_group
from diht_k8s.controller.saved_status import is_true
from diht_k8s.kube.pod_summary import PodSummary
from diht_k8s.kube.runs import run_client

SHOWN_EVENTS: Final = 3


def submit(path: str, overrides: Sequence[str], namespace: str | None, *, dry_run: bool) -> int:
    """Send a run to the cluster."""
    run = read_run(path, overrides)
    check_for_cluster(path, run)
    kube = run_client(namespace or run.metadata.namespace)
    made = kube.apply(run, dry_run=dry_run)
    name = f"{made['metadata']['namespace']}/{made['metadata']['name']}"
    if dry_run:
        print(f"{path}: the cluster accepts it as run {name}")
        return ExitCode.DONE
    if (manager := other_manager(made["spec"])) is not None and made["metadata"]["generation"] > 1:
        print(
            f"{path}: warning: {manager} has the run (spec.managedBy): its copy on another cluster does not change",
            file=sys.stderr,
        )
    where = f" -n {kube.namespace}" if namespace else ""
    print(f"submitted run {name}; to follow it: diht watch {run.metadata.name}{where}")
    return ExitCode.DONE


def retry(name: str, namespace: str | None) -> int:
    """Resume a run that failed."""
    kube = run_client(namespace)
    document = kube.run(name)
    if (manager := other_manager(document["spec"])) is not None:
        raise UserError(
            f"run {kube.namespace}/{name} is {manager}'s (spec.managedBy): retry it on the cluster where it runs"
        )
    status = read_status(document.get("status")).status
    if not is_true(status, ConditionType.FAILED) or status.completion_time is None:
        raise UserError(f"run {kube.namespace}/{name} has not failed: there is nothing to retry")
    kube.annotate(name, RETRY_ANNOTATION, status.completion_time)
    print(f"run {kube.namespace}/{name} resumes where it failed, with all its restarts")
    return ExitCode.DONE


def cancel(name: str, namespace: str | None) -> int:
    """Delete a run; its output stays."""
    kube = run_client(namespace)
    output = kube.run(name)["spec"]["data"]["output"]
    kube.delete(name)
    print(f"run {kube.namespace}/{name} is cancelled; what it finished stays in {output} and is used again")
    return ExitCode.DONE


def logs(name: str, stage: str | None, namespace: str | None, *, follow: bool, lines: int | None) -> int:
    """Print the logs of a stage's newest attempt."""
    kube = run_client(namespace)
    document = kube.run(name)
    status = read_status(document.get("status")).status
    pods = newest_pods(kube.pods(document), stage or _current(status))
    if not pods:
        manager = other_manager(document["spec"])
        raise UserError(
            f"run {kube.namespace}/{name} has no pods{f' of the stage {stage}' if stage else ''}"
            + (f": diht status {name}" if manager is None else f" here: {manager} runs it elsewhere (spec.managedBy)")
        )
    shown = pods[:1] if follow else pods
    for pod in shown:
        prefix = f"[{pod.index}] ".encode() if len(shown) > 1 else b""
        copy_lines(kube.log(pod, follow=follow, lines=lines), prefix)
    return ExitCode.DONE


def copy_lines(blocks: Iterable[bytes], prefix: bytes) -> None:
    """Write the lines of a log, each behind a prefix, and those of progress in words."""
    begins, held = True, b""
    for block in blocks:
        for part in (held + block).splitlines(keepends=True):
            if begins and part[-1:] not in b"\r\n" and len(part) <= MAX_LINE_BYTES:
                held = part  # the last part: the next block has the rest
                break
            held = b""
            if begins:
                part = prefix + readable(part.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            sys.stdout.buffer.write(part)
            begins = part.endswith(b"\n")
        sys.stdout.buffer.flush()
    sys.stdout.buffer.write(prefix + held if held else b"")
    sys.stdout.buffer.flush()


def _current(status: Status) -> str | None:
    return status.progress.stage if status.progress is not None else None


def newest_pods(pods: Iterable[PodSummary], stage: str | None) -> list[PodSummary]:
    """The pods of a stage's (or a step's) newest attempt, by index; of the newest stage if none is named."""
    own = [pod for pod in pods if stage is None or stage in (pod.stage, pod.stage.split("-")[0])]
    last = max(own, key=lambda pod: pod.created_at, default=None)
    same = [pod for pod in own if last is not None and (pod.stage, pod.attempt) == (last.stage, last.attempt)]
    return sorted(same, key=lambda pod: (pod.index, pod.created_at))


def list_runs(namespace: str, sweep: str | None = None, *, as_json: bool) -> int:
    """Print the runs of a namespace, or the variants of a sweep there."""
    kube = run_client(namespace)
    runs = [(each["metadata"]["name"], each.get("status") or {}) for each in kube.all(sweep)]
    lines = [sentence(name, read_status(status).status) for name, status in runs]
    none = f"no runs{'' if sweep is None else f' of the sweep {sweep}'} in the namespace {kube.namespace}"
    return show([{"name": name, "status": status} for name, status in runs], lines or [none], as_json=as_json)


def status(name: str, namespace: str | None, *, as_json: bool = False) -> int:
    """Say in one sentence what a run does, or why it does not."""
    kube = run_client(namespace)
    document = kube.run(name)
    status = read_status(document.get("status")).status
    says = sentence(name, status)

    def lines() -> Iterator[str]:
        yield says
        for line in (*details(status), *goodput_lines(status)):
            yield f"  {line}"
        warnings = [event for event in kube.events(document["metadata"]["uid"]) if event.get("type") == "Warning"]
        for event in warnings[-SHOWN_EVENTS:]:
            yield f"  {event.get('lastTimestamp') or ''} {event_sentence(event)}"

    return show({"name": name, "says": says, "status": document.get("status") or {}}, lines(), as_json=as_json)


UNKNOWN_UID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that the API server assigns."""


def plan_command(path: str, overrides: Sequence[str], namespace: str | None, *, show_secrets: bool) -> int:
    """Print every object that a run would create, without a cluster.

    Literal values of the document are redacted, unless `show_secrets` is set.
    """
    run = read_run(path, overrides)
    if not show_secrets:
        run = DihtRun.model_validate(redacted_document(document_of(run)))
    for item in planned_objects(run, namespace or run.metadata.namespace or "default"):
        print("---")
        print(yaml.safe_dump(item, sort_keys=False, width=120), end="")
    return ExitCode.DONE


def planned_objects(run: DihtRun, namespace: str) -> list[dict[str, Any]]:
    """The objects of the first attempt of each stage, in order."""
    metadata = {"name": run.metadata.name, "namespace": namespace, "uid": UNKNOWN_UID, "resourceVersion": "0"}
    known = cached_run({"metadata": metadata, "spec": {}})
    pod_groups = requires_pod_group(run)
    return [item for start in first_starts(run) for item in build_objects(known, run, start, pod_groups=pod_groups)]
