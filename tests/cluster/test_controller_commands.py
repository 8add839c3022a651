"""`diht submit`, `watch`, `logs`, `why`, `retry`, `cancel` on a real cluster, as a person calls them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import forked
from tests.cluster.operators import World, world
from tests.cluster.tools import Kubectl, KubectlError, wait_until

pytestmark = pytest.mark.cluster
ONE = {"label": None, "train": None, "evaluate": None}
Diht = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(kubectl: Kubectl, recipe_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(kubectl, recipe_image, tmp_path_factory.mktemp("operator")) as found:
        yield found


@pytest.fixture
def diht(place: World) -> Diht:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return forked.call(*arguments, KUBECONFIG=str(place.kubectl.kubeconfig), COLUMNS="200")

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
    assert (done.returncode, "submitted run" in done.stdout) == (0, True), done.stdout
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
