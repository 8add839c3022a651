"""Run documents of the command line, from a file or the environment variable `DIHT_RUN`; and `diht validate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from diht_k8s.api.documents import check, load, located, read_text, security_demands, warnings
from diht_k8s.api.errors import ExitCode, UserError
from diht_k8s.api.pod_demands import level_of
from diht_k8s.api.run import DihtRun
from diht_k8s.recipe.train.estimate.gpus import selected_gpu

if TYPE_CHECKING:
    from diht_k8s.recipe.filter import CaptionParser


def read_run(path: str | None, overrides: Sequence[str], environment: Mapping[str, str]) -> DihtRun:
    """The run of a file, or of `DIHT_RUN` if no file is given.

    Raises:
        UserError: no document, or a wrong one.
    """
    if path is not None:
        return load(read_text(path), name=path, overrides=overrides)
    if "DIHT_RUN" not in environment:
        raise UserError("no run document: give --run FILE, or set DIHT_RUN to one")
    return load(environment["DIHT_RUN"], name="DIHT_RUN", overrides=overrides)


def output_of(place: str, overrides: Sequence[str] = ()) -> str | None:
    """The output folder that a place means: a run document's, or the folder itself; None for any other file.

    Raises:
        UserError: the run document is wrong.
    """
    if place.endswith((".yaml", ".yml")) or (place.endswith(".json") and '"DihtRun"' in _beginning(place)):
        return read_run(place, overrides, {}).spec.data.output
    return None if place.endswith(".json") else place


def _beginning(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096)
    except OSError:  # an s3:// URI, or nothing
        return ""


def validate_command(path: str, overrides: Sequence[str], gpu: str | None = None) -> int:
    """Check a document; prints on stderr what is wrong, will fail, is unwise or needs rights; 0 or 64.

    Whether its training fits on a GPU and its pods' CPUs can feed that is unwise at most: the GPU is `gpu` or that of its
    node selector.
    """
    text = read_text(path)
    run, problems = check(text, overrides=overrides)
    if run is None:
        print("\n".join(f"{path}: {problem}" for problem in problems), file=sys.stderr)
        return ExitCode.USER_ERROR
    for warning in warnings(text, run):
        print(f"{path}: warning: {warning}", file=sys.stderr)
    warn_of_gpu(path, run, gpu)
    if failing := located(text, foreseen_problems(run)):
        print("\n".join(f"{path}: {problem}" for problem in failing), file=sys.stderr)
        return ExitCode.USER_ERROR
    for demand in security_demands(text, run):
        print(f"{path}: {demand}", file=sys.stderr)
    stages, level = ", ".join(run.spec.stages), level_of(run.spec)
    print(
        f"{path}: valid: run {run.metadata.name}, stages {stages}, output {run.spec.data.output}, Pod Security {level}"
    )
    return ExitCode.DONE


def foreseen_problems(run: DihtRun) -> list[tuple[tuple[str, ...], str]]:
    """What will fail in a run, by its data as far as that is local; empty without the packages of the recipe."""
    try:
        from diht_k8s.recipe.first_look.foresee import foreseen
        from diht_k8s.recipe.shards.storage import Storage
    except ImportError:
        return []

    def parser() -> CaptionParser:
        from diht_k8s.recipe.filter import CaptionParser

        return CaptionParser()

    return foreseen(run, Storage(run.spec.storage), parser)


def warn_of_gpu(path: str, run: DihtRun, gpu: str | None = None) -> None:
    """Print on stderr why the training does not fit on its GPU or is not fed, where its GPU is known.

    Raises:
        UserError: the GPU that was asked for is not known.
    """
    if gpu is None and selected_gpu(run) is None:
        return
    try:
        from diht_k8s.cli.estimate import gpu_warnings  # imports torch
    except ImportError:
        if gpu is not None:
            raise
        print(f"{path}: memory and CPUs of the training are not checked: install the extra recipe", file=sys.stderr)
        return
    for warning in gpu_warnings(run, gpu):
        print(f"{path}: warning: {warning}", file=sys.stderr)
