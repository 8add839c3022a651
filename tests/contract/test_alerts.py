"""The chart's alerts by Prometheus' own engine, on the operator's metrics as each outage leaves them (set by hand
here).

tests/cluster/test_alerts.py brings the outages about for real.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
from prometheus_client import generate_latest

from diht_k8s.controller import metrics, run_metrics  # noqa: F401 (adds metrics)
from tests.cluster.alerting import Scrapes, alerts
from tests.contract.charts import EVERYTHING, MONITORING, rendered, tool
from tests.contract.local import FORKED
from tests.recipe.train import fork_server

NO_ANSWER = "'no answer'"
pytestmark = pytest.mark.timeout(3600)  # the first one may build helm and Prometheus' engine, after Kubernetes


class Exposition:
    """What a process of its own exposes, before and after a change of its metrics: this process keeps its own."""

    def __init__(self, change: str) -> None:
        with tempfile.TemporaryFile("w+") as file:
            program, env = f"{__name__}:expose", dict(os.environ)
            assert fork_server.start(program, change, variables=env, modules=(FORKED,), stdout=file).wait(300) == 0
            file.seek(0)
            self.before, self.after = file.read().split("\0")
        self.changed = False

    def get(self, path: str) -> tuple[int, str]:
        text = self.after if self.changed else self.before
        return (200, text) if text else (0, "")


def expose(change: str) -> None:
    """In a process whose metrics no other test has changed."""
    metrics.LEADER.set(1)
    for kind in ("DihtRun", "Job", "Pod"):
        metrics.SYNC_AGE.labels(kind).set(1)
    before = generate_latest().decode()
    after = exec(change, {"metrics": metrics}) or generate_latest().decode()
    print(before, "" if change == NO_ANSWER else after, sep="\0", end="")


@pytest.fixture(scope="module")
def rules(helm: str) -> list[dict[str, Any]]:
    objects = rendered(helm, EVERYTHING, apis=MONITORING)
    return next(each for each in objects if each["kind"] == "PrometheusRule")["spec"]["groups"][0]["rules"]


@pytest.fixture(scope="module")
def promql() -> str:
    return tool("promql") or pytest.skip("no Go to build Prometheus' engine with")


LASTING = ("diht_operator_watch_failures", "diht_operator_queue_wait_seconds")


@pytest.mark.parametrize(
    ("change", "alert"),
    [
        ("pass", ""),
        (NO_ANSWER, "DihtOperatorAbsent"),
        ("metrics.LEADER.set(0)", "DihtOperatorAbsent"),
        ('metrics.ERRORS.labels("Forbidden").inc(60)', "DihtOperatorErrors"),
        ('metrics.ERRORS.labels("InternalError").inc(4)', "DihtOperatorInternalErrors"),
        ("metrics.DEPTH.set(1)", "DihtOperatorStuck"),
        ('metrics.SYNC_AGE.labels("Pod").set(20)', "DihtOperatorBlind"),
        ('metrics.WATCH_FAILURES.labels("Pod").inc()', "DihtOperatorWatchFailures"),
        ("metrics.FAILING.set(1)", "DihtOperatorFailingRuns"),
        ("vars(metrics)", "DihtOperatorRestarts"),
        ('metrics.BLOCKED.labels("Unschedulable").set(1)', "DihtRunsBlocked"),
        ('metrics.BLOCKED.labels("InternalError").set(1)', ""),
        ('metrics.ENDED.labels("RestartsExhausted").inc()', "DihtRunsOutOfRestarts"),
        ('metrics.ENDED.labels("UserError").inc()', ""),
        ('metrics.SKIPPED.labels("Pod", "Malformed").inc()', "DihtOperatorSkipsObjects"),
        ("metrics.WAIT.observe(20)", "DihtOperatorSlow"),
        ('metrics.UNHEALTHY.labels("gpu-7", "SysLogsXIDError").set(1)', "DihtNodeUnhealthy"),
        ("metrics.WISHED_NODES.set(64), metrics.ELASTIC_NODES.set(63)", "DihtNodesMissing"),
        ("metrics.WISHED_NODES.set(64), metrics.ELASTIC_NODES.set(64)", ""),
    ],
)
def test_alert_fires_on_the_metrics_of_its_outage_and_no_other_does(
    rules: list[dict[str, Any]], promql: str, change: str, alert: str
) -> None:
    source: Any = Exposition(change)
    scrapes = Scrapes(source)
    for _ in range(2):
        scrapes.scrape()
        scrapes.began -= 15
    source.changed = True
    scrapes.scrape()
    if alert == "DihtOperatorRestarts":
        start = next(series for series in scrapes.samples if ("__name__", "process_start_time_seconds") in series)
        scrapes.samples[start] = [(15.0 * number, number // 2) for number in range(10)]
    errors = ("diht_operator_reconcile_errors",) if alert == "DihtOperatorErrors" else ()
    fired = alerts(promql, rules, scrapes.continued((*LASTING, *errors)))
    assert fired == ({alert} if alert else set())
