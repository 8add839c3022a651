"""Outages of the operator, or of what it depends on: how a test brings each about, and the alerts that must fire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.cluster.alerting import WATCH_S, Scrapes
from tests.cluster.api_proxy import ApiProxy, Fault, Request
from tests.cluster.operators import Operator, Runs
from tests.cluster.tools import Kubectl, wait_until

ONE = {"label": None, "train": None, "evaluate": None}
"""A run of the stage filter alone."""


@dataclass
class Place:
    """One operator behind a proxy, in a namespace of its own."""

    runs: Runs
    operator: Operator
    proxy: ApiProxy
    scrapes: Scrapes

    @property
    def kubectl(self) -> Kubectl:
        return self.runs.kubectl


def nothing(place: Place) -> None:
    """No outage."""


@dataclass(frozen=True)
class Outage:
    """One outage."""

    alerts: frozenset[str]
    """those that fire, and no others"""
    inject: Callable[[Place], object] = nothing
    """called once the operator answers"""
    refuse: Callable[[Request], Fault | None] = lambda request: None
    """what the API server does from the operator's start on"""
    options: tuple[str, ...] = ("--no-lease",)
    reconcile: str = ""
    """what reconciliations do: nothing (as they are), `raise` or `hang`"""
    lasting: tuple[str, ...] = ()
    """families of counters that go on as they were seen"""


def paused_run(name: str) -> Callable[[Place], object]:
    return lambda place: place.runs.apply(name, **ONE, suspend=True)


def faulty_from_now_on(fault: Callable[[Request], Fault | None]) -> Callable[[Place], object]:
    def inject(place: Place) -> None:
        place.proxy.fault = fault
        place.proxy.hang_up()
        place.runs.apply("r", **ONE, suspend=True)

    return inject


def many_runs(place: Place) -> None:
    place.proxy.fault = lambda request: Fault(delay_s=4.0) if request.method == "PATCH" else None
    for number in range(6):
        place.runs.apply(f"r-{number}", **ONE, suspend=True)


def poison(place: Place) -> None:
    labels = {"diht.dev/run": "r", "diht.dev/stage": "filter", "diht.dev/attempt": "abc"}
    labels["app.kubernetes.io/managed-by"] = "diht-operator"
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "local/none:1"}]}
    spec = {"suspend": True, "template": {"spec": pod}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "r-filter-1", "labels": labels}, "spec": spec}
    place.kubectl.create(job, place.operator.namespace)


def two_runs(place: Place) -> None:
    for name in ("first", "second"):
        place.runs.apply(name, **ONE, suspend=True)


def crash_loop(place: Place) -> None:
    place.runs.apply("r", {"filter": [75]}, **ONE, failurePolicy={"maxRestarts": 0})


def missing_image(place: Place) -> None:
    place.runs.apply("r", **ONE, pods={**place.runs.document("r")["spec"]["pods"], "image": "local/none:1"})


def start_again_and_again(place: Place) -> None:
    for _ in range(5):
        place.operator.kill()
        place.operator.start()
        wait_until(lambda: place.operator.get("/metrics")[0] == 200, "the operator", 90)
        place.scrapes.scrape()


def answers(
    status: int, what: str, methods: str = "", retry_after: int | None = None
) -> Callable[[Request], Fault | None]:
    """A status for requests whose path has the words, and whose method is one of these if any are named."""

    def refuse(request: Request) -> Fault | None:
        hit = what in request.path and (not methods or request.method in methods.split())
        return Fault(status, retry_after) if hit else None

    return refuse


WATCH_FAILURES = ("diht_operator_watch_failures",)
OUTAGES = {
    "none": Outage(frozenset(), paused_run("r")),
    "the operator is dead": Outage(frozenset({"DihtOperatorAbsent"}), lambda place: place.operator.kill()),
    "no replica can hold the Lease": Outage(
        frozenset({"DihtOperatorAbsent"}), refuse=answers(403, "/leases"), options=()
    ),
    "the API server is away": Outage(
        frozenset({"DihtOperatorBlind", "DihtOperatorWatchFailures"}),
        faulty_from_now_on(lambda request: Fault(hang_up=True)),
        lasting=WATCH_FAILURES,
    ),
    "pods cannot be listed": Outage(
        frozenset({"DihtOperatorBlind", "DihtOperatorWatchFailures", "DihtOperatorStuck"}),
        paused_run("r"),
        refuse=answers(403, "/pods"),
        lasting=WATCH_FAILURES,
    ),
    "watches stall": Outage(
        frozenset({"DihtOperatorWatchFailures"}),
        faulty_from_now_on(lambda request: Fault(stall=True) if request.is_watch else None),
        lasting=WATCH_FAILURES,
    ),
    "an object cannot be read": Outage(frozenset({"DihtOperatorSkipsObjects"}), poison),
    "status writes are refused": Outage(
        frozenset({"DihtOperatorFailingRuns"}), faulty_from_now_on(answers(403, "/status", "PATCH"))
    ),
    "the API server answers 429 to writes": Outage(
        frozenset({"DihtOperatorFailingRuns"}), faulty_from_now_on(answers(429, "", "POST PATCH DELETE", retry_after=1))
    ),
    "a reconciliation raises": Outage(
        frozenset({"DihtOperatorInternalErrors", "DihtOperatorFailingRuns"}), paused_run("r"), reconcile="raise"
    ),
    "all workers hang": Outage(
        frozenset({"DihtOperatorStuck"}), two_runs, options=("--no-lease", "--workers", "1"), reconcile="hang"
    ),
    "the API server is slow": Outage(
        frozenset({"DihtOperatorSlow"}),
        many_runs,
        options=("--no-lease", "--workers", "1"),
        lasting=("diht_operator_queue_wait_seconds",),
    ),
    "a program crashes until no restart is left": Outage(frozenset({"DihtRunsOutOfRestarts"}), crash_loop),
    "an image is not there": Outage(frozenset({"DihtRunsBlocked"}), missing_image),
    "the operator crashes again and again": Outage(frozenset({"DihtOperatorRestarts"}), start_again_and_again),
}


def placed(outage: Outage, runs: Runs, admin: Path, folder: Path) -> Place:
    """The outage's operator and proxy, not started; `admin` is the kubeconfig that the proxy uses."""
    proxy = ApiProxy(admin, folder)
    proxy.fault = outage.refuse
    options = outage.options or ("--lease-namespace", runs.namespace)
    options = (*options, "--watch-timeout", str(WATCH_S))
    operator = Operator(runs.namespace, proxy.kubeconfig, folder / "operator.log", options)
    if outage.reconcile:
        operator = replace(operator, program="tests.cluster.faulty")
    return Place(runs, operator, proxy, Scrapes(operator))
