"""What the operator keeps of a run between reconciliations, beside the status."""

from __future__ import annotations

from dataclasses import dataclass, field

from diht_k8s.controller.first_seen import FirstSeen
from diht_k8s.controller.node_health.gang_moves import PendingMove
from diht_k8s.controller.observe import RunProblem
from diht_k8s.controller.status_builder import LoggedProgress
from diht_k8s.kube.pod_summary import PodSummary


@dataclass
class ReconcileState:
    """What is cached of a run between reconciliations; it may be lost at any time."""

    problem: RunProblem | None = None
    """what blocked the last actions."""
    problems: int = 0
    logged: LoggedProgress | None = None
    read_at: float = 0.0
    asked: str = ""
    asks: int = 0
    asked_at: float = 0.0
    answer: RunProblem | None = None
    tails: dict[str, list[str]] = field(default_factory=dict)
    times: FirstSeen = field(default_factory=FirstSeen)
    unnamed: bool = False
    """whether an earlier operator may have created a Job and ended before it wrote the UID."""
    run_uid: str = ""
    """its UID when it was last observed."""
    former_jobs: list[str] = field(default_factory=list)
    """UIDs of its Jobs, newest last, which pods may still name when they are deleted."""
    disrupted: dict[str, PodSummary] = field(default_factory=dict)
    """pods that were drained, evicted or preempted, as last observed: they are deleted soon after."""
    looked_at: set[str] = field(default_factory=set)
    """UIDs of the Jobs whose pods were listed because the cause of their end was not to be seen."""
    noticed: PendingMove | None = None
    """the fault of a node because of which the gang moves after its next checkpoint."""
    wrote_at: float = 0.0
    owes_pod_counts: bool = False
    """the written pod counts are older than ours: they are written with the next change, or after a while."""
