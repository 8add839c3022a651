"""The cached stages of a run: the folder that each stage finds, and what is there.

Runs as a program of its own (`python -m diht_k8s.cli.cached_stages`, run document in `DIHT_RUN`), so that `diht run`
itself stays small: identifying inputs imports parts of the recipe. The last line that it prints is a JSON list.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from diht_k8s.api.errors import DihtError, UserError
from diht_k8s.api.hashing import differences
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.document import read_run
from diht_k8s.cli.stage import program_of
from diht_k8s.cli.validate import run_problems
from diht_k8s.recipe.runtime.commit import find_committed
from diht_k8s.recipe.runtime.own_inputs import check_own_inputs
from diht_k8s.recipe.runtime.run_folder import layout_at, point, read_document, run_layout, write_document
from diht_k8s.recipe.runtime.stage import exit_code_of, locate
from diht_k8s.recipe.runtime.started import find_started
from diht_k8s.recipe.shards.storage import Storage


@dataclass(frozen=True)
class StageFolder:
    """What lies in the folder of a stage."""

    stage: str
    state: Literal["cached", "begun", "new"]
    differences: list[str] = field(default_factory=list)
    """Of a new one: fields in which it differs from the stage of the run that was here last. Of a cached one: fields of
    placement in which this run differs from its start before."""


def stage_folders(run: DihtRun) -> list[StageFolder]:
    """The stages of a run from the first one on, up to the first that is not cached; pointers are set to those that are.

    Raises:
        UserError: an input lies where a stage writes, or a run that begins now will fail.
    """
    storage = Storage(run.spec.storage)
    check_own_inputs(run, storage)
    layout, before = run_layout(run, storage), layout_at(storage, run.spec.data.output)
    earlier = read_document(run, storage)
    found: list[StageFolder] = []
    for stage in run.spec.stages:
        layout, config = locate(program_of(stage), run, storage, layout, stage)
        if find_committed(storage, layout, stage) is None:
            if (started := find_started(storage, layout, stage)) is None and not found:
                _refuse_failures(run)
            state = "new" if started is None else "begun"
            found.append(StageFolder(stage, state, [] if started else _differences(storage, before, stage, config)))
            break
        point(run, storage, layout, stage)
        found.append(StageFolder(stage, "cached", _moved(earlier, run, stage)))
    if earlier != run:
        write_document(run, storage, replace=True)
    return found


def _moved(earlier: DihtRun | None, run: DihtRun, stage: Stage) -> list[str]:
    """What differs from the start before, which is placement: the folder is the same."""
    if earlier is None:
        return []
    before, after = (
        {stage.value: getattr(each.spec, stage.value).model_dump(mode="json", by_alias=True)} for each in (earlier, run)
    )
    return [line.replace(": ", " ", 1) for line in differences(before, after)]


def _differences(storage: Storage, before: Layout, stage: Stage, config: dict[str, Any]) -> list[str]:
    try:
        started = find_started(storage, before, stage)
    except DihtError:
        return []
    lines = [] if started is None else differences(started.config, config)
    return [line.replace("config.", f"{stage.value}.", 1).replace(": ", " ", 1) for line in lines]


def _refuse_failures(run: DihtRun) -> None:
    """Raise UserError before anything is written where a run that begins now will fail."""
    if problems := run_problems(run):
        raise UserError("\n".join(f"{'.'.join(field)}: {message}" for field, message in problems))


def main() -> int:
    """Print what `stage_folders` found; the exit code."""

    def work() -> None:
        print(json.dumps([asdict(each) for each in stage_folders(read_run(None, [], os.environ))]), flush=True)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
