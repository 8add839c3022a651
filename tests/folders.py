"""Stage folders of an output, for tests that look into them or put something there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import commit, start
from diht_k8s.runtime.run_folder import layout_at, point, run_layout, write_document


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


def filled(
    run: DihtRun,
    stage: Stage,
    variant: str,
    *,
    reads: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    settings: Mapping[str, str] | None = None,
    complete: bool = True,
) -> str:
    """A stage's folder as a stage leaves it, to which the run then points; its place relative to the output."""
    storage, config = Storage(run.spec.storage), {"inputs": {}, "variant": variant, "config": dict(settings or {})}
    layout = run_layout(run, storage).at(stage, sha256_of(config))
    write_document(run, storage)
    start(storage, layout, stage, config, reads or {})
    point(run, storage, layout, stage)
    for path, content in (files or {}).items():
        storage.write_bytes(join(layout.stage(stage), path), content)
    if complete:
        commit(storage, layout, stage, config, [], {})
    return layout.relative(stage)
