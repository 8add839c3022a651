"""The operator process: readiness, the sweep of finished runs, its right to write before each write, and a start beside
runs which an earlier operator has followed.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import Gauge

from diht_k8s.api.base import timestamp
from diht_k8s.api.reports import Progress
from diht_k8s.api.run import Stage
from diht_k8s.controller import metrics
from diht_k8s.controller import operator as module
from diht_k8s.controller.operator import Operator, Settings
from diht_k8s.kube.errors import ClusterError
from tests.unit.controller.cached_runs import ended_run, run
from tests.unit.controller.documents import job, pod
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, settle, status, training
from tests.unit.kube.api_server import ApiServer


def with_operator(
    monkeypatch: pytest.MonkeyPatch, story: Callable[[Operator], Any], server: ApiServer | None = None, **more: Any
) -> Any:
    monkeypatch.setattr(module, "connect", lambda **_: (server or ApiServer()).connection())
    return story(Operator(Settings(port=0, **more)))


def taken(found: Operator) -> tuple[str, str]:
    item = found._queue.get(60.0)
    assert item is not None
    return item[0]


def test_replica_is_unready_and_says_which_list_failed_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def story(found: Operator) -> None:
        runs, jobs, pods, workloads = found._watches
        waits = ("DihtRuns", "Jobs", "Pods", "Workloads")
        assert found.unready() == "; ".join(f"{kind} are not listed yet" for kind in waits)
        jobs.synced.set()
        workloads.synced.set()
        pods.synced.set()
        runs._failed(ClusterError(403, "Forbidden", "cannot list dihtruns"))
        assert found.unready() == "DihtRuns are not listed yet: ClusterError: cannot list dihtruns"
        runs.synced.set()
        assert found.unready() == ""

    with_operator(monkeypatch, story)


def test_run_whose_time_is_over_is_queued_by_one_timer_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SWEEP_S", 0.01)

    def story(found: Operator) -> None:
        found._runs.put(ended_run("old", time.time() - 100))
        found._runs.put(ended_run("new", time.time() - 10))
        sweep = threading.Thread(target=found._sweep, daemon=True)
        sweep.start()
        key = taken(found)
        found._stopped.set()
        sweep.join()
        assert key == ("n", "old")
        found._queue.done(key)
        later = found._queue.get(0.05)
        assert later is None or later[0] == key, "a later sweep has found it again"

    with_operator(monkeypatch, story, run_ttl_s=60.0)


def test_runs_that_have_not_ended_are_reconciled_first_after_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def story(found: Operator) -> None:
        for name in ("ended", "late", "active"):  # their Jobs and pods are listed, most runs are not
            found._changed("n", name)
        found._enqueue_changed()
        for known in (ended_run("ended"), run("active"), run("late")):
            found._runs.put(known)
            found._queue.add(known.key)
        assert [taken(found)[1] for _ in range(3)] == ["active", "late", "ended"]

    with_operator(monkeypatch, story)


@pytest.mark.parametrize("started", [1, 2])
def test_gang_is_looked_at_when_all_its_pods_run_not_at_each(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    def story(found: Operator) -> None:
        found._jobs.put(job(size=2))
        for number in range(2):
            found._pods.put(pod(number, phase="Running" if number < started else "Pending"))
        found._enqueue_changed()
        assert len(found._queue) == (started == 2)
        taken(found)

    monkeypatch.setattr(module, "STARTING_S", 0.05)
    with_operator(monkeypatch, story)


def test_new_run_waits_behind_no_flood_of_another_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor behind changes of its own namespace; and those take turns with the other's."""
    status = {"observedGeneration": 1}

    def story(found: Operator) -> None:
        many = [run(f"{number}", namespace="flood", status=status if number % 2 else None) for number in range(100)]
        for known in (*many, run("old", status=status), run("new")):
            found._runs.put(known)
            found._queue.add(known.key)
        first = [taken(found) for _ in range(5)]
        assert first.index(("n", "new")) <= 2
        assert ("n", "old") in first
        assert len(found._queue) == 97

    with_operator(monkeypatch, story)


@pytest.mark.parametrize("held", [True, False])
def test_nothing_is_written_without_the_lease(monkeypatch: pytest.MonkeyPatch, held: bool) -> None:
    server = ApiServer([(200, {})] * 7)

    def story(found: Operator) -> None:
        assert found._lease is not None
        monkeypatch.setattr(found._lease, "held", lambda: held)
        cluster = found._cluster
        writes: list[Callable[[], Any]] = [
            lambda: cluster.create({"kind": "Job", "metadata": {"namespace": "n"}}),
            lambda: cluster.delete_job("n", "j", "uid"),
            lambda: cluster.delete("Service", "n", "s"),
            lambda: cluster.delete("Pod", "n", "p", "uid"),
            lambda: cluster.delete_run("n", "r", "uid", "1"),
            lambda: cluster.write_status("n", "r", "1", {}),
            lambda: cluster.write_event("n", {"metadata": {}, "involvedObject": {}}),
        ]
        for write in writes:
            if held:
                write()
                continue
            with pytest.raises(ClusterError, match="lease is not held"):
                write()
        assert len(server.asked) == (len(writes) if held else 0)

    with_operator(monkeypatch, story, server, lease_namespace="n")


def test_server_that_asks_for_quiet_gets_it_from_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(key: Any) -> None:
        asked.append(key)
        raise ClusterError(429, "TooManyRequests", "busy", retry_after_s=30.0)

    def story(found: Operator) -> None:
        monkeypatch.setattr(found._reconciler, "reconcile", refuse)
        found._leads.set()
        for watch in found._watches:
            watch.synced.set()
        worker = threading.Thread(target=found._work, daemon=True)  # else pytest would wait for it after a failure
        worker.start()
        found._queue.add(("n", "first"))
        until = time.monotonic() + 60
        while not asked and time.monotonic() < until:
            time.sleep(0.01)
        found._queue.add(("n", "second"))
        time.sleep(0.7)  # the first one's own wait is 0.5 s
        assert asked == [("n", "first")]
        found._queue.close()
        found._stopped.set()
        worker.join()

    with_operator(monkeypatch, story)


def test_server_that_asked_for_quiet_keeps_it_when_the_operator_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def story(found: Operator) -> None:
        monkeypatch.setattr(found._reconciler, "reconcile", asked.append)
        found._leads.set()
        for watch in found._watches:
            watch.synced.set()
        found._quiet_until = time.monotonic() + 30.0
        found._queue.add(("n", "r"))
        worker = threading.Thread(target=found._work, daemon=True)
        worker.start()
        found._stopped.set()
        worker.join(20.0)  # of the 30
        assert (worker.is_alive(), asked) == (False, [])

    with_operator(monkeypatch, story)


def value(gauge: Gauge) -> float:
    return next(iter(gauge.collect())).samples[0].value


def test_depth_of_the_queue_is_true_while_no_worker_takes_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def story(found: Operator) -> None:
        found._queue.add(("n", "a"))
        found._queue.add(("n", "b"))
        assert value(metrics.DEPTH) == 2

    with_operator(monkeypatch, story)


def test_run_that_fails_again_and_again_is_counted_until_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def story(found: Operator) -> None:
        for _ in range(4):
            found._queue.done(("n", "a"), failed=True)
        assert value(metrics.FAILING) == 0
        found._queue.done(("n", "a"), failed=True)
        assert value(metrics.FAILING) == 1
        found._queue.done(("n", "a"))
        assert value(metrics.FAILING) == 0

    with_operator(monkeypatch, story)


def test_replica_that_stands_by_stops_soon_and_an_error_of_a_thread_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STOPS_WITHIN_S", 0.05)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)

    def stood_by(found: Operator) -> None:
        monkeypatch.setattr(found, "_stand_for_election", lambda: None)
        for watch in found._watches:
            monkeypatch.setattr(watch, "start", lambda: None)
        threading.Timer(0.1, lambda: found._ended.put(None)).start()
        found.run()

    def broken(found: Operator) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(found, "_sweep", fail)
        for watch in found._watches:
            monkeypatch.setattr(watch, "start", lambda: None)
        with pytest.raises(ZeroDivisionError):
            found.run()

    with_operator(monkeypatch, stood_by)
    with_operator(monkeypatch, broken)


ENDED = {
    "conditions": [
        {"type": "Complete", "status": "True", "reason": "Complete", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ],
    "observedGeneration": 1,
}


def followed() -> tuple[FakeCluster, Clock, list[str]]:
    """A training whose progress an operator has just read, and the pods whose log is read from now on."""
    cluster, process, clock = training()
    line = Progress(stage=Stage.TRAIN, step="epoch 1", done=1, total=2).line()
    cluster.logs = {name: line for name in cluster.pods}
    clock.now += 20
    settle(process)
    assert status(cluster).progress is not None
    asked: list[str] = []
    cluster.log_tail = lambda namespace, pod, container, lines: asked.append(pod) or line  # type: ignore[func-returns-value,method-assign]
    return cluster, clock, asked


def beside(cluster: FakeCluster, count: int, status: object) -> None:
    """Add runs with this status."""
    for number in range(count):
        run = copy.deepcopy(cluster.runs["r"])
        cluster.add_run({**run, "metadata": {"name": f"o-{number}"}, "status": status}, uid=f"uid-{number}")


@pytest.mark.parametrize(
    ("others", "interval_s"),
    [("ended", 10.0), ("running", 20.05)],
    ids=["finished runs do not count", "active ones do"],
)
def test_logs_are_read_over_one_interval_of_the_runs_that_run(others: str, interval_s: float) -> None:
    cluster, clock, asked = followed()
    beside(cluster, 400, ENDED if others == "ended" else cluster.runs["r"]["status"])
    new = Process(cluster, clock)
    new.reconciler._jitter = lambda: 0.9
    new.reconcile()
    assert asked == []
    clock.now += 0.1 * interval_s - 0.5
    new.reconcile()
    assert asked == []
    clock.now += 1
    new.reconcile()
    assert asked == ["r-train-1-0"]


@pytest.mark.parametrize("ready", ["True", "False"])
def test_log_of_a_pod_on_a_silent_node_is_not_asked_for(ready: str) -> None:
    cluster, clock, asked = followed()
    cluster.pods["r-train-1-0"]["status"]["conditions"] = [
        {"type": "Ready", "status": ready, "lastTransitionTime": timestamp(clock.now)}
    ]
    new = Process(cluster, clock)
    new.reconciler._jitter = lambda: 1.0
    new.reconcile()
    assert asked == (["r-train-1-0"] if ready == "True" else [])
