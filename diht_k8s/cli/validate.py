"""`diht validate`: what is wrong with a run document, will fail, is unwise, or needs rights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from diht_k8s.api.documents import DocumentProblem, check, located, read_text, security_demands, warnings
from diht_k8s.api.errors import ExitCode
from diht_k8s.api.pod_security import level_of
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.train.estimate.gpus import selected_gpu

if TYPE_CHECKING:
    from diht_k8s.recipe.filter import CaptionParser


def validate_command(path: str, overrides: Sequence[str], gpu: str | None = None, *, as_json: bool = False) -> int:
    """Check a document; prints on stderr what is wrong, will fail, is unwise or needs rights; 0 or 64.

    Whether its training fits on a GPU and its pods' CPUs can feed that is unwise at most: the GPU is `gpu` or that of its
    node selector.
    """
    text = read_text(path)
    run, problems = check(text, overrides=overrides)
    found = _Findings(problems) if run is None else _findings(text, run, gpu)
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


def _findings(text: str, run: DihtRun, gpu: str | None) -> _Findings:
    """Those of a document that can be read."""
    unwise = [f"warning: {warning}" for warning in (*warnings(text, run), *_gpu_warnings(run, gpu))]
    return _Findings(located(text, run_problems(run)), unwise, security_demands(text, run))


def run_problems(run: DihtRun) -> list[tuple[tuple[str, ...], str]]:
    """Failures of a run that its local data foretell; empty without the packages of the recipe."""
    try:
        from diht_k8s.recipe.inspection.run_checks import check_run
        from diht_k8s.recipe.shards.storage import Storage
    except ImportError:
        return []

    def parser() -> CaptionParser:
        from diht_k8s.recipe.filter import CaptionParser

        return CaptionParser()

    return check_run(run, Storage(run.spec.storage), parser)


def warn_of_gpu(path: str, run: DihtRun, gpu: str | None = None) -> None:
    """Print on stderr why the training does not fit on its GPU or is not fed, where its GPU is known.

    Raises:
        UserError: the GPU that was asked for is not known.
    """
    for warning in _gpu_warnings(run, gpu):
        print(f"{path}: warning: {warning}", file=sys.stderr)


def _gpu_warnings(run: DihtRun, gpu: str | None) -> list[str]:
    if gpu is None and selected_gpu(run) is None:
        return []
    try:
        from diht_k8s.cli.estimate import gpu_warnings  # imports torch
    except ImportError:
        if gpu is not None:
            raise
        return ["memory and CPUs of the training are not checked: install the extra recipe"]
    return gpu_warnings(run, gpu)
