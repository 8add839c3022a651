"""Runs, attempts and records from which the tests of the plan make their situations."""

from __future__ import annotations

from typing import Any

from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.api.status import StageState
from diht_k8s.pipeline.attempts import Attempt, AttemptState
from diht_k8s.pipeline.run_status import RunState, RunStatus, StageRecord

F, L, T, E = Stage
RUNNING, SUCCEEDED = AttemptState.RUNNING, AttemptState.SUCCEEDED
FAILED, PENDING = AttemptState.FAILED, AttemptState.PENDING


def make_run(**spec: Any) -> DihtRun:
    document = {
        "apiVersion": "diht.dev/v1alpha1",
        "kind": "DihtRun",
        "metadata": {"name": "r"},
        "spec": {
            "data": {"sources": [{"name": "web", "shards": ["a.tar"]}], "output": "out"},
            "filter": {},
            "label": {},
            "train": {"model": "ViT-B-16", "samples": 8, "batchSize": 8},
            "evaluate": {"benchmarks": [{"name": "b", "type": "Retrieval", "shards": ["b.tar"]}]},
            **spec,
        },
    }
    return DihtRun.model_validate(document)


def attempt(stage: Stage, number: int, state: AttemptState, code: int | None = None, **more: Any) -> Attempt:
    active = more.pop("active", 1 if state in (RUNNING, PENDING) else 0)
    return Attempt(stage, number, state, active=active, exit_code=code, **more)


def at(*stages: StageRecord, state: RunState = RunState.RUNNING, started_at: float | None = 0.0) -> RunStatus:
    return RunStatus(state=state, started_at=started_at, stages=stages)


DONE_F = StageRecord(F, StageState.COMPLETE, 1)
RUN_F = StageRecord(F, StageState.RUNNING, 1)
RUN_T = StageRecord(T, StageState.RUNNING, 3, restarts=1)
BEFORE_T = (DONE_F, StageRecord(L, StageState.CACHED))
