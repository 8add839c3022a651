"""What Prometheus would make of an operator: its real metrics over time, and the chart's alerts by Prometheus' own
engine.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.operators import Operator

NAMESPACE = "diht-system"
"""Where the chart is rendered for."""
FRESH_S = 8.0
"""The cache of a healthy operator is never older, with the watches of `WATCH_S`."""
WATCH_S = 3
STEP_S = 15.0
"""Interval of scrapes and evaluations."""
SPAN_S = 40 * 60.0
"""What is evaluated: longer than the longest time for which any alert waits."""
Series = tuple[tuple[str, str], ...]


@dataclass
class Scrapes:
    """An operator's metrics: scraped for a while, then continued as if everything stayed as it was at the last scrape.

    Ages grow with time, the start time of a process that is gone is not reported, and all else keeps its value. So
    nothing fires here that needs more events than those that were seen.
    """

    operator: Operator
    began: float = field(default_factory=time.monotonic)
    samples: dict[Series, list[tuple[float, float]]] = field(default_factory=dict)
    last: set[Series] = field(default_factory=set)

    def scrape(self) -> None:
        """Take the metrics as they are now; none if the process does not answer."""
        at, (status, text) = time.monotonic() - self.began, self.operator.get("/metrics")
        self.last = set()
        if status != 200:
            return
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = {"__name__": sample.name, "namespace": NAMESPACE, "instance": "operator", **sample.labels}
                series = tuple(sorted(labels.items()))
                self.samples.setdefault(series, []).append((at, float(sample.value)))
                self.last.add(series)

    def continued(self, lasting: Collection[str] = ()) -> list[dict[str, Any]]:
        """All series until the end of the span; counters of the families `lasting` go on at the rate that was seen."""
        found = []
        for series, samples in self.samples.items():
            labels, more = dict(series), list(samples)
            (first, low), (last, high) = samples[0], samples[-1]
            slope = 0.0
            if labels["__name__"] == "diht_operator_sync_age_seconds":
                slope = 1.0 if high > FRESH_S else 0.0
            elif any(labels["__name__"].startswith(family) for family in lasting) and last > first:
                slope = (high - low) / (last - first)
            if series in self.last:
                steps = range(1, int((SPAN_S - last) / STEP_S))
                more += [(last + step * STEP_S, high + slope * step * STEP_S) for step in steps]
            found.append({"labels": labels, "samples": more})
        return found


def alerts(program: str, rules: Iterable[dict[str, Any]], series: list[dict[str, Any]]) -> set[str]:
    """The alerts that fire.

    Args:
        program: tests/cluster/promql, built.
        rules: the chart's alerts.
        series: labels and samples, seconds from 0 on.
    """
    asked = {
        "rules": [{"alert": rule["alert"], "expr": rule["expr"], "for": rule.get("for", "")} for rule in rules],
        "series": series,
        "end": SPAN_S,
        "step": STEP_S,
    }
    done = subprocess.run([program, "alerts"], input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {each["alert"] for each in json.loads(done.stdout)}
