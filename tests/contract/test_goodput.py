"""Goodput of local runs with injected faults: the parts sum to the wall time, and the simulation predicts them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks._effective_time import DAY, Kind, Setting, Simulation
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from tests.contract.local import DOCUMENT, SHARDS, TESTS, write_run
from tests.recipe.evaluate.small_run import pairs
from tests.stub_programs.stub import SAVED_EACH, STALL_S, STEP_S


@dataclass
class Found:
    wall: float
    attempts: int
    parts: dict[str, float]
    steps: list[tuple[int, float]]
    """number and seconds of each step that was made, in order."""

    @property
    def worked(self) -> float:
        return sum(seconds for _, seconds in self.steps)

    @property
    def counted(self) -> float:
        """Seconds of the steps that were not made again: the last time that each was made."""
        return sum(dict(self.steps).values())


def train(folder: Path, entries: list[dict[str, Any]]) -> Found:
    """A run of one training whose attempts do this, one after another."""
    spec = {**DOCUMENT["spec"], "failurePolicy": {"maxRestarts": 1000}}
    del spec["filter"]
    write_run(folder, {**DOCUMENT, "spec": spec})
    write_samples(
        Storage(), str(folder / SHARDS[0]), pairs(16, 0)
    )  # a training without a filter is checked for enough pairs
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.faulty_run", "run.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
        env={
            **os.environ,
            "DIHT_PROGRAMS": "stub_programs",
            "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
            "DIHT_STUB": json.dumps({"train": entries}),
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["state"] == "Complete", done.stderr
    lines = [line.split() for line in (folder / "out" / "steps").read_text().splitlines()]
    return Found(found["wall"], found["attempts"], found["parts"], [(int(step), float(took)) for step, took in lines])


def require_sums(found: Found, *, unheard_s: float) -> None:
    assert min(found.parts.values()) >= 0
    assert sum(found.parts.values()) == pytest.approx(found.wall, abs=1.0)
    assert found.parts["productive"] == pytest.approx(found.counted, abs=0.5 + unheard_s)
    assert found.parts["lost"] == pytest.approx(found.worked - found.counted, abs=0.5 + unheard_s)


def test_parts_of_a_run_with_faults_sum_to_its_wall_time(tmp_path: Path) -> None:
    ends: list[Any] = [75, "kill", 1]
    found = train(tmp_path, [*({"train": 10, "then": end} for end in ends), {"train": 8, "then": "ok"}])
    assert found.attempts == 4
    require_sums(found, unheard_s=0.5)
    assert found.parts["lost"] > 2 * STEP_S


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_parts_after_30_faults_sum_to_the_wall_time_and_the_simulation_predicts_them(tmp_path: Path) -> None:
    rng = random.Random(19)
    steps = [rng.randrange(20, 120) for _ in range(30)]
    entries = [{"train": each, "then": 75 if each % 3 else 1} for each in steps]
    found = train(tmp_path, [*entries, {"train": 60, "then": "ok"}])
    assert found.attempts == 31
    require_sums(found, unheard_s=0.0)
    starting, recovering = (found.parts[name] / each for name, each in (("starting", 31), ("recovering", 30)))
    step_s = found.worked / len(found.steps)
    setting = Setting(
        gpus=8,
        days=found.counted / DAY,
        startup_s=starting,
        checkpoint_s=SAVED_EACH * step_s,
        stall_s=found.parts["checkpointing"] * SAVED_EACH / len(found.steps),
        commit_s=0.0,
        spares=1000,
        faults_s=tuple(each * step_s for each in steps),
        mix=(Kind(1.0, recovering),),
        policy={"maxRestarts": 1000},
        first_wait_s=0.0,
    )
    assert setting.stall_s == pytest.approx(STALL_S, rel=1.0)
    predicted = Simulation(setting, seed=0).execute()
    measured = found.parts["productive"] / found.wall
    print(f"measured {measured:.4f}, predicted {predicted.effective:.4f}, {found.parts}")
    assert predicted.failures == 30
    assert predicted.effective == pytest.approx(measured, abs=0.02)
