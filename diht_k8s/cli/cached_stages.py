"""Which stages are cached: compares what the output of each stage depends on with what is committed.

Runs as a program of its own (`python -m diht_k8s.cli.cached_stages STAGE [--replace]`, run document in `DIHT_RUN`), so that
`diht run` itself stays small: identifying inputs imports parts of the recipe. The last line that it prints is a JSON list.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from diht_k8s.api.hashing import differences, sha256_of, stage_config
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.cli.document import read_run
from diht_k8s.cli.stage import program_of
from diht_k8s.recipe.runtime.commit import find_committed
from diht_k8s.recipe.runtime.stage import exit_code_of
from diht_k8s.recipe.shards.storage import Storage

KEPT_FOLDERS = {Stage.FILTER: frozenset({"scores"})}
"""What survives --replace: scores carry their own digest, and other thresholds reuse them."""


@dataclass(frozen=True)
class FoundStage:
    """What lies in a stage's folder."""

    stage: str
    cached: bool
    differences: list[str] = field(default_factory=list)
    """fields in which the configuration of the existing output differs; empty if there is no output or it fits."""
    replaced: list[str] = field(default_factory=list)
    """stages whose output was removed because of these differences."""


def inspect(run: DihtRun, first: Stage, *, replace: bool) -> list[FoundStage]:
    """Compare the stages from `first` on, up to the first that is not cached.

    Args:
        run: the run.
        first: the first stage to compare; those before it are committed.
        replace: remove the output of a stage whose configuration differs, and of those after it.
    """
    storage, layout = Storage(run.spec.storage), Layout(run.spec.data.output)
    stages = run.spec.stages[run.spec.stages.index(first) :]
    found: list[FoundStage] = []
    for stage in stages:
        inputs, programs = program_of(stage).identify(run, storage)
        config = stage_config(run.spec, stage, inputs, programs)
        committed = find_committed(storage, layout, stage)
        if committed is not None and committed.config_sha256 == sha256_of(config):
            found.append(FoundStage(stage, cached=True))
            continue
        before = committed.config if committed is not None else _started(storage, layout, stage)
        lines = [] if before is None else differences(before, config)
        found.append(FoundStage(stage, False, lines, _remove(storage, layout, stage) if lines and replace else []))
        break
    return found


def _started(storage: Storage, layout: Layout, stage: Stage) -> Any:
    uri = layout.started(stage)
    return json.loads(storage.read_bytes(uri)) if storage.exists(uri) else None


def _remove(storage: Storage, layout: Layout, first: Stage) -> list[str]:
    """Remove the output of a stage and of all later ones, markers first: a partially removed output has no marker."""
    stages = [stage for stage in Stage if list(Stage).index(stage) >= list(Stage).index(first)]
    removed: list[str] = []
    for stage in stages:
        folder = layout.stage(stage)
        names, folders = storage.names(folder), storage.folders(folder)
        if not names and not folders:
            continue
        storage.remove(layout.committed(stage))
        for name in [*names, *(name for name in folders if name not in KEPT_FOLDERS.get(stage, ()))]:
            storage.remove(join(folder, name))
        removed.append(stage.value)
    storage.remove(layout.run_document)
    return removed


def main(arguments: Sequence[str]) -> int:
    """Print what `inspect` found; the exit code."""

    def work() -> None:
        found = inspect(read_run(None, [], os.environ), Stage(arguments[0]), replace="--replace" in arguments[1:])
        print(json.dumps([asdict(item) for item in found]), flush=True)

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
