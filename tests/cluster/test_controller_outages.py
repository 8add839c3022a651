"""The operator, the API server or a node is away for a while: what happens meanwhile is made good, and nothing
twice.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import Operator, Runs, World, world
from tests.cluster.tools import PATIENCE, Kubectl, KubectlError, Parts, wait_until
from tests.ports import free_port

pytestmark = pytest.mark.cluster
ONE = {"label": None, "train": None, "evaluate": None}
"""A run of the stage filter alone."""
TRAIN = {"filter": None, "label": None, "evaluate": None}
"""A run of the stage train alone."""


@pytest.fixture
def place(kubectl: Kubectl, recipe_image: str, tmp_path: Path) -> Iterator[World]:
    """A namespace with an operator, which the test may break."""
    with contextlib.suppress(KubectlError), world(kubectl, recipe_image, tmp_path) as found:
        yield found


def running(runs: Runs, name: str) -> list[dict[str, Any]]:
    return [pod for pod in runs.pods(name) if pod["status"]["phase"] == "Running"]


def test_operator_that_was_away_catches_up(place: World) -> None:
    runs, operator = place.runs, place.operator
    runs.apply("ends", {"filter": ["ok"]}, **ONE)
    for name in ("paused", "deleted"):
        runs.apply(name, {"filter": ["hang"]}, **ONE)
    wait_until(lambda: all(running(runs, name) for name in ("paused", "deleted")), "the runs")
    operator.kill()
    runs.patch("paused", {"suspend": True})
    runs.kubectl("delete", "dihtrun", "deleted", "-n", runs.namespace)
    wait_until(lambda: (runs.folder / "ends/runs/latest/filter/COMMITTED.json").exists(), "the end of the first run")
    wait_until(lambda: runs.children("deleted") == {}, "the end of the deleted run's Jobs")
    operator.start()
    runs.wait_for("ends", "Complete")
    status = runs.wait_for("paused", "Progressing", "Suspended")
    assert status["observedGeneration"] == 2
    assert runs.gone("deleted")


@pytest.mark.parametrize(
    ("finished", "active", "seconds"),
    [(1, 2, 15), pytest.param(20, 5, 60, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])],
)
def test_idle_operator_writes_progress_of_what_runs_and_nothing_else(
    place: World, audit: Any, finished: int, active: int, seconds: int
) -> None:
    runs, names = place.runs, [f"runs-{index}" for index in range(active)]
    for index in range(finished):
        runs.apply(f"done-{index}", **ONE)
    for index in range(finished):
        runs.wait_for(f"done-{index}", "Complete", timeout_s=90 + 15 * finished)
    for name in names:
        runs.apply(name, {"filter": ["hang"]}, **ONE)
    wait_until(lambda: all(runs.status(name).get("progress", {}).get("metrics") for name in names), "progress", 180)
    since = datetime.now(UTC)
    time.sleep(seconds)
    written = [
        (event["objectRef"]["name"], event["objectRef"]["resource"], event["objectRef"].get("subresource"))
        for event in audit(user=place.operator.user, since=since)
    ]
    assert set(written) == {(name, "dihtruns", "status") for name in names}
    most = (datetime.now(UTC) - since).total_seconds() // 10 + 1
    assert len(written) <= active * most, "no more than one write each 10 s"


def test_namespace_deleted_in_the_middle_of_a_run_is_gone_soon(place: World) -> None:
    runs = place.runs
    runs.apply(
        "r",
        {"train": ["hang"]},
        **TRAIN,
        train={"model": "ViT-B-16", "samples": 8, "batchSize": 8, "numNodes": 2, "distillation": {"mode": "Disabled"}},
    )
    wait_until(lambda: len(running(runs, "r")) == 2, "the gang")
    runs.kubectl("delete", "namespace", runs.namespace, "--wait=false")

    def gone() -> bool:
        try:
            runs.kubectl("get", "namespace", runs.namespace)
        except KubectlError:
            return True
        return False

    wait_until(gone, "the end of the namespace", 60)
    assert place.operator.get("/healthz")[0] == 200


def leads(operator: Operator) -> bool:
    return "diht_operator_leader 1.0" in operator.get("/metrics")[1]


def test_second_replica_takes_over_and_the_first_writes_nothing_more(
    kubectl: Kubectl, recipe_image: str, tmp_path: Path
) -> None:
    with world(kubectl, recipe_image, tmp_path, start=False) as place:
        options = ("--lease-namespace", place.namespace)
        first = replace(place.operator, options=options).start()
        wait_until(lambda: leads(first), "the first replica")
        second = replace(first, port=free_port(), log=tmp_path / "second.log", process=None).start()
        try:
            wait_until(lambda: second.get("/readyz")[0] == 200, "the second replica")
            assert not leads(second)
            wait_until(lambda: "this replica stands by: " in second.log.read_text(), "that the second replica says so")
            assert "ok: stands by, " in second.get("/readyz")[1]
            assert "ok: acts" in first.get("/readyz")[1]
            assert first.process is not None
            first.process.send_signal(signal.SIGSTOP)
            place.runs.apply("r", **ONE)
            wait_until(lambda: leads(second), "the second replica")
            first.process.send_signal(signal.SIGCONT)
            assert first.process.wait(20 * PATIENCE) == 1, "it has lost the lease"
            place.runs.wait_for("r", "Complete")
            assert list(place.runs.children("r")) == ["r-filter-1"]
        finally:
            second.stop()
            first.kill()


@pytest.mark.slow
def test_api_server_that_was_away_finds_the_status_true_soon_after(place: World, parts: Parts) -> None:
    runs = place.runs
    runs.apply("r", {"filter": ["hang", "ok"]}, **ONE)
    wait_until(lambda: (runs.folder / "r/runs/latest/filter/step").exists(), "its first step")
    process = place.operator.process
    parts.kill("kube-apiserver")
    before = len((runs.folder / "r/runs/latest/filter/step").read_bytes())
    time.sleep(60)
    assert len((runs.folder / "r/runs/latest/filter/step").read_bytes()) > before, "the program continues"
    assert place.operator.get("/healthz")[0] == 200, "nothing that a restart could fix"
    parts.restore()
    back = datetime.now(UTC)
    wait_until(lambda: updated(runs, "r") >= back, "a true status", 30)
    assert process is not None
    assert process.poll() is None
    assert runs.status("r").get("restarts", 0) == 0


def updated(runs: Runs, name: str) -> datetime:
    return datetime.fromisoformat(runs.status(name)["progress"].get("lastUpdatedTime", "2000-01-01T00:00:00Z"))
