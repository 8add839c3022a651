"""The cached stages of a run: what the output of each stage depends on, compared with its marker.

Runs as a program of its own (`python -m diht_k8s.cli.cached_stages STAGE [--replace]`, run document in `DIHT_RUN`), so that
`diht run` itself stays small: identifying inputs imports parts of the recipe. The last line that it prints is a JSON list.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import differences, sha256_of, stage_config
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.document import read_run
from diht_k8s.cli.stage import program_of
from diht_k8s.cli.validate import run_problems
from diht_k8s.recipe.runtime.commit import find_committed
from diht_k8s.recipe.runtime.own_inputs import check_own_inputs
from diht_k8s.recipe.runtime.replacement import foreign_files, remove_output
from diht_k8s.recipe.runtime.stage import exit_code_of
from diht_k8s.recipe.runtime.started import newest_started
from diht_k8s.recipe.shards.storage import Storage

MAX_LEFT: Final = 3
"""A person needs a few examples."""


@dataclass(frozen=True)
class StageComparison:
    """A stage's output, compared with the run."""

    stage: str
    cached: bool
    differences: list[str] = field(default_factory=list)
    """fields in which the configuration of the existing output differs; empty if there is no output or it fits."""
    replaced: list[str] = field(default_factory=list)
    """stages whose output was removed because of these differences."""
    left: list[str] = field(default_factory=list)
    """URIs of files in these stages' folders that this project did not write: at most `MAX_LEFT` of them."""
    left_count: int = 0
    """number of all of them."""


def compare_stages(run: DihtRun, first: Stage, *, replace: bool) -> list[StageComparison]:
    """Compare the stages from `first` on, up to the first that is not cached.

    Args:
        run: the run.
        first: the first stage to compare; those before it are committed.
        replace: remove what a stage whose configuration differs, and the run's stages after it, have written.

    Raises:
        UserError: an input lies inside a stage folder of the run's own output, or a run that begins now will fail.
    """
    storage, layout = Storage(run.spec.storage), Layout(run.spec.data.output)
    check_own_inputs(run, storage)
    stages = run.spec.stages[run.spec.stages.index(first) :]
    found: list[StageComparison] = []
    for number, stage in enumerate(stages):
        inputs, programs = program_of(stage).identify(run, storage)
        config = stage_config(run.spec, stage, inputs, programs)
        committed = find_committed(storage, layout, stage)
        if committed is not None and committed.config_sha256 == sha256_of(config):
            found.append(StageComparison(stage, cached=True))
            continue
        started = newest_started(storage, layout, stage)
        before = committed.config if committed is not None else None if started is None else started.config
        lines = [] if before is None else differences(before, config)
        if before is None and number == 0:
            _refuse_failures(run)
        found.append(
            _replaced(storage, layout, stages[number:], lines)
            if lines and replace
            else StageComparison(stage, False, lines)
        )
        break
    return found


def _refuse_failures(run: DihtRun) -> None:
    """Raise UserError before anything is written where a run that begins now will fail."""
    if problems := run_problems(run):
        raise UserError("\n".join(f"{'.'.join(field)}: {message}" for field, message in problems))


def _replaced(storage: Storage, layout: Layout, stages: Sequence[Stage], lines: list[str]) -> StageComparison:
    there = remove_output(storage, layout, stages)
    left = foreign_files(layout, there)
    removed = [files.stage.value for files in there if files.of_stage]
    return StageComparison(stages[0], False, lines, removed, left[:MAX_LEFT], len(left))


def main(arguments: Sequence[str]) -> int:
    """Print what `compare_stages` found; the exit code."""

    def work() -> None:
        found = compare_stages(
            read_run(None, [], os.environ), Stage(arguments[0]), replace="--replace" in arguments[1:]
        )
        print(json.dumps([asdict(item) for item in found]), flush=True)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
