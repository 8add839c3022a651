"""`diht submit`, `watch`, `logs`, `why`, `retry`, `cancel` on a real cluster, as a person calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.operators import World, world
from tests.cluster.tools import Kubectl, KubectlError, cannot, wait_until

pytestmark = pytest.mark.cluster
ONE = {"label": None, "train": None, "evaluate": None}
Diht = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(kubectl: Kubectl, own: bool, recipe_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not own:
        cannot("KUBECONFIG is another cluster's: its pods cannot share a folder of this machine")
    with world(kubectl, recipe_image, tmp_path_factory.mktemp("operator")) as found:
        yield found


@pytest.fixture
def diht(place: World) -> Diht:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "KUBECONFIG": str(place.kubectl.kubeconfig), "COLUMNS": "200"}
        command = [sys.executable, "-m", "diht_k8s.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)

    return call


def write(place: World, tmp_path: Path, name: str, stub: dict[str, Any]) -> str:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(place.runs.document(name, stub, **ONE, failurePolicy={"maxRestarts": 0})))
    return str(path)


def test_run_from_submit_to_cancel(place: World, diht: Diht, tmp_path: Path) -> None:
    where = ("-n", place.namespace)
    file = write(place, tmp_path, "mine", {"filter": [75, "ok"]})
    assert "the cluster accepts it" in diht("submit", file, *where, "--dry-run").stdout
    done = diht("submit", file, *where)
    assert (done.returncode, "submitted run" in done.stdout) == (0, True), done.stderr
    watched = diht("watch", "mine", *where)
    assert watched.returncode == 1
    assert "mine failed (RestartsExhausted): filter: filter was told to end with 75" in watched.stdout
    assert "Started: filter: attempt 1 started" in watched.stdout
    why = diht("status", "mine", *where).stdout
    assert why.splitlines()[0].startswith("mine failed (RestartsExhausted)")
    assert "exit code 75" in why
    assert "| diht: filter was told to end with 75" in why
    logs = diht("logs", "mine", "filter", *where, "--tail", "2")
    assert "diht: filter was told to end with 75: nothing to do\n" in logs.stdout
    assert "resumes where it failed" in diht("retry", "mine", *where).stdout
    wait_until(lambda: place.runs.condition("mine", "Failed").get("status") == "False", "the retry")
    assert diht("watch", "mine", *where).returncode == 0
    assert "mine is complete since" in diht("status", "mine", *where).stdout
    assert diht("retry", "mine", *where).returncode == 64
    assert "is cancelled" in diht("cancel", "mine", *where).stdout
    with pytest.raises(KubectlError, match="not found"):
        place.runs.get("mine")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("watch", "none"), "run NAMESPACE/none: not found: check the name and --namespace"),
        (("submit", "BAD"), "minComplexty: unknown key; did you mean minComplexity?"),
    ],
)
def test_mistake_is_one_line_and_a_user_error(
    place: World, diht: Diht, tmp_path: Path, arguments: tuple[str, str], says: str
) -> None:
    document = place.runs.document("bad", **{**ONE, "filter": {"minComplexty": 1}})
    (tmp_path / "bad.json").write_text(json.dumps(document))
    words = [str(tmp_path / "bad.json") if word == "BAD" else word for word in arguments]
    done = diht(*words, "-n", place.namespace)
    assert done.returncode == 64
    assert says.replace("NAMESPACE", place.namespace) in done.stderr
    assert "Traceback" not in done.stderr


def test_edit_that_comes_too_late_is_refused_with_what_to_do(place: World, diht: Diht, tmp_path: Path) -> None:
    file = write(place, tmp_path, "late", {})
    assert diht("submit", file, "-n", place.namespace).returncode == 0
    place.runs.wait_for("late", "Complete")
    done = diht("submit", file, "-n", place.namespace, "--set", "filter.minComplexity=3")
    assert done.returncode == 64
    assert "delete the run and apply it again" in done.stderr


def test_sweep_submits_a_run_for_each_variant_and_again_changes_nothing(
    place: World, diht: Diht, tmp_path: Path
) -> None:
    where = ("-n", place.namespace)
    sweep = ("sweep", write(place, tmp_path, "swept", {}), "--vary", "filter.minComplexity=1,2", "--submit", *where)
    names = ["swept-mincomplexity-1", "swept-mincomplexity-2"]
    assert diht(*sweep, "--dry-run").stdout.count("accepted run") == 2
    done = diht(*sweep)
    assert (done.returncode, done.stdout.count("submitted run")) == (0, 2), done.stderr
    labels = [place.runs.get(name)["metadata"]["labels"] for name in names]
    assert labels == [{"diht.dev/sweep": "swept"}] * 2
    assert diht(*sweep).stdout.count("unchanged run") == 2
    listed = json.loads(diht("list", *where, "--sweep", "swept", "--json").stdout)
    assert [each["name"] for each in listed] == names
    assert diht("list", *where, "--sweep", "other").stdout.startswith("no runs of the sweep other")


STRANGERS = {
    "no-stage": {"diht.dev/stage": None, "batch.kubernetes.io/job-completion-index": "0"},
    "odd-index": {"batch.kubernetes.io/job-completion-index": "abc"},
    "newest": {"diht.dev/attempt": "99", "batch.kubernetes.io/job-completion-index": "0"},
}
NEVER_PLACED = {
    "nodeSelector": {"example.org/none": "none"},
    "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "main",
            "image": "none.example.org/none:1",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
"""Pods of anybody: what their labels say beside the run, its stage and its attempt."""


def test_pods_that_bear_a_runs_labels_change_nothing_of_what_the_commands_say(
    place: World, diht: Diht, tmp_path: Path
) -> None:
    where = ("-n", place.namespace)
    diht("submit", write(place, tmp_path, "told", {"filter": [75]}), *where)
    diht("watch", "told", *where)
    commands = [("logs", "told"), ("logs", "told", "filter"), ("status", "told"), ("watch", "told")]
    before = [diht(*words, *where) for words in commands]
    for name, more in STRANGERS.items():
        given = {"diht.dev/run": "told", "diht.dev/stage": "filter", "diht.dev/attempt": "1", **more}
        labels = {key: value for key, value in given.items() if value is not None}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": NEVER_PLACED}
        place.kubectl.apply(json.dumps(pod), *where)
    after = [diht(*words, *where) for words in commands]
    told = [[(done.returncode, done.stdout, done.stderr) for done in each] for each in (before, after)]
    assert told[0] == told[1]
    assert "filter was told to end with 75" in before[0].stdout
