"""The Job of one attempt, with its Service and PodGroup, by the renderer of `torchx run -s kubernetes`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.pods import CONTROL_VARIABLE, OWNER_VARIABLE, merged
from diht_k8s.api.reports import GOODPUT_VARIABLE
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.steps import WAIT_STEP
from diht_k8s.controller.avoided_nodes import MAX_AVOIDED, prefer_other_nodes
from diht_k8s.controller.cache.runs import CachedRun
from diht_k8s.controller.living_gangs import resizing
from diht_k8s.controller.observe import entry_name
from diht_k8s.kube.connection import KINDS
from diht_k8s.kube.object_fields import (
    ATTEMPT_LABEL,
    MAX_MESSAGE,
    RUN_LABEL,
    RUN_UID_LABEL,
    STAGE_LABEL,
    UNHEALTHY_NODES_ANNOTATION,
)
from diht_k8s.launch.render import JobConfig, render
from diht_k8s.launch.stages import on_nodes, restarts_in_place, stage_app
from diht_k8s.pipeline.attempts import attempt_name
from diht_k8s.pipeline.goodput import goodput_json
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Start

MANAGED_BY: Final = "diht-operator"
NO_POD_GROUPS: Final = (
    "pods.gang is PodGroup, and the cluster does not serve scheduling.k8s.io/v1beta1, or the operator may not use it "
    "(Kubernetes 1.37 with the feature gate GenericWorkload): use Auto"
)


def build_objects(
    cached: CachedRun,
    run: DihtRun,
    start: Start,
    job_ttl_s: int | None = None,
    *,
    pod_groups: bool = False,
    faulty: Sequence[str] = (),
    token: str = "",
) -> list[dict[str, Any]]:
    """The Service (if pods talk to each other), then the Job of an attempt, so that the Job finds all that it needs.

    Args:
        cached: the run as the API server has it.
        run: the same, parsed.
        start: the attempt.
        job_ttl_s: time in seconds after which Kubernetes removes the finished Job and its pods; None keeps them.
        pod_groups: whether the cluster serves PodGroups.
        faulty: nodes of which monitors report faults.
        token: random; the launchers of a gang that restarts in place show it to each other. It stands in the Job, so
            whoever may read Jobs or pods of the namespace knows it: nobody needs a right on Secrets for it.

    Raises:
        UserError: the run cannot be rendered; the message says why.
    """
    gang = start.stage is Stage.TRAIN and start.step != WAIT_STEP
    resizes = gang and start.nodes is None and resizes_in_place(run)
    run, labels = on_nodes(run, start.nodes), labels_of(cached, start)
    config = JobConfig(
        namespace=cached.namespace,
        end_on_disruption=not resizes if gang else None,
        ttl_seconds_after_finished=job_ttl_s,
    )
    app = stage_app(run, start.stage, step=start.step)
    app.roles[0].env[OWNER_VARIABLE] = cached.uid
    if token and gang and restarts_in_place(run, start.stage):
        app.roles[0].env[CONTROL_VARIABLE] = token
    if start.stage is Stage.EVALUATE:
        timed = [(each.name, each.goodput, each.attempt) for each in cached.status.stages if each.goodput is not None]
        app.roles[0].env[GOODPUT_VARIABLE] = goodput_json(timed)
    objects = render(app, config, start.name, labels=labels, owner=cached.owner_reference)
    entry = next((stage for stage in cached.status.stages if stage.name == labels[STAGE_LABEL]), None)
    for job in (item for item in objects if item["kind"] == "Job"):
        if resizes:
            resizing(job)
        avoided = [*(entry.avoid_nodes if entry is not None else ()), *faulty[:MAX_AVOIDED]]
        prefer_other_nodes(job, list(dict.fromkeys(avoided)))
        if faulty:  # its gang is not moved again for a fault that nobody could avoid
            job["metadata"].setdefault("annotations", {})[UNHEALTHY_NODES_ANNOTATION] = ",".join(faulty)[:MAX_MESSAGE]
        if start.stage is Stage.TRAIN and job["spec"]["parallelism"] > 1 and _in_pod_group(run, pod_groups=pod_groups):
            objects.append(pod_group(job))
    return sorted(objects, key=lambda item: item["kind"] == "Job")


def first_starts(run: DihtRun) -> Iterator[Start]:
    """The first attempt of each stage, in order."""
    for stage in run.spec.stages:
        for step in CLUSTER_STEPS.get(stage, ("",)):
            yield Start(stage, 1, attempt_name(run.metadata.name, stage, 1, step), step)


def resizes_in_place(run: DihtRun) -> bool:
    """Whether the training of a run goes on as nodes go and come, in the pods that live."""
    train = run.spec.train
    return train is not None and train.min_nodes is not None and restarts_in_place(run, Stage.TRAIN)


def requires_pod_group(run: DihtRun) -> bool:
    """Whether a run insists on a PodGroup for its training."""
    return run.spec.train is not None and merged(run.spec.pods, run.spec.train.pods).gang == "PodGroup"


def _in_pod_group(run: DihtRun, *, pod_groups: bool) -> bool:
    """Whether Kubernetes itself schedules the training's pods together."""
    assert run.spec.train is not None
    if not pod_groups and requires_pod_group(run):
        raise UserError(NO_POD_GROUPS)
    return pod_groups and merged(run.spec.pods, run.spec.train.pods).gang != "None"


def pod_group(job: dict[str, Any]) -> dict[str, Any]:
    """The PodGroup of a Job's pods, none of which gets a node before all can; the Job is changed to name it."""
    metadata, template = job["metadata"], job["spec"]["template"]["spec"]
    template["schedulingGroup"] = {"podGroupName": metadata["name"]}
    spec: dict[str, Any] = {"schedulingPolicy": {"gang": {"minCount": job["spec"]["parallelism"]}}}
    if "priorityClassName" in template:
        spec["priorityClassName"] = template["priorityClassName"]
    group, version, *_ = KINDS["PodGroup"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "ownerReferences") if key in metadata}
    return {"apiVersion": f"{group}/{version}", "kind": "PodGroup", "metadata": kept, "spec": spec}


def labels_of(cached: CachedRun, start: Start) -> dict[str, str]:
    """The labels by which the objects of an attempt are found."""
    return {
        "app.kubernetes.io/managed-by": MANAGED_BY,
        "app.kubernetes.io/part-of": "diht",
        RUN_LABEL: cached.name,
        RUN_UID_LABEL: cached.uid,
        STAGE_LABEL: entry_name(start.stage, start.step),
        ATTEMPT_LABEL: str(start.number),
    }
