"""An exception that nobody expects in one reconciliation: the run says so, others continue, and it is tried again."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

import pytest

from diht_k8s.api.status import Condition
from diht_k8s.controller import execution, metrics, operator
from diht_k8s.controller.cache.runs import cached_run
from diht_k8s.controller.operator import Operator, Settings
from diht_k8s.controller.reconcile import InternalError
from diht_k8s.kube.client import ClusterError
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import SPEC, Clock, make, reason, settle, status

CANARY = "canary-93cf1a"


def accepted(cluster: FakeCluster) -> Condition:
    return next(each for each in status(cluster).conditions if each.type == "Accepted")


def broken(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Rendering the run of this name raises."""
    render = execution.build_objects

    def build_objects(known: Any, *arguments: Any, **options: Any) -> Any:
        if known.name == name:
            raise error
        return render(known, *arguments, **options)

    monkeypatch.setattr(execution, "build_objects", build_objects)


def fails(process: Process) -> None:
    with pytest.raises(InternalError):
        process.reconcile()


def test_unexpected_exception_becomes_a_condition_and_goes_when_the_run_can_be_reconciled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = make()
    process = Process(cluster, Clock())
    with monkeypatch.context() as patch:
        broken(patch, "r", KeyError("mountPath"))
        fails(process)
        assert (accepted(cluster).status, accepted(cluster).reason) == ("False", "InternalError")
        assert accepted(cluster).message.startswith("KeyError: 'mountPath' (build_objects, line ")
        assert reason(cluster) == "InternalError"
        assert [event["reason"] for event in cluster.recorded if event["type"] == "Warning"] == ["InternalError"]
        cluster.writes.clear()
        for _ in range(3):
            fails(process)
        assert cluster.writes == [], "the status does not go back and forth"
        assert cluster.jobs == {}
    settle(process)
    assert (accepted(cluster).status, accepted(cluster).reason) == ("True", "Valid")
    assert list(cluster.jobs) == ["r-filter-1"]


def test_other_runs_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make()
    other = {**SPEC, "data": {**SPEC["data"], "output": "s3://corpus/other"}}
    cluster.add_run(
        {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "o"}, "spec": other}, "o"
    )
    broken(monkeypatch, "r", TypeError("unhashable type: 'dict'"))
    process = Process(cluster, Clock())
    fails(process)
    for _ in range(3):
        process.reconcile("o")
    assert list(cluster.jobs) == ["o-filter-1"]


def test_message_and_log_are_free_of_literal_values(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make(pods={"image": "recipe:1", "env": [{"name": "T", "value": CANARY}]})
    broken(monkeypatch, "r", ValueError(f"line 1\n{CANARY}\x1b[31m"))
    process = Process(cluster, Clock())
    with caplog.at_level(logging.DEBUG), pytest.raises(InternalError) as raised:
        process.reconcile()
    assert accepted(cluster).message.startswith("ValueError: line 1 REDACTED (build_objects, line ")
    assert "Traceback" in caplog.text
    assert CANARY not in f"{caplog.text}{raised.value}{cluster.runs['r']['status']}{cluster.recorded}"


def test_status_that_cannot_be_written_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make()
    process = Process(cluster, Clock())
    broken(monkeypatch, "r", KeyError("mountPath"))
    fails(process)
    broken(monkeypatch, "r", KeyError("image"))
    cluster.refuse["write status"] = ClusterError(500, "InternalError", "etcd is full")
    fails(process)
    assert "the status cannot say so: ClusterError" in caplog.text


def test_operator_counts_it_and_tries_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def story() -> None:
        raise InternalError("KeyError: 'x'")

    monkeypatch.setattr(operator, "connect", lambda **_: None)
    before = metrics.ERRORS.labels("InternalError")._value.get()

    process = Operator(Settings(port=0))
    monkeypatch.setattr(process._reconciler, "reconcile", lambda key: story())
    began = time.monotonic()
    process._reconcile_key(("n", "r"))
    assert began + 0.5 <= process._queue._due["n", "r"] <= time.monotonic() + 0.5
    assert metrics.ERRORS.labels("InternalError")._value.get() == before + 1


def test_errors_of_the_api_server_are_logged_without_literal_values(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(operator, "connect", lambda **_: None)
    cluster = make(pods={"env": [{"name": "T", "value": CANARY}]})

    process = Operator(Settings(port=0))
    process._runs.put(cached_run(copy.deepcopy(cluster.runs["r"])))

    def refused(key: Any) -> None:
        raise operator.ClusterError(500, "InternalError", f"webhook said {CANARY}")

    monkeypatch.setattr(process._reconciler, "reconcile", refused)
    process._reconcile_key(("n", "r"))
    assert "webhook said REDACTED" in caplog.text
    assert CANARY not in caplog.text
