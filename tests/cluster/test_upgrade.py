"""From the frozen release to the next one and back, under runs in every state: the charts by helm, the operators as
processes.

The frozen operator runs from its wheel, the next one is the tree with the changes of `tests.upgrade.releases`; pods run
stub programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.charts import WAIT, Helm, runs_place
from tests.cluster.operators import Operator, Runs, operator_kubeconfig, stages, why
from tests.cluster.tools import PROJECT, Kubectl, KubectlError, cannot, wait_until
from tests.upgrade.releases import CHART, NEW_ANNOTATION, NEW_FIELD, NEXT, VERSION, next_release, unpacked

pytestmark = [pytest.mark.cluster, pytest.mark.exclusive, pytest.mark.timeout(900)]
CRD = "dihtruns.diht.dev"
DEFINITION = str(PROJECT / "manifests/crd/diht.dev_dihtruns.yaml")
FILTER: dict[str, Any] = {"label": None, "train": None, "evaluate": None}
TRAIN: dict[str, Any] = {"filter": None, "label": None, "evaluate": None}
GANG = {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}, "numNodes": 2}
HELD = {"gate": "ok"}
SLOW_START_S = 180
"""A dozen pods import at once."""
STATES = {
    "queued": "Queued",
    "half": "Running",
    "heads": "Running",
    "trains": "Running",
    "in-place": "Running",
    "again": "Running",
    "suspended": "Suspended",
    "paused": "Suspended",
    "failed": "UserError",
    "finished": "Complete",
}
"""A run in every state, and the reason of its condition Progressing."""
ENDS = {
    "queued": ["filter-1"],
    "half": ["filter-1"],
    "heads": ["filter-1", "heads-1", "predict-1", "vocabulary-1"],
    "trains": ["train-1"],
    "in-place": ["train-1"],
    "again": ["filter-1", "filter-2", "filter-3"],
    "suspended": ["filter-1"],
    "paused": ["filter-1", "filter-2"],
    "failed": ["filter-1"],
    "finished": ["filter-1"],
    "fresh": ["filter-1"],
}
"""The Jobs that each run has had as all is over."""
READ = """
import json, sys
from diht_k8s.controller.cache.runs import cached_run
for document in json.load(sys.stdin)["items"]:
    run = cached_run(document)
    run.parsed()
    ends = [[each.name, each.state, each.attempt, each.restarts] for each in run.status.stages]
    print(json.dumps([run.name, run.read.unknown, [each.reason for each in run.status.conditions], ends]))
"""
"""What a release reads of runs."""


@dataclass(frozen=True)
class Place:
    """Runs, helm, and the operators of both releases, of which at most one runs."""

    runs: Runs
    helm: Helm
    old: Operator
    new: Operator
    since: datetime

    def job(self, name: str) -> dict[str, Any]:
        return self.runs.kubectl.read(f"/apis/batch/v1/namespaces/{self.runs.namespace}/jobs/{name}")

    def jobs(self) -> dict[str, str]:
        """UIDs of all Jobs."""
        found = self.runs.kubectl.read(f"/apis/batch/v1/namespaces/{self.runs.namespace}/jobs")["items"]
        return {job["metadata"]["name"]: job["metadata"]["uid"] for job in found}

    def states(self) -> dict[str, str]:
        return {name: self.runs.condition(name, "Progressing")["reason"] for name in STATES}

    def served(self) -> str:
        """The release that the definition is of."""
        return self.runs.kubectl.json("get", "crd", CRD)["metadata"]["annotations"]["diht.dev/version"]

    def restarts_in_place(self) -> int:
        return stages(self.runs.status("in-place"))["train"].get("restartsInPlace", {}).get("total", 0)

    def signal(self, name: str, file: str, count: int) -> None:
        """Let the stub programs of a run go on (`gate`), or say that they were restarted (`restarts`)."""
        (self.runs.folder / name / file).write_bytes(b"x" * count)

    def require_readable(self, *codes: Path) -> None:
        """The API server takes every run as it is, and releases read the same of them, without anything that they do
        not know.
        """
        listed = self.runs.kubectl.json("get", "dihtruns", "--namespace", self.runs.namespace)
        found = json.dumps(listed)
        for run in listed["items"]:
            del run["metadata"]["resourceVersion"]  # the operator may write meanwhile
        written = json.dumps(listed)
        checked = ("replace", "-f", "-", "--dry-run=server", "--validate=strict", "--namespace", self.runs.namespace)
        self.runs.kubectl(*checked, stdin=written)
        self.runs.kubectl(*checked, "--subresource=status", stdin=written)
        read = [
            subprocess.run(
                [sys.executable, "-P", "-c", READ],
                input=found,
                env={**os.environ, "PYTHONPATH": str(code)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for code in codes
        ]
        assert len(set(read)) == 1, read
        assert all(json.loads(line)[1] == [] for line in read[0].splitlines())


@pytest.fixture
def place(helm: str, kubectl: Kubectl, own: bool, recipe_image: str, audit: Any, tmp_path: Path) -> Iterator[Place]:
    """The frozen release, installed, and its operator at work."""
    if not own:
        cannot("KUBECONFIG is another cluster's: its pods cannot share a folder of this machine")
    since = datetime.now(UTC)
    with runs_place(kubectl, recipe_image) as runs:
        command = Helm(helm, kubectl.kubeconfig, runs.namespace)
        command.install(
            "mine",
            "rbac.scope=namespaced",
            "replicas=0",
            "fullnameOverride=diht-operator",
            chart=CHART,
            flags=command.taking_over,
        )
        kubectl.wait_established(CRD)
        lease = ("--lease-namespace", runs.namespace)
        old = Operator(
            runs.namespace,
            operator_kubeconfig(kubectl, runs.namespace, tmp_path),
            tmp_path / "old.log",
            lease,
            code=unpacked(tmp_path / "old"),
        )
        new = replace(old, log=tmp_path / "new.log", code=next_release(tmp_path / "new"))
        try:
            yield Place(runs, command, old.start(), new, since)
        finally:
            for operator in (old, new):
                operator.stop()
                print(operator.log, operator.log.read_text()[-8000:] if operator.log.exists() else "not started")
            command.uninstall_all()
            kubectl("apply", "--server-side", "--force-conflicts", "-f", DEFINITION)


def make_runs_in_every_state(place: Place) -> None:
    """The queue is played by hand: it does to the Job of the run what Kueue does."""
    runs = place.runs
    for name in ("half", "again", "in-place", "trains", "heads"):
        (runs.folder / name).mkdir()
        (runs.folder / name).chmod(0o777)
    worker_1_is_an_attempt_ahead = runs.folder / "half/attempts-filter-1"
    worker_1_is_an_attempt_ahead.write_bytes(b"x")
    worker_1_is_an_attempt_ahead.chmod(0o666)
    runs.apply("half", {"filter": ["ok", HELD]}, **{**FILTER, "filter": {"workers": 2}})
    runs.apply("again", {"filter": [{"gate": 75}, {"gate": 75}, HELD]}, **FILTER)
    runs.apply("in-place", {"train": [HELD]}, **TRAIN, train=GANG, failurePolicy={"restart": "InPlace"})
    runs.apply("trains", {"train": [HELD]}, **TRAIN)
    runs.apply("heads", {"label-heads": [HELD]}, train=None, evaluate=None)
    runs.apply("suspended", suspend=True, **FILTER)
    runs.apply("paused", {"filter": ["hang", "ok"]}, **FILTER)
    runs.apply("failed", {"filter": [64]}, **FILTER)
    runs.apply("finished", **FILTER)
    queued = runs.document("queued", {"filter": ["hang", "ok"]}, **FILTER)
    queued["spec"]["pods"]["queueName"] = "gpus"
    runs.kubectl.apply(json.dumps(queued), "--namespace", runs.namespace)
    for name in ("queued", "paused"):
        runs.wait_for(name, "Progressing", "Running")
        runs.wait_begun(name, "filter")
    suspend = ("--type=merge", "-p", json.dumps({"spec": {"suspend": True}}), "--namespace", runs.namespace)
    runs.kubectl("patch", "job", "queued-filter-1", *suspend)
    runs.kubectl("patch", "dihtrun", "paused", *suspend)
    place.signal("in-place", "restarts", 1)
    for name, reason in STATES.items():
        runs.wait_for(name, "Progressing", reason, timeout_s=SLOW_START_S)
    wait_until(lambda: stages(runs.status("heads")).get("label-heads", {}).get("state") == "Running", "the heads")
    wait_until(lambda: any((runs.folder / "half").glob("filter/*/part-0")), "a part of the filter")
    wait_until(lambda: place.restarts_in_place() == 1, "a restart in place")


def test_upgrade_and_rollback_lose_and_repeat_no_attempt_and_both_operators_read_each_status(
    place: Place, audit: Any
) -> None:
    runs, old, new = place.runs, place.old, place.new
    make_runs_in_every_state(place)
    before = place.jobs()

    place.helm.upgrade("mine", chart=new.code / "helm/diht-operator")
    assert place.served() == NEXT
    ahead = runs.document("ahead", **{**FILTER, "filter": {NEW_FIELD: True}})
    wait_until(lambda: accepted(runs, ahead, "--dry-run=server"), "the new field is served", 30)
    assert accepted(runs, ahead)
    runs.wait_for("ahead", "Accepted", "InvalidSpec")
    assert f"filter.{NEW_FIELD}" in runs.condition("ahead", "Accepted")["message"], "the older operator names it"
    runs.kubectl("delete", "dihtrun", "ahead", "--namespace", runs.namespace)
    place.signal("in-place", "restarts", 2)
    wait_until(lambda: place.restarts_in_place() == 2, "the older operator counts on under the newer definition")

    old.stop()
    new.start()
    living = [name for name, reason in STATES.items() if reason in ("Queued", "Running", "Suspended")]
    wait_until(lambda: all(runs.status(name).get(NEW_FIELD) == NEXT for name in living), "the newer statuses")
    assert (place.jobs(), place.states()) == (before, STATES)
    place.signal("in-place", "restarts", 3)
    place.signal("again", "gate", 1)
    runs.apply("fresh", **FILTER)
    runs.wait_for("fresh", "Complete")
    assert place.job("fresh-filter-1")["metadata"]["annotations"][NEW_ANNOTATION] == NEXT
    wait_until(lambda: stages(runs.status("again"))["filter"]["attempt"] == 2, "the next attempt")
    runs.wait_for("again", "Progressing", "Running")
    wait_until(lambda: place.restarts_in_place() == 3, "the newer operator counts on")
    place.require_readable(old.code, new.code)
    said = why(runs, "in-place", old.code)
    assert said == why(runs, "in-place", new.code) != ""
    before = place.jobs()

    new.stop()
    old.start()
    place.signal("in-place", "restarts", 4)
    wait_until(lambda: place.restarts_in_place() == 4, "the older operator counts on from the newer status")
    assert runs.status("fresh")[NEW_FIELD] == NEXT, "nobody writes a run that has ended"
    place.helm("rollback", "mine", *WAIT)
    wait_until(lambda: serves_the_older_definition(runs), "the older definition is back", 30)
    assert (place.served(), place.jobs(), place.states()) == (VERSION, before, STATES)
    place.require_readable(old.code, new.code)
    require_good_ends(place, audit)
    assert [line for line in old.log.read_text().splitlines() if "unexpected error" in line] == []

    old.stop()
    place.helm("uninstall", "mine", "--wait")
    assert place.served() == VERSION, "the definition stays"
    assert {
        run["metadata"]["name"] for run in runs.kubectl.json("get", "dihtruns", "-n", runs.namespace)["items"]
    } == ENDS.keys()


def accepted(runs: Runs, document: dict[str, Any], *how: str) -> bool:
    try:
        runs.kubectl.apply(json.dumps(document), "--namespace", runs.namespace, "--validate=strict", *how)
    except KubectlError:
        return False
    return True


def serves_the_older_definition(runs: Runs) -> bool:
    try:
        return NEW_FIELD not in runs.status("fresh")
    except KubectlError:  # for a moment after a change of the definition the API server knows no runs at all
        return False


def require_good_ends(place: Place, audit: Any) -> None:
    """Every run goes on to its end, and no Job or pod was made twice."""
    runs = place.runs
    for name in ("suspended", "paused"):
        runs.patch(name, {"suspend": False})
    unsuspend = json.dumps({"spec": {"suspend": False}})
    runs.kubectl("patch", "job", "queued-filter-1", "--namespace", runs.namespace, "--type=merge", "-p", unsuspend)
    for name in ("half", "again", "in-place", "trains", "heads"):
        place.signal(name, "gate", 9)
    for name in ENDS.keys() - {"failed"}:
        runs.wait_for(name, "Complete", timeout_s=SLOW_START_S)
    assert runs.condition("failed", "Failed")["status"] == "True"
    jobs = sorted(f"{name}-{job}" for name, each in ENDS.items() for job in each)
    created = audit(user=place.old.user, since=place.since, verbs=("create",))
    asked = Counter(each["objectRef"]["name"] for each in created if each["objectRef"]["resource"] == "jobs")
    assert asked == Counter(jobs), "each Job is asked for once"
    in_place = stages(runs.status("in-place"))["train"]
    assert (in_place["attempt"], in_place["restartsInPlace"]["total"], in_place.get("restarts", 0)) == (1, 4, 0)
    again = stages(runs.status("again"))["filter"]
    assert (again["attempt"], again["restarts"]) == (3, 2)
    counts = {name: sorted(path.stat().st_size for path in (runs.folder / name).glob("attempts-*")) for name in ENDS}
    assert counts["half"] == [1, 2], "worker 1 had one byte before it began"
    assert counts["again"] == [3]
    assert counts["trains"] == [1]
    assert counts["in-place"] == [1, 1]
