"""State of a run that the operator keeps in memory between reconciliations, beside the status."""

from __future__ import annotations

from dataclasses import dataclass, field

from diht_k8s.controller.first_seen import FirstSeen
from diht_k8s.controller.node_health.gang_moves import PendingMove
from diht_k8s.controller.observe import RunProblem
from diht_k8s.controller.status_builder import LoggedProgress
from diht_k8s.kube.pod_summary import PodSummary


@dataclass
class ReconcileState:
    """State of one run between reconciliations; it may be lost at any time. Times are seconds since the epoch."""

    problem: RunProblem | None = None
    """what blocked the last actions."""
    refused_generation: int | None = None
    """the document whose objects the API server refused as they are: they are not sent again."""
    problem_count: int = 0
    """reconciliations in a row that were blocked."""
    logged: LoggedProgress | None = None
    """the newest progress that a log named."""
    log_read_at: float = 0.0
    log_tails: dict[str, list[str]] = field(default_factory=dict)
    """last lines of the logs of pods that failed, by name."""
    pending_subject: str = ""
    """UID of the object whose events, or whose queue, may tell why pods are pending."""
    pending_reads: int = 0
    """how often they were read."""
    pending_read_at: float = 0.0
    pending_cause: RunProblem | None = None
    """what they told."""
    first_seen: FirstSeen = field(default_factory=FirstSeen)
    has_unrecorded_job: bool = False
    """whether an earlier operator may have created a Job and ended before it wrote the UID."""
    run_uid: str = ""
    """its UID when it was last observed."""
    former_jobs: list[str] = field(default_factory=list)
    """UIDs of its Jobs, newest last, which pods may still name when they are deleted."""
    disrupted: dict[str, PodSummary] = field(default_factory=dict)
    """pods that were drained, evicted or preempted, as last observed, by name: they are deleted soon after."""
    live_read_jobs: set[str] = field(default_factory=set)
    """UIDs of the Jobs whose pods were read from the API server because the cause of their end was not to be seen."""
    pending_move: PendingMove | None = None
    """the fault of a node because of which the gang moves after its next checkpoint."""
    status_written_at: float = 0.0
    defers_pod_counts: bool = False
    """the written pod counts are older than ours: they are written with the next change, or after a while."""
