"""The Pod Security level that the pods of a run need, by field. Pure."""

from __future__ import annotations

from typing import Final

from diht_k8s.api.json_types import FieldPath
from diht_k8s.api.kubernetes_types.security import Demand, Level
from diht_k8s.api.pods import Pods, demands, merged
from diht_k8s.api.run import Spec

IDLE_CAPABILITIES: Final = (
    "capabilities take effect for root only, and the pods run as user 1000: set runAsUser: 0 and runAsNonRoot: false beside "
    "them, or raise the limits in the nodes' container runtime"
)


def level_of(spec: Spec) -> Level:
    """The Pod Security level that a namespace must allow for this run."""
    return max((demand.level for _, demand in run_demands(spec)), default=Level.RESTRICTED)


def run_demands(spec: Spec) -> list[tuple[FieldPath, Demand]]:
    """Each field of the run for which it needs more than `restricted`, with its path from `spec` on; once each."""
    found: dict[FieldPath, Demand] = {}
    for place, common, own in _pods_of(spec):
        of_stage = {demand.path for demand in demands(own)}
        for demand in demands(merged(common, own)):
            found[(*(place if demand.path in of_stage else ("spec", "pods")), *demand.path)] = demand
    return list(found.items())


def idle_capabilities(spec: Spec) -> list[FieldPath]:
    """The fields that add capabilities to a container whose user cannot use them."""
    found: dict[FieldPath, None] = {}
    for place, common, own in _pods_of(spec):
        pods = merged(common, own)
        context, pod = pods.security_context or {}, pods.pod_security_context or {}
        if not context.get("capabilities", {}).get("add"):
            continue
        if context.get("runAsUser", pod.get("runAsUser")) != 0 and not context.get("privileged"):
            mine = "capabilities" in (own.security_context or {})
            found[(*(place if mine else ("spec", "pods")), "securityContext", "capabilities", "add")] = None
    return list(found)


def _pods_of(spec: Spec) -> list[tuple[FieldPath, Pods, Pods]]:
    """Of each stage: the path of its own pods, the common ones, its own."""
    return [
        (("spec", stage.value, "pods"), spec.pods, getattr(spec, stage.value).pods or Pods()) for stage in spec.stages
    ]
