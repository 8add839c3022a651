"""The second Workload of an elastic training: quota for its nodes beyond the fewest, which Kueue may take back alone.
Pure.

The first one holds the place of the training, as any stage's does. The second one asks for the rest with less priority,
so that others of the same priority come before it. It is there while a gang uses it or would: quota that nobody uses is
given back, and asked for again once growing is of use.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from diht_k8s.api.gangs import gang_sizes
from diht_k8s.api.pods import merged
from diht_k8s.api.run import DihtRun, FailurePolicy, Stage
from diht_k8s.api.train import Train
from diht_k8s.controller.observe import entry_name
from diht_k8s.kube.workload_summary import WorkloadSummary
from diht_k8s.pipeline.attempts import Attempt
from diht_k8s.pipeline.elasticity import largest_size, may_grow
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


ENTRY = Stage.TRAIN.value
"""Name of the training's entry in status.stages."""


@dataclass(frozen=True)
class ElasticQueue:
    """An elastic training that has quota in two Workloads."""

    train: Train
    policy: FailurePolicy
    now: float
    """seconds since the epoch."""

    def waits_until(self, base: WorkloadSummary, extra: WorkloadSummary | None) -> float | None:
        """Until when an attempt waits for quota of all its nodes; None if it does not.

        A training that was admitted waits a while, so that it does not start small needlessly. Later attempts wait
        until Kueue has looked at the second Workload. A wait that has not begun yet means that the clocks differ: it is
        over.
        """
        longest_s = self.policy.elastic_after_seconds
        since = base.admitted_at if extra is None or extra.refused else max(base.admitted_at, extra.created_at)
        until = since + longest_s
        return until if self.now < until <= self.now + 2 * longest_s else None

    def may_start_with(self, extra: WorkloadSummary, start: Start) -> bool:
        """Whether the second Workload is what an attempt that is to start would use."""
        asks = extra.count == useful_extra(self.train)[0]
        return asks and not (extra.evicted or extra.finished) and (start.lacks_quota or extra.may_run)

    def may_grow_by(self, extra: WorkloadSummary | None, base: WorkloadSummary, attempt: Attempt) -> bool:
        """Whether a gang that runs without the second Workload would use it now; None: if it were admitted as a whole.

        Not after an edit of minNodes: its next attempt begins with another first Workload, at the end of the queue.
        """
        rest = useful_extra(self.train)[0]
        if extra is not None and (extra.evicted or extra.finished or extra.count != rest):
            return False
        if base.count != fewest_nodes(self.train):
            return False
        more = extra.admitted_count if extra is not None and extra.admitted else rest
        nodes = largest_size(self.train, base.admitted_count + more)
        waits = extra is not None and not extra.admitted  # a new operator has read no report yet: its place is kept
        return nodes is not None and may_grow(self.train, self.policy, attempt, nodes, self.now, unknown=waits)


def fewest_nodes(train: Train) -> int:
    """The nodes of the first Workload."""
    return gang_sizes(train)[0]


def useful_extra(train: Train) -> tuple[int, int]:
    """The nodes of the second Workload, and the fewest of them that are of use; the training has more than one size."""
    fewest, more, *_ = gang_sizes(train)
    return train.num_nodes - fewest, more - fewest


def elastic_queue(run: DihtRun, now: float) -> ElasticQueue | None:
    """The training of a run, if it has quota in two Workloads."""
    train = run.spec.train
    if train is None or fewest_nodes(train) == train.num_nodes or ENTRY not in queues_of(run):
        return None
    return ElasticQueue(train, run.spec.failure_policy, now)


def quota_of(run: DihtRun, workloads: Iterable[WorkloadSummary]) -> int | None:
    """Nodes for which an elastic training has quota; None: not for the fewest, or it is rigid or queues otherwise."""
    if run.spec.train is None or run.spec.train.min_nodes is None or ENTRY not in queues_of(run):
        return None
    own = [each for each in workloads if each.stage == ENTRY and each.may_run]
    return None if all(each.extra for each in own) else sum(each.admitted_count for each in own)
