"""The folder of a run, `OUTPUT/runs/NAME/DIGEST/`: its document, its logs, and a pointer to the folder of each stage.

The digest is one of the run document's fields that change a result, so every process of a run finds the folder by
itself, and a run whose placement alone changes keeps it. A pointer is a small JSON file with the stage's folder
relative to the output. It is the authority; on disk, symbolic links lie beside it for people. `runs/latest.json`, and
on disk the link `runs/latest`, lead to the run that began a stage last.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.documents import dump, load
from diht_k8s.api.errors import DataError, RetryableError
from diht_k8s.api.hashing import SCHEMA_VERSION, run_sha256
from diht_k8s.api.layout import Layout, join, refuse_old_layout
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.storage import Storage

WAIT_SECONDS: Final = 600.0
"""So long does a worker wait for worker 0 to choose its folder."""
POLL_SECONDS: Final = 1.0


def run_folder(run: DihtRun) -> str:
    """The folder of a run."""
    return Layout(run.spec.data.output).run(run.metadata.name, run_sha256(run.spec))


def run_layout(run: DihtRun, storage: Storage) -> Layout:
    """The output with the folders of the stages that have begun in a run.

    Raises:
        UserError: the output has an old layout.
        DataError: a pointer is damaged.
    """
    refuse_old_layout(run.spec.data.output, storage.names)
    return layout_of(storage, run.spec.data.output, run_folder(run))


def latest_run(storage: Storage, output: str) -> str | None:
    """The folder of the run that began a stage last; None where none has."""
    found = _read(storage, join(output, "runs"), "latest")
    return None if found is None else join(output, "runs", found)


def layout_at(storage: Storage, place: str) -> Layout:
    """The stage folders of a run, given by its folder or by an output, whose last run it is then.

    Raises:
        UserError: the output has an old layout.
        DataError: a pointer is damaged.
    """
    latest = latest_run(storage, place)
    folder = latest or storage.location(place)  # `runs/latest` is a link, one level less deep
    layout = layout_of(storage, folder.rsplit("/", 3)[0], folder)
    if latest is None and not layout.folders:  # an output in which nothing has begun, or of an old layout
        layout = Layout(place)
    refuse_old_layout(layout.output, storage.names)
    return layout


def runs_of(storage: Storage, output: str) -> Iterator[tuple[DihtRun, Layout]]:
    """All runs of an output, each with the stage folders that it points to.

    Raises:
        UserError: the output has an old layout, or a run's document cannot be read.
        DataError: a pointer is damaged.
    """
    refuse_old_layout(output, storage.names)
    for name in storage.folders(join(output, "runs")):
        for digest in storage.folders(join(output, "runs", name)):
            folder = join(output, "runs", name, digest)
            if storage.exists(uri := join(folder, "run.json")):
                yield load(storage.read_text(uri), name=uri), layout_of(storage, output, folder)


def layout_of(storage: Storage, output: str, folder: str) -> Layout:
    """The output with the folders that the pointers in a run's folder name.

    Raises:
        DataError: a pointer is damaged.
    """
    layout = Layout(output)
    for stage in Stage:
        if (found := _read(storage, folder, stage.value)) is not None:
            layout = layout.with_folder(stage, join(output, found))
    return layout


def read_document(run: DihtRun, storage: Storage) -> DihtRun | None:
    """The run's document as it was started before; None where it was not."""
    uri = join(run_folder(run), "run.json")
    return load(storage.read_text(uri), name=uri) if storage.exists(uri) else None


def write_document(run: DihtRun, storage: Storage, *, replace: bool = False) -> None:
    """Write the run's document into its folder, unless it is there; `replace` writes it where its placement differs."""
    write = storage.write_bytes if replace else storage.create
    write(join(run_folder(run), "run.json"), dump(run).encode())


def point(
    run: DihtRun,
    storage: Storage,
    layout: Layout,
    stage: Stage,
    *,
    lead: bool = True,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Point to the folder of a stage, as the run's later stages will use it.

    Args:
        run: the run.
        storage: of its output.
        layout: with the folder that this worker found for the stage.
        stage: the stage.
        lead: whether this is worker 0, which decides where an earlier pointer leads elsewhere; others wait for it.
        sleep: waits for seconds.

    Raises:
        RetryableError: worker 0 has not chosen the same folder within 10 minutes.
    """
    folder, mine, waited = run_folder(run), layout.relative(stage), 0.0
    storage.create(_uri(folder, stage.value), _pointer(mine))
    while _read(storage, folder, stage.value) != mine:
        if lead:
            storage.write_bytes(_uri(folder, stage.value), _pointer(mine))
            break
        if waited >= WAIT_SECONDS:
            raise RetryableError(
                f"worker 0 of the stage {stage.value} has not begun {layout.stage(stage)} within {WAIT_SECONDS:.0f} s: "
                "it has not started, or the sources changed meanwhile"
            )
        sleep(POLL_SECONDS)
        waited += POLL_SECONDS
    path = storage.local_path(folder)
    if path is not None:
        _link(path / stage.value, Path("../../..") / mine)
    if lead:
        _note_latest(storage, run.spec.data.output, folder, path)


def lead_latest(storage: Storage, output: str, going: str, folder: str) -> None:
    """Lead `runs/latest` to another run where it leads to one that goes; folders of both relative to the output."""
    if _read(storage, join(output, "runs"), "latest") == going.removeprefix("runs/"):
        _note_latest(storage, output, join(output, folder), storage.local_path(join(output, folder)))


def _note_latest(storage: Storage, output: str, folder: str, path: Path | None) -> None:
    runs = join(output, "runs")
    name = folder.removeprefix(f"{runs}/")
    if _read(storage, runs, "latest") != name:
        storage.write_bytes(_uri(runs, "latest"), _pointer(name))
    if path is not None:
        _link(path.parent.parent / "latest", Path(name))


def _pointer(folder: str) -> bytes:
    return json.dumps({"schema_version": SCHEMA_VERSION, "folder": folder}).encode()


def _read(storage: Storage, folder: str, name: str) -> str | None:
    uri = _uri(folder, name)
    if not storage.exists(uri):
        return None
    try:
        document: Any = json.loads(storage.read_bytes(uri))
        return str(document["folder"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is damaged: remove this file and start the run again") from error


def _uri(folder: str, name: str) -> str:
    return join(folder, f"{name}.json")


def _link(path: Path, target: Path) -> None:
    """Make a symbolic link, or lead one that is there elsewhere, in one step; a person's file in its place stays.

    A file system without links is none's fault: the pointers are enough.
    """
    with contextlib.suppress(OSError):
        if os.path.lexists(path) and not path.is_symlink():
            return
        if path.is_symlink() and path.readlink() == target:
            return
        new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        new.symlink_to(target)
        new.replace(path)
