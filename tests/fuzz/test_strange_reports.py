"""Programs that report anything, and statuses with anything that the CRD lets through: the run goes on, what is written
is valid.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Sequence
from typing import Any, Final

import pytest
from jsonschema import Draft7Validator

from diht_k8s.api.reports import PROGRESS_PREFIX
from diht_k8s.api.schema import crd
from diht_k8s.api.status_reading import read_status
from diht_k8s.cli.status_sentences import details, sentence
from diht_k8s.controller.reconcile import InternalError
from tests.fuzz.strange_values import mutated
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock, make

FEW: Final = range(80, 110)
"""With the one in which a report of rounds at the largest step that a status held ended the reconciliation."""
MANY: Final = [seed for seed in range(150) if seed not in FEW]
_CRD: Final = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
ACCEPTED: Final = Draft7Validator(_CRD)
"""What an API server accepts as a status, but for the keys of lists."""
CHECKPOINT: Final = {"step": 40, "uri": "s3://corpus/run/train/step-40", "time": 1_800_000_000, "seconds": 100}
ROUNDS: Final = {"round": 2, "exit_code": 75, "message": "m", "node": 0, "host": "h", "step": 41}
SPENT: Final = {
    "starting": 3.0,
    "steps": 90.0,
    "lost": 1.0,
    "resumed": 0.0,
    "path": 90.0,
    "kept": 80.0,
    "start_up": {"imports": 2.0, "pod": 1.0},
}
PREFLIGHT: Final = [
    {"node": "n", "pod": "p", "gpus": 8, "shared_memory_mib": 64, "output_seconds": 0.5, "problem": "slow"}
]
SHARED: Final = {"checkpoint": CHECKPOINT, "rounds": ROUNDS, "time_spent": SPENT, "preflight": PREFLIGHT, "worker": 0}
PROGRESS: Final = {
    "stage": "train",
    "step": "epoch 1",
    "done": 40,
    "total": 80,
    "unit": "steps",
    "per_second": 1.5,
    "eta_seconds": 40,
    "metrics": {"loss": 0.5, "lr": 1e-3},
    "shards": {"count": 3, "seconds": 10},
    **SHARED,
}
CAUSE: Final = {
    "exit_code": 75,
    "reason": "RetryableError",
    "message": "m",
    "step": 41,
    "output": "s3://corpus/run/train/0123456789abcdef",
    **SHARED,
}


def said(document: Any, rng: random.Random) -> str:
    """A report as JSON, with a number now and then that is too large for any type."""
    text = json.dumps(mutated(document, rng))
    return text.replace("40", "4" + "0" * 400, 1) if rng.random() < 0.1 else text


def report(cluster: FakeCluster, rng: random.Random) -> None:
    """Programs run or end, and say something."""
    for name in list(cluster.jobs):
        stage = cluster.jobs[name]["metadata"]["labels"]["diht.dev/stage"].split("-")[0]
        if rng.random() < 0.5:
            cluster.run_pods(name)
        else:
            cluster.end(name, rng.choice([0, 0, 64, 75, 137, 70]), message=said(CAUSE, rng))
        line = said({**PROGRESS, "stage": stage}, rng)[1:]
        cluster.logs |= dict.fromkeys(cluster.pods, f"{PROGRESS_PREFIX},{line}\n")


def accepted(status: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The status with strange values that an API server accepts."""
    for _ in range(20):
        found = mutated(status, rng)
        if _is_json(found) and ACCEPTED.is_valid(found):
            return found
    return status


def _is_json(value: Any) -> bool:
    """Whether an API server can read a value: no NaN, and no name twice in a list of named objects."""
    if isinstance(value, float):
        return math.isfinite(value)
    if not isinstance(value, dict | list):
        return True
    inner = list(value.values()) if isinstance(value, dict) else value
    named = [str(each.get("name", each.get("type"))) for each in inner if isinstance(each, dict)]
    return all(map(_is_json, inner)) and (isinstance(value, dict) or "None" in named or len(set(named)) == len(named))


@pytest.mark.parametrize("seeds", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("strange", ["status", "reports"])
def test_run_goes_on_whatever_its_programs_report_and_others_write_into_its_status(
    strange: str, seeds: Sequence[int], caplog: pytest.LogCaptureFixture
) -> None:
    broken: dict[int, str] = {}
    repaired = 0
    for seed in seeds:
        rng, cluster, clock = random.Random(f"{strange}/{seed}"), make(failurePolicy={"maxRestarts": 3}), Clock()
        process = Process(cluster, clock)
        try:
            for _ in range(12):
                caplog.clear()
                if strange == "status" and rng.random() < 0.5:
                    run = cluster.runs["r"]
                    run["status"] = accepted(run.get("status") or {}, rng)
                    cluster.version += 1
                    run["metadata"]["resourceVersion"] = str(cluster.version)
                process.reconcile()
                lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
                repaired += len(lines)
                assert len(lines) <= 1, lines
                process.reconcile()
                written = cluster.runs["r"].get("status") or {}
                for error in ACCEPTED.iter_errors(written):
                    raise AssertionError(f"{list(error.path)}: {error.message[:200]}")
                seen = read_status(written).status
                assert sentence("r", seen)
                details(seen)
                clock.now += rng.choice([1.0, 30.0, 1000.0])
                report(cluster, rng)
        except (InternalError, AssertionError) as error:
            broken[seed] = f"{type(error).__name__}: {error}"[:300]
    assert broken == {}
    assert bool(repaired) == (strange == "status")
