"""Stage folders of an output, for tests that look into them or put something there."""

from __future__ import annotations

from pathlib import Path

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.recipe.runtime.run_folder import layout_at, point, write_document
from diht_k8s.recipe.shards.storage import Storage


def located(output: str | Path, storage: Storage | None = None) -> Layout:
    """An output with the stage folders of the run that was there last."""
    return layout_at(storage or Storage(), str(output))


def flat(output: str | Path) -> Layout:
    """An output whose stages lie in `OUTPUT/STAGE`, for tests of what one folder holds."""
    return Layout(str(output), {stage: join(str(output), stage.value) for stage in Stage})


def planted(run: DihtRun, *stages: Stage, latest: bool = True) -> Layout:
    """The layout of a run whose pointers lead to folders that the test fills itself, alike for all its runs.

    `latest`: whether it is then the run that was there last.
    """
    storage, layout = Storage(run.spec.storage), Layout(run.spec.data.output)
    write_document(run, storage)
    for stage in stages:
        layout = layout.at(stage, "0" * 64)
        point(run, storage, layout, stage, lead=latest)
    return layout
