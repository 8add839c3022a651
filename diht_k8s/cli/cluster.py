"""`diht submit`, `logs`, `why`, `retry`, `cancel`, `plan`: a run on a cluster, for people who do not know kubectl."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

from diht_k8s.api.documents import document_of, load, read_text
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.reasons import ConditionType, Reason
from diht_k8s.api.redaction import redacted_document
from diht_k8s.api.reports import node_label
from diht_k8s.api.run import DihtRun
from diht_k8s.api.status import Preflight, StageState, StageStatus, Status
from diht_k8s.cli.document import warn_of_gpu
from diht_k8s.cli.goodput_lines import goodput_lines
from diht_k8s.controller.cache.runs import RETRY_ANNOTATION, cached_run
from diht_k8s.controller.job_builder import build_objects, requires_pod_group
from diht_k8s.controller.observe import entry_name
from diht_k8s.controller.saved_status import condition, is_true
from diht_k8s.controller.status_text import one_line
from diht_k8s.kube.labels import ATTEMPT_LABEL, INDEX_LABEL, STAGE_LABEL
from diht_k8s.kube.runs import run_client
from diht_k8s.pipeline.attempts import attempt_name
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Start

UNKNOWN_UID: Final = "00000000-0000-0000-0000-000000000000"
"""Stands for the uid that the API server assigns."""
SHOWN_EVENTS: Final = 3


def submit(path: str, overrides: Sequence[str], namespace: str | None, *, dry_run: bool) -> int:
    """Send a run to the cluster."""
    run = load(read_text(path), name=path, overrides=overrides)
    kube = run_client(namespace or run.metadata.namespace)
    warn_of_gpu(path, run)
    made = kube.apply(run, dry_run=dry_run)
    name = f"{made['metadata']['namespace']}/{made['metadata']['name']}"
    if dry_run:
        print(f"{path}: the cluster accepts it as run {name}")
        return ExitCode.DONE
    where = f" -n {kube.namespace}" if namespace else ""
    print(f"submitted run {name}; to follow it: diht watch {run.metadata.name}{where}")
    return ExitCode.DONE


def retry(name: str, namespace: str | None) -> int:
    """Resume a run that failed."""
    kube = run_client(namespace)
    status = Status.model_validate(kube.run(name).get("status") or {})
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
    status = Status.model_validate(kube.run(name).get("status") or {})
    pods = newest_pods(kube.pods(name), stage or _current(status))
    if not pods:
        raise UserError(
            f"run {kube.namespace}/{name} has no pods{f' of the stage {stage}' if stage else ''}: diht why {name}"
        )
    shown = pods[:1] if follow else pods
    for pod in shown:
        prefix = f"[{pod['metadata']['labels'].get(INDEX_LABEL, '0')}] ".encode() if len(shown) > 1 else b""
        _copy(kube.log(pod["metadata"]["name"], follow=follow, lines=lines), prefix)
    return ExitCode.DONE


def _copy(blocks: Iterable[bytes], prefix: bytes) -> None:
    begins = True
    for block in blocks:
        for line in block.splitlines(keepends=True):
            sys.stdout.buffer.write((prefix if begins else b"") + line)
            begins = line.endswith(b"\n")
        sys.stdout.buffer.flush()


def _current(status: Status) -> str | None:
    return status.progress.stage if status.progress is not None else None


def newest_pods(pods: list[dict[str, Any]], stage: str | None) -> list[dict[str, Any]]:
    """The pods of a stage's (or a step's) newest attempt, by index; of the newest stage if none is named."""
    labelled = [(pod["metadata"]["labels"], pod) for pod in pods]
    own = [
        (labels, pod)
        for labels, pod in labelled
        if stage is None or labels[STAGE_LABEL] == stage or labels[STAGE_LABEL].split("-")[0] == stage
    ]
    if not own:
        return []
    last = max(own, key=lambda each: each[1]["metadata"]["creationTimestamp"])[0]
    same = [
        (int(labels.get(INDEX_LABEL, 0)), pod)
        for labels, pod in own
        if (labels[STAGE_LABEL], labels[ATTEMPT_LABEL]) == (last[STAGE_LABEL], last[ATTEMPT_LABEL])
    ]
    return [pod for _, pod in sorted(same, key=lambda each: (each[0], each[1]["metadata"]["creationTimestamp"]))]


def list_runs(namespace: str, *, as_json: bool) -> int:
    """Print the runs of a namespace."""
    kube = run_client(namespace)
    runs = [(each["metadata"]["name"], each.get("status") or {}) for each in kube.all()]
    if as_json:
        print(json.dumps([{"name": name, "status": status} for name, status in runs]))
        return ExitCode.DONE
    for name, status in runs:
        print(sentence(name, Status.model_validate(status)))
    if not runs:
        print(f"no runs in the namespace {kube.namespace}")
    return ExitCode.DONE


def why(name: str, namespace: str | None, *, as_json: bool = False) -> int:
    """Say in one sentence what a run does, or why it does not."""
    kube = run_client(namespace)
    document = kube.run(name)
    status = Status.model_validate(document.get("status") or {})
    if as_json:
        print(json.dumps({"name": name, "says": sentence(name, status), "status": document.get("status") or {}}))
        return ExitCode.DONE
    print(sentence(name, status))
    for line in (*details(status), *goodput_lines(status)):
        print(f"  {line}")
    warnings = [event for event in kube.events(document["metadata"]["uid"]) if event["type"] == "Warning"]
    for event in warnings[-SHOWN_EVENTS:]:
        print(f"  {event.get('lastTimestamp', '')} {event['reason']}: {one_line(event.get('message', ''))}")
    return ExitCode.DONE


def sentence(name: str, status: Status) -> str:
    """What a run does, or why it does not, in one sentence."""
    accepted, progressing = condition(status, ConditionType.ACCEPTED), condition(status, ConditionType.PROGRESSING)
    if progressing is None:
        return f"{name} has no status yet: if that stays so, no operator serves its namespace"
    if accepted is not None and accepted.status == "False":
        return f"{name} is not taken on ({accepted.reason}): {accepted.message}"
    if is_true(status, ConditionType.COMPLETE):
        return f"{name} is complete since {status.completion_time}"
    failed = condition(status, ConditionType.FAILED)
    if failed is not None and failed.status == "True":
        return f"{name} failed ({failed.reason}): {failed.message}"
    if progressing.reason is Reason.RUNNING:
        return f"{name} runs: {progressing.message}{_pace(status)}"
    return f"{name} does not run ({progressing.reason}): {progressing.message}"


def _pace(status: Status) -> str:
    progress = status.progress
    if progress is None or not progress.total:
        return ""
    left = progress.estimated_remaining_seconds
    return f", {progress.percentage} % of {progress.step}" + (f", about {left} s left" if left is not None else "")


def details(status: Status) -> list[str]:
    """What helps to understand it: the newest cause, where it happened, the last lines of the program."""
    stage = next((stage for stage in reversed(status.stages) if stage.cause is not None), None)
    rounds = [line for each in status.stages for line in _in_place(each)]
    rounds += [avoids(each) for each in status.stages if each.avoid_nodes and each.cause is None]
    rounds += [_preflight(each.name, each.preflight) for each in status.stages if each.preflight is not None]
    if stage is None or stage.cause is None or stage.state in (StageState.COMPLETE, StageState.CACHED):
        return [*rounds, *_checkpoint(status)] if not is_true(status, ConditionType.COMPLETE) else []
    cause = stage.cause
    where = f"pod {cause.pod} on node {cause.node}" if cause.pod else "no pod"
    code = f", exit code {cause.exit_code}" if cause.exit_code is not None else ""
    lines = [f"last failure of {stage.name}: {cause.reason}{code} ({where}): {cause.message}", _restarts(stage)]
    if stage.avoid_nodes:
        lines.append(avoids(stage))
    return [*lines, *rounds, *_checkpoint(status), *(f"| {line}" for line in cause.log_tail[-5:])]


def avoids(stage: StageStatus) -> str:
    """Which nodes the next attempt of a stage avoids, and why."""
    nodes = ", ".join(stage.avoid_nodes)
    return f"{stage.name}: the next attempt prefers other nodes than {nodes}: two attempts or rounds failed there"


def _in_place(stage: StageStatus) -> list[str]:
    found = stage.restarts_in_place
    if found is None or stage.state in (StageState.COMPLETE, StageState.CACHED):
        return []
    where = f" (pod {found.pod} on node {found.node})" if found.pod else ""
    often = [f"{each.rounds} rounds failed on node {each.node}" for each in found.nodes if each.rounds > 1]
    return [
        f"{stage.name}: attempt {found.attempt} is in round {found.restarts + 1}, restarted in place{where}: {found.message}; "
        + "; ".join([*often, f"{found.total} restarts in place in all attempts"])
    ]


def _preflight(stage: str, found: Preflight) -> str:
    """The worst nodes that the preflight found, on one line."""
    nodes: list[str] = []
    for each in found.nodes:
        figures = ", ".join(f"{figure.name} {figure.value}" for figure in each.figures)
        nodes.append(f"{node_label(each.node, each.pod)}: {each.problem or figures or 'nothing measured'}")
    return f"{stage}: worst nodes in the preflight of attempt {found.attempt}: {'; '.join(nodes)}"


def _checkpoint(status: Status) -> list[str]:
    saved = status.last_checkpoint
    if saved is None:
        return []
    when = f", committed {saved.time}" if saved.time is not None else ""
    return [f"last checkpoint: step {saved.step}{when} ({saved.uri})"]


def _restarts(stage: StageStatus) -> str:
    counted = stage.restarts_count_towards_max
    return f"restarts: {stage.restarts}, {counted} of them count towards failurePolicy.maxRestarts"


def plan(path: str, overrides: Sequence[str], namespace: str | None, *, gpu: str | None, show_secrets: bool) -> int:
    """Print every object that a run would create, without a cluster; with `gpu` also an estimate, as a YAML comment.

    Literal values of the document are redacted, unless `show_secrets` is set.
    """
    run = load(read_text(path), name=path, overrides=overrides)
    if not show_secrets:
        run = DihtRun.model_validate(redacted_document(document_of(run)))
    if gpu is not None:
        from diht_k8s.cli.estimate import line  # imports torch

        print(f"# {line(run, gpu)}")
    for item in planned(run, namespace or run.metadata.namespace or "default"):
        print("---")
        print(yaml.safe_dump(item, sort_keys=False, width=120), end="")
    return ExitCode.DONE


def planned(run: DihtRun, namespace: str) -> list[dict[str, Any]]:
    """The objects of the first attempt of each stage, in order."""
    metadata = {"name": run.metadata.name, "namespace": namespace, "uid": UNKNOWN_UID, "resourceVersion": "0"}
    known = cached_run({"metadata": metadata, "spec": {}})
    objects: list[dict[str, Any]] = []
    for stage in run.spec.stages:
        for step in CLUSTER_STEPS.get(stage, ("",)):
            name = attempt_name(run.metadata.name, stage, 1, step)
            objects += build_objects(known, run, Start(stage, 1, name, step), pod_groups=requires_pod_group(run))
            assert objects[-1]["metadata"]["labels"][STAGE_LABEL] == entry_name(stage, step)
    return objects
