"""Prometheus metrics of the operator."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from diht_k8s.kube.object_fields import UNREADABLE_REASONS

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
RECONCILE: Final = Histogram(
    "diht_operator_reconcile_seconds", "Time of one reconciliation of one run, with its API calls.", buckets=BUCKETS
)
RECONCILE_CPU: Final = Histogram(
    "diht_operator_reconcile_cpu_seconds",
    "CPU time of one reconciliation, without the wait for the API.",
    buckets=BUCKETS,
)
WAIT: Final = Histogram("diht_operator_queue_wait_seconds", "Time that a run waits in the queue.", buckets=BUCKETS)
ERRORS: Final = Counter("diht_operator_reconcile_errors_total", "Reconciliations that ended in an error.", ["kind"])
WRITES: Final = Counter("diht_operator_api_writes_total", "Writes to the API server.", ["call"])
DEPTH: Final = Gauge("diht_operator_queue_depth", "Runs that wait in the queue.")
RUNS: Final = Gauge("diht_operator_runs", "Runs that the operator knows.")
ACTIVE: Final = Gauge("diht_operator_active_runs", "Runs with an active attempt.")
SKIPPED: Final = Counter(
    "diht_operator_skipped_objects_total", "Runs, Jobs and pods that cannot be read.", ["kind", "reason"]
)
SYNC_AGE: Final = Gauge(
    "diht_operator_sync_age_seconds", "Time since the API server last answered a list or watch.", ["kind"]
)
WATCH_FAILURES: Final = Counter(
    "diht_operator_watch_failures_total", "Lists and watches that failed, broke off or fell silent.", ["kind"]
)
FAILING: Final = Gauge("diht_operator_failing_runs", "Runs whose reconciliation has failed several times in a row.")
BLOCKED: Final = Gauge(
    "diht_operator_blocked_runs", "Runs that cannot go on, by the reason in their status.", ["reason"]
)
UNHEALTHY: Final = Gauge(
    "diht_operator_unhealthy_nodes",
    "Nodes with faults from which gangs move, until the fault is gone.",
    ["node", "fault"],
)
ELASTIC_NODES: Final = Gauge("diht_operator_elastic_nodes", "Nodes of the elastic trainings that are under way.")
WISHED_NODES: Final = Gauge("diht_operator_elastic_wished_nodes", "Nodes that these trainings wish for.")
RESIZINGS: Final = Counter(
    "diht_operator_resizings_total",
    "Elastic trainings that went on with another number of nodes, by a new attempt or in place.",
)
RESTARTS: Final = Counter(
    "diht_operator_restarts_total", "Restarts of stages, by the budget that they take from.", ["budget"]
)
STAGE_SECONDS: Final = Counter(
    "diht_operator_stage_seconds_total", "Wall time of stages, by what it went to (goodput: productive).", ["part"]
)
ENDED: Final = Counter("diht_operator_runs_ended_total", "Runs that ended, by reason.", ["reason"])
LEADER: Final = Gauge("diht_operator_leader", "1 while this replica is the leader.")
for _kind in ("Conflict", "Forbidden", "InternalError", "NotLeading", "TooManyRequests", "Unreachable"):
    ERRORS.labels(_kind)
for _kind in ("DihtRun", "Job", "Pod"):
    WATCH_FAILURES.labels(_kind)
    for _reason in UNREADABLE_REASONS:  # all from zero on, or an alert on their increase would miss the first one
        SKIPPED.labels(_kind, _reason)
