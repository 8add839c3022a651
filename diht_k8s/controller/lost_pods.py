"""Pods whose node does not answer: nothing that the API server says of them will change while it is away. Pure."""

from __future__ import annotations

from typing import Final

from diht_k8s.kube.summaries import PodSummary

LOST_AFTER_S: Final = 300.0
"""A pod that ran and has not been ready for this time is lost even if nothing evicts it (Kubernetes' own default).

A lost node is found much sooner, by the eviction that its taint causes (30 s, see the pods' tolerations). A shorter
time would count pods as lost when the API server was away for a minute: then all nodes seem lost, and none is."""
GONE_AFTER_S: Final = 30.0
"""A pod that still exists this long after its deletion time has no kubelet that could remove it."""


def is_lost(pod: PodSummary, now: float) -> bool:
    """Whether a pod is lost: its node is not ready, though its containers may still run."""
    if pod.ended:
        return False
    if pod.deleted_at is not None and now >= pod.deleted_at + GONE_AFTER_S:
        return True
    if pod.started_at is None or pod.not_ready_since is None or pod.exit_code is not None:
        return False
    return bool(pod.disruption) or now >= pod.not_ready_since + LOST_AFTER_S
