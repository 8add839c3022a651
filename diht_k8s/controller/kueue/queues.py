"""The queues of a run's stages that keep their place through all attempts. Pure."""

from __future__ import annotations

from diht_k8s.api.pods import merged
from diht_k8s.api.run import DihtRun
from diht_k8s.controller.observe import entry_name
from diht_k8s.pipeline.plan import CLUSTER_STEPS, Start


def queues_of(run: DihtRun) -> dict[str, str]:
    """The queues of the stages that keep their place, by the name of their entry in status.stages."""
    found = dict[str, str]()
    for stage in run.spec.stages:
        pods = merged(run.spec.pods, getattr(run.spec, stage.value).pods)
        if pods.queueing == "PerRun" and pods.queue_name:
            found |= {entry_name(stage, each): pods.queue_name for each in CLUSTER_STEPS.get(stage, ("",))}
    return found


def entry_of(start: Start) -> str:
    """The name of its entry in status.stages."""
    return entry_name(start.stage, start.step)
