"""`diht validate`: what is wrong with a run document, will fail, is unwise, or needs rights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from diht_k8s.api.documents import DocumentProblem, check, located, read_text, security_demands, warnings
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.field_problems import FieldProblem, refuse, text_problems
from diht_k8s.api.pod_paths import has_pods, path_problems
from diht_k8s.api.pod_security import level_of
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.stages.train.estimate.gpus import selected_gpu
from diht_k8s.stages.train.model.configurations import learns_in_timm

if TYPE_CHECKING:
    from diht_k8s.stages.filter import CaptionParser


def validate_command(
    path: str, overrides: Sequence[str], gpu: str | None = None, *, cluster: bool = False, as_json: bool = False
) -> int:
    """Check a document; prints on stderr what is wrong, will fail, is unwise or needs rights; 0 or 64.

    Whether its training fits on a GPU and its pods' CPUs can feed that is unwise at most: the GPU is `gpu` or that of its
    node selector. So are paths that pods do not have, unless the document is known to be for a cluster.
    """
    text = read_text(path)
    run, problems = check(text, overrides=overrides)
    found = _Findings(problems) if run is None else _findings(text, run, gpu, cluster=cluster)
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
            f"{path}: valid: run {run.metadata.name}, stages {stages}, output {output}, Pod Security {level_of(run.spec)}"
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
    named, paths = text_problems(run.spec), path_problems(run.spec) if cluster or has_pods(run.spec) else []
    wrong = [each for each in named if each.certain] + [each for each in paths if each.certain and cluster]
    absent = [] if cluster or has_pods(run.spec) else shard_problems(run)
    doubtful = [each for each in (*named, *paths, *absent) if each not in wrong]
    certain = [*wrong, *run_problems(run), *model_problems(run)]
    # The estimate of a training that is refused says no more than that.
    lacks = [each for each in gpu_warnings(run, gpu) if not any(problem.message in each for problem in certain)]
    unwise = (*warnings(text, run), *located(text, doubtful), *lacks)
    return _Findings(located(text, certain), [f"warning: {each}" for each in unwise], security_demands(text, run))


def run_problems(run: DihtRun) -> list[FieldProblem]:
    """Failures of a run that its local data foretell; empty without the packages of the recipe."""
    try:
        from diht_k8s.data.shards.storage import Storage
        from diht_k8s.inspection.run_checks import check_run
    except ImportError:
        return []

    def parser() -> CaptionParser:
        from diht_k8s.stages.filter import CaptionParser

        return CaptionParser()

    return check_run(run, Storage(run.spec.storage), parser)


def shard_problems(run: DihtRun) -> list[FieldProblem]:
    """Patterns of shards that match nothing here; none without the packages of the recipe."""
    try:
        from diht_k8s.data.shards.storage import Storage
        from diht_k8s.inspection.named_files import absent_shards
    except ImportError:
        return []
    return absent_shards(run.spec, Storage(run.spec.storage))


def model_problems(run: DihtRun) -> list[FieldProblem]:
    """What the start of a run's training will refuse about its model, beside what the document's text shows; none without torch."""
    try:
        if run.spec.train is None or not learns_in_timm(run.spec.train):
            return []
        from diht_k8s.inspection.model_checks import timm_problems  # torch and timm: seconds
    except (ImportError, UserError):  # an unknown name: its own field says so
        return []
    return timm_problems(run.spec.train)


def stage_problems(run: DihtRun, stages: Sequence[Stage], *, whole: bool) -> list[FieldProblem]:
    """What some stages of a run will fail by here: names, files and, of a whole run, its data.

    Args:
        run: the run.
        stages: that will run.
        whole: nothing of it is there yet, so its shards are counted and some captions parsed.

    Raises:
        RetryableError: the storage does not answer.
    """
    from diht_k8s.data.shards.storage import Storage
    from diht_k8s.inspection.named_files import file_problems

    named = [each for each in text_problems(run.spec) if each.stage in stages]
    files = file_problems(run.spec, Storage(run.spec.storage), stages)
    model = model_problems(run) if Stage.TRAIN in stages else []
    return [*named, *files, *model, *(run_problems(run) if whole else [])]


def check_for_cluster(path: str, run: DihtRun) -> None:
    """Check a run that is about to be sent: print on stderr what is unwise, its GPU's memory among it, where that is known.

    Raises:
        UserError: it names what does not exist, what its pods do not have, or a model that cannot be trained so; a line each.
    """
    found = [*text_problems(run.spec), *path_problems(run.spec), *model_problems(run)]
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
