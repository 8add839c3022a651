"""The checks before a run, each with its cost, and `diht validate`.

`validate` pays for what this machine knows, `submit` for the document alone, `run`, `sweep` and `doctor` for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from diht_k8s.api.documents import DocumentProblem, check, located, read_text, security_demands, warnings
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.field_problems import FieldProblem, refuse, text_problems
from diht_k8s.api.named_uris import has_pods, path_problems
from diht_k8s.api.pod_security import level_of
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.stages.train.estimate.gpus import selected_gpu
from diht_k8s.stages.train.model.configurations import learns_in_timm

if TYPE_CHECKING:
    from diht_k8s.stages.filter import CaptionParser


class Cost(IntEnum):
    """What a check takes."""

    DOCUMENT = 0
    """its text and the networks that it names, without weights."""
    MACHINE = 1
    """files of this machine, if they are small."""
    STORAGE = 2
    """what it names, wherever that lies."""


@dataclass(frozen=True)
class Subject:
    """A run that is checked."""

    run: DihtRun
    stages: Sequence[Stage]
    """those that will run."""
    whole: bool = True
    """nothing of it is there yet, so its shards are counted and some captions parsed."""
    cluster: bool | None = False
    """whether pods run it; None where nobody knows."""


class Check(NamedTuple):
    """A check of a run."""

    cost: Cost
    find: Callable[[Subject], Iterable[FieldProblem]]


def _names(subject: Subject) -> list[FieldProblem]:
    """Names that nobody knows."""
    found = text_problems(subject.run.spec)
    every = subject.cluster is not False
    return [each for each in found if every or each.stage in subject.stages]


def _pod_paths(subject: Subject) -> list[FieldProblem]:
    """Paths that pods do not have; doubtful where nobody knows whether pods run it."""
    spec = subject.run.spec
    if subject.cluster is False or (subject.cluster is None and not has_pods(spec)):
        return []
    return [replace(each, certain=each.certain and bool(subject.cluster)) for each in path_problems(spec)]


def _model(subject: Subject) -> Iterator[FieldProblem]:
    """What the training will refuse about `train.model`, beside its name, by the function that refuses it there."""
    train = subject.run.spec.train
    if train is None or Stage.TRAIN not in subject.stages:
        return
    if any(each.field == ("spec", "train", "model") for each in text_problems(subject.run.spec)):
        return
    try:
        timm = learns_in_timm(train)
    except UserError as error:
        yield FieldProblem(("spec", "train", "modelConfig" if train.model is None else "model"), str(error))
        return
    if timm:
        from diht_k8s.inspection.model_checks import timm_problems  # torch and timm: seconds

        yield from timm_problems(train)


def _shards_here(subject: Subject) -> list[FieldProblem]:
    """Patterns of shards that match nothing on this machine."""
    spec = subject.run.spec
    if subject.cluster or has_pods(spec):
        return []
    from diht_k8s.data.shards.storage import Storage
    from diht_k8s.inspection.named_files import absent_shards

    return absent_shards(spec, Storage(spec.storage))


def _files(subject: Subject) -> list[FieldProblem]:
    """Files that are not there or do not fit."""
    from diht_k8s.data.shards.storage import Storage
    from diht_k8s.inspection.named_files import file_problems

    return file_problems(subject.run.spec, Storage(subject.run.spec.storage), subject.stages)


def _data(subject: Subject) -> list[FieldProblem]:
    """Failures that the data of a whole run foretell."""
    if not subject.whole:
        return []
    from diht_k8s.data.shards.storage import Storage
    from diht_k8s.inspection.run_checks import check_run

    def parser() -> CaptionParser:
        from diht_k8s.stages.filter import CaptionParser

        return CaptionParser()

    return check_run(subject.run, Storage(subject.run.spec.storage), parser)


CHECKS: Final = (
    Check(Cost.DOCUMENT, _names),
    Check(Cost.DOCUMENT, _pod_paths),
    Check(Cost.MACHINE, _shards_here),
    Check(Cost.STORAGE, _files),
    Check(Cost.DOCUMENT, _model),
    Check(Cost.MACHINE, _data),
)


def problems(subject: Subject, cost: Cost) -> list[FieldProblem]:
    """What the checks up to a cost find; those whose packages are not installed find nothing.

    Raises:
        RetryableError: the storage does not answer.
    """
    found: list[FieldProblem] = []
    for each in CHECKS:
        if each.cost <= cost and not (
            each.find is _shards_here and cost is Cost.STORAGE
        ):  # `_files` knows it for certain
            try:
                found += each.find(subject)
            except ImportError:
                continue
    return found


def validate_command(
    path: str, overrides: Sequence[str], gpu: str | None = None, *, cluster: bool = False, as_json: bool = False
) -> int:
    """Check a document; prints on stderr what is wrong, will fail, is unwise or needs rights; 0 or 64.

    Whether its training fits on a GPU and its pods' CPUs can feed that is unwise at most: the GPU is `gpu` or that of
    its node selector. So are paths that pods do not have, unless the document is known to be for a cluster.
    """
    text = read_text(path)
    run, wrong = check(text, overrides=overrides)
    found = _Findings(wrong) if run is None else _findings(text, run, gpu, cluster=cluster)
    if as_json:
        print(json.dumps({"valid": not found.problems, **asdict(found)}))
    elif found.problems:
        print("\n".join(f"{path}: {line}" for line in (*found.warnings, *found.problems)), file=sys.stderr)
    else:
        for line in (*found.warnings, *found.demands):
            print(f"{path}: {line}", file=sys.stderr)
    if found.problems or run is None:
        return ExitCode.USER_ERROR
    if not as_json:
        stages, output = ", ".join(run.spec.stages), run.spec.data.output
        print(
            f"{path}: valid: run {run.metadata.name}, stages {stages}, output {output}, Pod Security "
            f"{level_of(run.spec)}"
        )
    return ExitCode.DONE


@dataclass(frozen=True)
class _Findings:
    """Everything to say about a document."""

    problems: list[DocumentProblem]
    """wrong fields, and failures that the data foretell."""
    warnings: list[str] = field(default_factory=list)
    demands: list[DocumentProblem] = field(default_factory=list)
    """fields that need more rights than Pod Security `restricted`."""


def _findings(text: str, run: DihtRun, gpu: str | None, *, cluster: bool) -> _Findings:
    """Those of a document that can be read."""
    found = problems(Subject(run, run.spec.stages, cluster=cluster or None), Cost.MACHINE)
    certain, doubtful = ([each for each in found if each.certain is wanted] for wanted in (True, False))
    # The estimate of a training that is refused says no more than that.
    lacks = [each for each in gpu_warnings(run, gpu) if not any(problem.message in each for problem in certain)]
    unwise = (*warnings(text, run), *located(text, doubtful), *lacks)
    return _Findings(located(text, certain), [f"warning: {each}" for each in unwise], security_demands(text, run))


def stage_problems(run: DihtRun, stages: Sequence[Stage], *, whole: bool) -> list[FieldProblem]:
    """What some stages of a run will fail by here; of a whole run its data are counted.

    Raises:
        RetryableError: the storage does not answer.
    """
    return problems(Subject(run, stages, whole), Cost.STORAGE)


def check_for_cluster(path: str, run: DihtRun) -> None:
    """Check a run that is about to be sent: print on stderr what is unwise, its GPU's memory among it, where that is
    known.

    Raises:
        UserError: it names what does not exist, what its pods do not have, or a model that cannot be trained so; a line
            each.
    """
    found = problems(Subject(run, run.spec.stages, cluster=True), Cost.DOCUMENT)
    refuse(found)
    for warning in (*found, *gpu_warnings(run, None)):
        print(f"{path}: warning: {warning}", file=sys.stderr)


def gpu_warnings(run: DihtRun, gpu: str | None) -> list[str]:
    """Why the training does not fit on a GPU or is not fed; nothing where its GPU is not known.

    Raises:
        UserError: the GPU that was asked for is not known.
    """
    if gpu is None and selected_gpu(run) is None:
        return []
    try:
        from diht_k8s.cli.estimate import training_warnings  # imports torch
    except ImportError:
        if gpu is not None:
            raise
        return ["memory and CPUs of the training are not checked: install the extra recipe"]
    return training_warnings(run, gpu)
