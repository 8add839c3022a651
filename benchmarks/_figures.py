"""Figures about an operator from an audit log and Prometheus metrics. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

READS: Final = frozenset({"get", "list", "watch"})


@dataclass(frozen=True)
class Request:
    """One request of the audit log."""

    user: str
    verb: str
    what: str
    """resource, or resource/subresource."""
    name: str
    code: int
    began: float
    """seconds since the epoch."""
    ended: float
    body: Any = None

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.verb not in READS


def requests(lines: Iterable[str]) -> list[Request]:
    """The requests of an audit log, by the time of their end."""
    found = [_request(json.loads(line)) for line in lines if line.strip()]
    return sorted(found, key=lambda request: request.ended)


def _request(event: Mapping[str, Any]) -> Request:
    subject = event.get("objectRef") or {}
    return Request(
        user=event["user"]["username"],
        verb=event["verb"],
        what="/".join(filter(None, (subject.get("resource"), subject.get("subresource")))),
        name=subject.get("name", ""),
        code=(event.get("responseStatus") or {}).get("code", 0),
        began=datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
        ended=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
        body=event.get("requestObject"),
    )


def delays_s(causes: Iterable[Request], effects: Iterable[Request]) -> list[float]:
    """Seconds from the end of each cause to the start of the first effect of the same run after it; inf where none
    came.

    A run's name is what stands before the first dot, or before the stage in the name of a Job.
    """
    by_run: dict[str, list[float]] = {}
    for effect in effects:
        by_run.setdefault(run_of(effect.name), []).append(effect.began)
    found = []
    for cause in causes:
        after = [began for began in by_run.get(cause.name, ()) if began >= cause.began]
        found.append(max(0.0, min(after, default=math.inf) - cause.ended))
    return found


def run_of(name: str) -> str:
    """The run that an object of the benchmark belongs to: runs are called WORD-NUMBER."""
    return "-".join(name.split(".")[0].split("-")[:2])


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def writes_per_stage(found: Iterable[Request], stages: int) -> dict[str, Any]:
    """Writes of the operator to some runs, divided by the number of stage entries that these went through.

    A status write that changes nothing but progress counts as progress.
    """
    counts: Counter[str] = Counter()
    last: dict[str, Mapping[str, Any]] = {}
    for request in found:
        if not request.is_write:
            continue
        kind = f"{request.verb} {request.what}"
        if request.what == "dihtruns/status" and request.code < 300:
            status = status_of(request)
            kind = _kind_of_status(last.get(request.name, {}), status)
            last[request.name] = status
        counts[kind] += 1
    rest = sum(count for kind, count in counts.items() if kind != "progress")
    return {
        "writes_per_stage": round(rest / stages, 2),
        "by_kind": {k: round(v / stages, 2) for k, v in counts.items()},
    }


def status_of(request: Request) -> Mapping[str, Any]:
    """The status that a JSON patch writes."""
    return next(change["value"] for change in request.body if change["path"] == "/status")


def _kind_of_status(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    if changed == {"progress"}:
        return "progress"
    return "pod counts" if changed <= {"progress", "pods"} else "status"


Samples = Mapping[str, float]
"""name, with le="..." appended where it is a bucket -> value."""


def samples(page: str) -> dict[str, float]:
    """The values of a page of metrics, labels other than buckets' bounds summed over."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = f"{sample.name}:{sample.labels['le']}" if "le" in sample.labels else sample.name
            found[key] = found.get(key, 0.0) + sample.value
    return found


def histogram_quantile(before: Samples, after: Samples, name: str, share: float) -> float:
    """A quantile of what a histogram took in between two pages, linear within a bucket; nan where it took in
    nothing.
    """
    prefix = f"{name}_bucket:"
    bounds = sorted(
        (float(key[len(prefix) :]), after[key] - before.get(key, 0.0)) for key in after if key.startswith(prefix)
    )
    wanted, low, below = share * bounds[-1][1], 0.0, 0.0
    if not wanted:
        return math.nan
    for bound, count in bounds:
        if count >= wanted:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / max(1.0, count - below)
        low, below = bound, count
    return math.nan
