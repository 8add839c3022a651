"""What may happen between the operator and the API server: a watch stalls without a word, 429, no names, an older
history.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.api_proxy import ApiProxy, Fault
from tests.cluster.operators import Operator, Runs, World, condition, stages, world
from tests.cluster.tools import CLUSTER, Kubectl, Parts, script, wait_until

pytestmark = pytest.mark.cluster
ONE = {"label": None, "train": None, "evaluate": None}
"""A run of the stage filter alone."""
WATCH_S = 4


@pytest.fixture(scope="module")
def shared(kubectl: Kubectl, recipe_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A namespace for all tests of this file; each has an operator of its own."""
    with world(kubectl, recipe_image, tmp_path_factory.mktemp("operator"), start=False) as found:
        yield found


@pytest.fixture
def proxy(shared: World, tmp_path: Path) -> Iterator[ApiProxy]:
    with ApiProxy(shared.operator.kubeconfig, tmp_path).serving() as found:
        yield found


@pytest.fixture
def operator(shared: World, proxy: ApiProxy, tmp_path: Path) -> Iterator[Operator]:
    """An operator behind the proxy, not yet started."""
    options = ("--no-lease", "--watch-timeout", str(WATCH_S))
    found = replace(shared.operator, kubeconfig=proxy.kubeconfig, log=tmp_path / "operator.log", options=options)
    yield found
    found.stop()
    print(found.log.read_text()[-6000:] if found.log.exists() else "not started")


def running(runs: Runs, name: str) -> list[dict[str, Any]]:
    return [pod for pod in runs.pods(name) if pod["status"]["phase"] == "Running"]


def restarts(status: dict[str, Any]) -> dict[str, int]:
    return {name: stage.get("restarts", 0) for name, stage in stages(status).items()}


def test_watches_that_stall_without_a_word_are_given_up_and_runs_go_on(
    shared: World, proxy: ApiProxy, operator: Operator
) -> None:
    runs = shared.runs
    operator.start()
    runs.apply("before", **ONE)
    runs.wait_for("before", "Complete")
    proxy.stall_watches()
    runs.apply("stalled", **ONE)
    status = runs.wait_for("stalled", "Complete", timeout_s=60)
    assert restarts(status) == {"filter": 0}
    assert "Read timed out" in operator.log.read_text()
    assert operator.get("/healthz")[0] == 200


def test_server_that_answers_429_is_left_alone_for_as_long_as_it_asks(
    shared: World, proxy: ApiProxy, operator: Operator
) -> None:
    runs, count, asks_s, busy_s = shared.runs, 6, 4, 10.0
    operator.start()
    wait_until(lambda: operator.get("/readyz")[0] == 200, "the operator")
    names = [runs.apply(f"busy-{number}", **ONE) for number in range(count)]
    began = time.monotonic()
    proxy.fault = lambda request: Fault(429, asks_s) if request.at < began + busy_s else None
    for name in names:
        runs.patch(name, {"activeDeadlineSeconds": 600})
    wait_until(lambda: time.monotonic() > began + busy_s, "the end of the overload")
    refused = [request for request in proxy.since(began) if request.at < began + busy_s]
    rounds = busy_s / asks_s + 1
    callers = 3 + 8  # watches, workers that were on their way already
    assert 0 < len(refused) <= callers * rounds, "no storm"
    for name in names:
        assert restarts(runs.wait_for(name, "Complete", timeout_s=120)) == {"filter": 0}
    assert "TooManyRequests" in operator.get("/metrics")[1]


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_operator_recovers_once_names_can_be_resolved_again(
    shared: World, proxy: ApiProxy, operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    runs, away, name = shared.runs, tmp_path / "no-names", f"nameless-{seconds}"
    monkeypatch.setenv("DIHT_TEST_NO_NAMES", str(away))
    operator = replace(operator, program="tests.cluster.nameless").start()
    try:
        runs.apply(name, {"filter": ["hang", "ok"]}, **ONE)
        wait_until(lambda: (runs.folder / name / "runs/latest/filter/step").exists(), "its first step")
        away.touch()
        proxy.hang_up()
        runs.apply(f"{name}-meanwhile", **ONE)
        time.sleep(seconds)
        assert operator.get("/healthz")[0] == 200, "nothing that a restart could fix"
        assert runs.status(f"{name}-meanwhile") == {}
        away.unlink()
        runs.wait_for(f"{name}-meanwhile", "Complete", timeout_s=60)
        assert restarts(runs.status(name)) == {"filter": 0}
        assert "NameResolutionError" in operator.log.read_text()
    finally:
        operator.stop()
        runs.kubectl("delete", "dihtrun", name, "-n", runs.namespace)


class Etcd:
    """The cluster's etcd and what holds its state in memory."""

    CALLERS = (*(f"node-{n}-kubelet" for n in range(2)), "kube-controller-manager", "kube-scheduler", "kube-apiserver")
    """A kubelet that lives on waits for changes after a revision that the restored etcd reaches much later."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        self._parts, self._copy = parts, folder / "etcd"

    def snapshot(self) -> None:
        """Copy the data while etcd is stopped."""
        self._stop()
        shutil.copytree(CLUSTER / "etcd", self._copy)
        script("up")

    def restore(self) -> None:
        """Put the copy back: all that was written since has not happened."""
        self._stop()
        shutil.rmtree(CLUSTER / "etcd")
        shutil.copytree(self._copy, CLUSTER / "etcd")
        script("up")

    def _stop(self) -> None:
        for part in (*self.CALLERS, "etcd"):
            self._parts.kill(part)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dies", [False, True], ids=["it lives on", "it starts again"])
def test_jobs_are_adopted_after_etcd_was_restored_to_an_older_snapshot(
    shared: World, operator: Operator, parts: Parts, tmp_path: Path, dies: bool
) -> None:
    """Versions go back: what the operator remembers is of a future that did not happen."""
    runs, etcd = shared.runs, Etcd(parts, tmp_path)
    tag = "again" if dies else "on"
    runs.apply(f"running-{tag}", {"filter": ["hang", "ok"]}, **ONE)
    runs.apply(f"later-{tag}", {"filter": ["hang", "ok"]}, **ONE, suspend=True)
    operator.start()
    step = runs.folder / f"running-{tag}/runs/latest/filter/step"
    wait_until(step.exists, "its first step")
    runs.wait_for(f"later-{tag}", "Progressing", "Suspended")
    etcd.snapshot()
    wait_until(lambda: len(running(runs, f"running-{tag}")) == 1, "the run")
    before = runs.children(f"running-{tag}")
    runs.patch(f"later-{tag}", {"suspend": False})
    runs.apply(f"new-{tag}", {"filter": ["hang"]}, **ONE)
    wait_until(lambda: running(runs, f"later-{tag}") and running(runs, f"new-{tag}"), "what the snapshot does not know")
    if dies:
        operator.stop()
    etcd.restore()
    if dies:
        operator.start()
    assert set(before) == {f"running-{tag}-filter-1"}
    wait_until(lambda: runs.status(f"running-{tag}").get("progress"), "the status")
    taken = len(step.read_bytes())
    wait_until(lambda: len(step.read_bytes()) > taken + 20, "that the program continues")
    runs.wait_for(f"later-{tag}", "Progressing", "Suspended")
    assert runs.children(f"running-{tag}") == before, "the same Job"
    assert runs.children(f"later-{tag}") == {}
    runs.patch(f"later-{tag}", {"suspend": False})
    status = runs.wait_for(f"later-{tag}", "Complete", timeout_s=120)
    assert condition(status, "Complete")["status"] == "True"
    assert restarts(runs.status(f"running-{tag}")) == {"filter": 0}
    runs.kubectl("delete", "dihtrun", f"running-{tag}", "-n", runs.namespace)
