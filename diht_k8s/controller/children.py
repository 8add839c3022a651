"""The objects of one attempt: the same components and the same renderer as `torchx run -s kubernetes`. Pure."""

from __future__ import annotations

from typing import Any, Final

from diht_k8s.api.reports import GOODPUT_VARIABLE
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.controller.mirror.runs import KnownRun
from diht_k8s.controller.nodes import keep_away
from diht_k8s.controller.observe import entry_name
from diht_k8s.kube.summaries import ATTEMPT_LABEL, RUN_LABEL, RUN_UID_LABEL, STAGE_LABEL
from diht_k8s.launch.render import JobConfig, render
from diht_k8s.launch.stages import stage_app
from diht_k8s.pipeline.goodput_status import for_the_page
from diht_k8s.pipeline.states import Start

MANAGED_BY: Final = "diht-operator"


def children(known: KnownRun, run: DihtRun, start: Start, job_ttl_s: int | None = None) -> list[dict[str, Any]]:
    """The Service (if pods talk to each other), then the Job of an attempt, so that the Job finds all that it needs.

    `job_ttl_s` is the time in seconds after which Kubernetes removes the finished Job and its pods; None keeps them.

    Raises:
        UserError: the run cannot be rendered; the message says why.
    """
    labels = {
        "app.kubernetes.io/managed-by": MANAGED_BY,
        "app.kubernetes.io/part-of": "diht",
        RUN_LABEL: known.name,
        RUN_UID_LABEL: known.uid,
        STAGE_LABEL: entry_name(start.stage, start.step),
        ATTEMPT_LABEL: str(start.number),
    }
    config = JobConfig(
        namespace=known.namespace,
        end_on_disruption=True if start.stage is Stage.TRAIN else None,
        ttl_seconds_after_finished=job_ttl_s,
    )
    app = stage_app(run, start.stage, step=start.step)
    if start.stage is Stage.EVALUATE:
        timed = [(each.name, each.goodput, each.attempt) for each in known.status.stages if each.goodput is not None]
        app.roles[0].env[GOODPUT_VARIABLE] = for_the_page(timed)
    objects = render(app, config, start.name, labels=labels, owner=known.owner_reference)
    entry = next((stage for stage in known.status.stages if stage.name == labels[STAGE_LABEL]), None)
    for job in (item for item in objects if item["kind"] == "Job"):
        keep_away(job, entry.avoid_nodes if entry is not None else ())
    return sorted(objects, key=lambda item: item["kind"] == "Job")
