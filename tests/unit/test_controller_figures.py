"""The figures that the controller's benchmark reads from an audit log and a page of metrics."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks._figures import delays_s, histogram_quantile, quantile, requests, run_of, samples, writes_per_stage
from benchmarks._load import all_pods_ready, document, is_complete
from diht_k8s.api.run import DihtRun


def line(second: float, verb: str, what: str, name: str, user: str = "diht-operator", body: Any = None) -> str:
    resource, _, subresource = what.partition("/")
    time = f"2026-01-01T00:00:{second:09.6f}Z"
    return json.dumps(
        {
            "user": {"username": user},
            "verb": verb,
            "requestReceivedTimestamp": time,
            "stageTimestamp": time,
            "objectRef": {"resource": resource, "subresource": subresource, "name": name},
            "responseStatus": {"code": 200},
            "requestObject": body,
        }
    )


def status(second: float, **value: Any) -> str:
    patch = [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}, {"path": "/status", "value": value}]
    return line(second, "patch", "dihtruns/status", "run-00001", body=patch)


def test_delay_is_to_the_first_effect_on_the_same_run_after_the_cause() -> None:
    log = requests(
        [
            line(9.5, "delete", "jobs", "run-00001-train-1"),
            line(1, "delete", "jobs", "run-00001-filter-1"),
            line(2, "patch", "dihtruns", "run-00001", user="loader"),
            line(3, "patch", "dihtruns", "run-00002", user="loader"),
            line(2.25, "delete", "jobs", "run-00002-filter-1"),
        ]
    )
    causes = [each for each in log if each.user == "loader"]
    effects = [each for each in log if each.verb == "delete"]
    assert delays_s(causes, effects) == [7.5, math.inf]
    assert [run_of(name) for name in ("run-00001", "run-00001-label-heads-2", "run-00001.0a1b")] == ["run-00001"] * 3


def test_writes_are_counted_by_kind_and_reads_and_progress_are_not_counted() -> None:
    log = requests(
        [
            status(1, stages=[1]),
            line(2, "create", "jobs", "run-00001-train-1"),
            status(3, stages=[1], progress={"done": 1}),
            status(4, stages=[1], progress={"done": 1}, pods={"ready": 1}),
            line(5, "get", "pods/log", "run-00001-train-1-0"),
            status(6, stages=[2], progress={"done": 2}),
        ]
    )
    assert writes_per_stage(log, 2) == {
        "writes_per_stage": 2.0,
        "by_kind": {"status": 1.0, "create jobs": 0.5, "progress": 0.5, "pod counts": 0.5},
    }


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0)], ids=["half", "more", "most", "all"]
)
def test_quantile_is_a_value_that_this_share_does_not_exceed(share: float, expected: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == expected


def page(*counts: float) -> dict[str, float]:
    bounds = ("0.01", "0.1", "+Inf")
    rows = [f'x_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, counts, strict=True)]
    return samples("# TYPE x histogram\n" + "\n".join(rows) + f"\nx_count {counts[-1]}\nx_sum 1\n")


def test_quantile_of_a_histogram_is_of_what_came_in_between() -> None:
    before, after = page(100, 100, 100), page(150, 199, 200)
    assert histogram_quantile(before, after, "x", 0.25) == pytest.approx(0.005)
    assert histogram_quantile(before, after, "x", 0.99) == pytest.approx(0.1)
    assert histogram_quantile(before, after, "x", 1.0) == pytest.approx(0.1), "what lies above has no bound"
    assert math.isnan(histogram_quantile(before, before, "x", 0.5))


@pytest.mark.parametrize("options", [{}, {"ends": True}, {"gang": True}], ids=["whole", "ends", "gang"])
def test_runs_of_the_benchmark_are_good_documents(options: dict[str, bool]) -> None:
    DihtRun.model_validate(document("run-00001", 10, **options))


def test_status_shows_whether_all_pods_are_ready_and_the_run_complete() -> None:
    assert not all_pods_ready({})
    assert not all_pods_ready({"pods": {"desired": 2, "ready": 1}})
    assert all_pods_ready({"pods": {"desired": 2, "ready": 2}})
    assert is_complete({"conditions": [{"type": "Complete", "status": "True"}]})
    assert not is_complete({"conditions": [{"type": "Complete", "status": "False"}]})
