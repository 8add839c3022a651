"""Several runs over one output at once: they share the filter, one gang computes a training, the others wait without
GPUs.

That a zombie gang stays fenced is in `test_training_faults.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.operators import Runs, World, condition, stages, why, world
from tests.cluster.tools import Kubectl, wait_until

pytestmark = pytest.mark.cluster
TRAIN_ALONE = {"filter": None, "label": None, "evaluate": None}
TRAIN = {"model": "ViT-B-16", "samples": 8, "batchSize": 8, "distillation": {"mode": "Disabled"}, "numNodes": 2}
OTHER = "this training is computed by run other, and this run waits for its end"


@pytest.fixture
def runs(kubectl: Kubectl, recipe_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    place: World
    with world(kubectl, recipe_image, tmp_path_factory.mktemp("operator")) as place:
        yield place.runs


def running(runs: Runs, name: str) -> list[str]:
    """The pods of a run that have not ended, without the random end of their names."""
    pods = [pod for pod in runs.pods(name) if pod["status"]["phase"] not in ("Succeeded", "Failed")]
    return sorted(pod["metadata"]["name"].rpartition("-")[0] for pod in pods)


def test_gang_that_finds_its_training_computed_waits_in_one_pod_and_starts_again(runs: Runs) -> None:
    """With stub programs: all that the operator does, suspension in between."""
    name = runs.apply(
        "gives-way", {"train": ["elsewhere", "ok"], "train-wait": ["hang", "ok"]}, **TRAIN_ALONE, train=TRAIN
    )
    found = condition(runs.wait_for(name, "Progressing", "ComputedElsewhere", timeout_s=120), "Progressing")
    assert found["message"] == f"train: {OTHER}"
    assert why(runs, name).splitlines()[0] == f"{name} does not run (ComputedElsewhere): train: {OTHER}"
    wait_until(lambda: running(runs, name) == [f"{name}-wait-2-0"], "one pod that waits", 60)
    runs.wait_begun(name, "train-wait")
    assert "ComputedElsewhere" in runs.kubectl("get", "dihtruns", name, "-n", runs.namespace)
    runs.patch(name, {"suspend": True})
    runs.wait_for(name, "Progressing", "Suspended", timeout_s=120)
    assert running(runs, name) == []
    runs.patch(name, {"suspend": False})
    status = runs.wait_for(name, "Complete", timeout_s=180)
    stage = stages(status)["train"]
    assert (stage["attempt"], stage.get("restarts", 0), status.get("restarts", 0)) == (4, 0, 0)
    assert {f"{name}-wait-3", f"{name}-train-4"} <= runs.children(name).keys()
    assert status["attempts"][0]["reason"] == "ComputedElsewhere"
    assert stage["goodput"].get("lostSeconds", 0) == 0
    assert "Restarting" not in runs.events(name)


MARKER = r"filter/[0-9a-f]{16}/COMMITTED\.json"
