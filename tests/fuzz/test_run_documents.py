"""Thousands of run documents, from the text to the objects on a cluster: no crash, no hang, and a line for every
mistake.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest
import yaml

from diht_k8s.api.documents import MAX_PROBLEMS, DocumentProblem, canonical_json, check, dump
from diht_k8s.api.errors import DihtError, UserError
from diht_k8s.api.hashing import sha256_of, stage_config
from diht_k8s.api.run import OPERATOR, DihtRun
from diht_k8s.cli.cluster import planned_objects
from diht_k8s.cli.placement import Machine, place
from tests.fuzz.run_documents import MUTATIONS, SOUND, Case, case
from tests.unit.controller.fake import FakeCluster, Process
from tests.unit.controller.stories import Clock

FEW = 160
MANY = 10_000
PARTS = 10
MAX_SECONDS = 60.0
"""CPU seconds: a hang, not a slow machine."""
MAX_LINE = 2000
LEGITIMATE = ("has no image: give --image", "bytes, a job accepts at most")
"""What planning may still refuse of a valid document: the parts that a cluster alone needs."""


def problem_of(made: Case) -> tuple[str | None, bool]:
    """What went wrong with a case, None if all is well; and whether the document is valid."""
    began = time.process_time()
    try:
        found, valid = _followed(made)
    except Exception as error:  # whatever is not a line for the user
        return f"{type(error).__name__}: {str(error)[:300]}", False
    if time.process_time() - began > MAX_SECONDS:
        return f"took {time.process_time() - began:.1f} s", valid
    return found, valid


def _followed(made: Case) -> tuple[str | None, bool]:
    try:
        run, problems = check(made.text, overrides=made.overrides)
    except UserError as error:
        return (str(error) if made.sound else _of_line(str(error))), False
    if run is None:
        return (f"refused: {problems[0]}" if made.sound else _of_problems(problems)), False
    return _of_run(run), True


def _of_line(text: str) -> str | None:
    return None if text and text.isprintable() and len(text) <= MAX_LINE else f"no line for a person: {text[:300]!r}"


def _of_problems(problems: list[DocumentProblem]) -> str | None:
    if not 1 <= len(problems) <= MAX_PROBLEMS + 1:
        return f"{len(problems)} problems"
    if not all(problem.line or problem.field for problem in problems[:MAX_PROBLEMS]):
        return f"neither line nor field: {problems[0]}"
    return next((found for problem in problems if (found := _of_line(str(problem)))), None)


def _hashes(run: DihtRun) -> list[str]:
    return [sha256_of(stage_config(run.spec, stage, {"a": "b"}, {})) for stage in run.spec.stages]


def _of_run(run: DihtRun) -> str | None:
    again, problems = check(dump(run))
    if again is None:
        return f"its dump is refused: {problems[0]}"
    if (dump(again), _hashes(again)) != (dump(run), _hashes(run)):
        return f"its dump says something else: {dump(run)[:200]} {dump(again)[:200]}"
    place(run, Machine(4), "work")
    try:
        yaml.safe_dump_all(planned_objects(run, "default"))
    except DihtError as error:
        if not any(text in str(error) for text in LEGITIMATE):
            return f"not planned: {error}"
    return _of_cluster(run)


def _of_cluster(run: DihtRun) -> str | None:
    """Reconcile it until some stages have run and one has failed."""
    given = json.loads(canonical_json(run.model_dump(by_alias=True, exclude_unset=True, exclude_none=True)))
    cluster, clock, name = FakeCluster(), Clock(), run.metadata.name
    cluster.add_run(given)
    process, ended = Process(cluster, clock), set[str]()
    for cycle in range(4):
        for _ in range(3):
            process.reconcile(name)
        if name not in cluster.runs:  # it has ended, and its ttlSecondsAfterFinished is over
            return None
        for job in [job for job in cluster.jobs if job not in ended and _pods(cluster.jobs[job]) <= 64]:
            cluster.end(job, 1 if cycle == 3 else 0)
            ended.add(job)
        clock.now += 60.0
    if run.spec.managed_by not in (None, OPERATOR):
        return f"another controller's run is written: {cluster.writes[:4]}" if cluster.writes else None
    conditions = {each["type"]: each for each in cluster.runs[name].get("status", {}).get("conditions", [])}
    return None if "Progressing" in conditions else f"no status: {conditions}"


def _pods(job: dict[str, Any]) -> int:
    return job["spec"]["parallelism"]


def problems(seeds: range) -> tuple[list[str], float]:
    """What went wrong, and the share of valid documents."""
    found, valid = [], 0
    for seed in seeds:
        made = case(seed)
        problem, is_valid = problem_of(made)
        valid += is_valid
        if problem is not None:
            found.append(f"seed {seed} ({made.kind}): {problem}")
    return found, valid / len(seeds)


@pytest.mark.parametrize("part", range(4))
def test_document_is_refused_by_a_line_or_runs(part: int) -> None:
    found, share = problems(range(part * FEW // 4, (part + 1) * FEW // 4))
    assert found == []
    assert share >= 0.4


def test_every_mutation_is_among_the_first_cases() -> None:
    made = Counter(case(seed).kind.partition(" cut")[0] for seed in range(FEW))
    assert len(made) >= len(MUTATIONS) + len(SOUND)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_document_is_refused_by_a_line_or_runs_in_many(part: int) -> None:
    begin = FEW + part * MANY // PARTS
    found, share = problems(range(begin, begin + MANY // PARTS))
    assert found == []
    assert share >= 0.4
