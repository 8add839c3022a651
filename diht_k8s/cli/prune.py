"""`diht prune`: what the folders of an output take, who refers to them, and the removal of what nobody needs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from diht_k8s.api.base import in_object_store
from diht_k8s.api.errors import UserError
from diht_k8s.api.run import DihtRun
from diht_k8s.api.wording import first_of
from diht_k8s.cli.display import progress_bar, show
from diht_k8s.cli.document import read_run
from diht_k8s.data.shards.storage import Storage
from diht_k8s.outputs.prune import Place, Plan, make_plan, plan_to_remove, remove
from diht_k8s.runtime.run_folder import run_folder
from diht_k8s.runtime.signals import StopFlag

DOCUMENTS: Final = (".yaml", ".yml", ".json")
SHOWN: Final = 3
"""Runs, or files of a person, that a person is shown of a folder."""
STATES: Final = {
    "complete": "complete",
    "begun": "begun, not complete",
    "foreign": "not ours",
    "run": "run",
    "features": "stored features",
}


def prune_command(output: str, keep: Sequence[str] | None, *, yes: bool, as_json: bool) -> int:
    """Show what an output holds, and remove what nobody refers to if asked; the exit code.

    Args:
        output: URI or path of the output, or the document of a run there.
        keep: the runs that shall stay: documents, folders, NAME or NAME/DIGEST; None keeps all.
        yes: whether to remove.
        as_json: whether to print one JSON object.
    """
    stop, document = StopFlag().install(), _document(output)
    storage = Storage(document.spec.storage if document is not None else ())
    place = document.spec.data.output if document is not None else output
    _refuse_missing(storage, place)
    kept = None if keep is None else [_name(storage, place, run) for run in keep]
    if not yes:
        plan = make_plan(storage, place, kept)
        again = shlex.join(["diht", "prune", output, *(["--keep", *keep] if keep else []), "--yes"])
        return show(_json(plan, None), [_table(plan), *_sums(plan, again)], as_json=as_json)
    plan = plan_to_remove(storage, place, kept, stop)
    with progress_bar("files") as bar:
        task = bar.add_task("remove", total=sum(each.files - len(each.foreign_files) for each in plan.removable))
        gone = remove(storage, plan, stop, lambda files: bar.advance(task, files))
    return show(_json(plan, gone), [_table(plan), *_done(plan, gone)], as_json=as_json)


def _document(path: str) -> DihtRun | None:
    """The run of a document; None for a folder."""
    return read_run(path) if path.endswith(DOCUMENTS) and not in_object_store(path) else None


def _refuse_missing(storage: Storage, output: str) -> None:
    path = storage.local_path(output)
    if path is not None and not path.is_dir():
        raise UserError(f"{output} is no folder: name the output of runs (data.output), or a run document")


def _name(storage: Storage, output: str, run: str) -> str:
    """NAME or NAME/DIGEST of a run to keep.

    Raises:
        UserError: it is a document or folder of another output.
    """
    document = _document(run)
    if document is None and not in_object_store(run) and not Path(run).expanduser().is_dir():
        return run
    start = f"{storage.location(output)}/runs/"
    folder = storage.location(run if document is None else run_folder(document))
    if folder.startswith(start):
        return folder.removeprefix(start)
    if document is None and "/" not in run:  # a folder here that happens to have the name of a run
        return run
    raise UserError(f"--keep {run}: this run is not of {output}: name a run of this output")


def _json(plan: Plan, gone: Sequence[Place] | None) -> dict[str, object]:
    return {
        "output": plan.output,
        "folders": [asdict(place) for place in plan.places],
        "bytes": sum(place.bytes for place in plan.places),
        "removable_bytes": sum(place.frees for place in plan.places),
        "removed": None if gone is None else [place.folder for place in gone],
    }


def _table(plan: Plan) -> str:
    table = Table(box=None, pad_edge=False)
    for column in ("folder", "size", "files", "state", "for"):
        table.add_column(column, justify="right" if column in ("size", "files") else "left", overflow="fold")
    for place in plan.places:
        table.add_row(place.folder, decimal(place.bytes), f"{place.files:,}", STATES[place.state], _use(place))
    console = Console(width=150, no_color=True)
    with console.capture() as text:
        console.print(table)
    return "\n".join(line.rstrip() for line in text.get().rstrip().splitlines())


def _use(place: Place) -> str:
    """Who needs a folder, or that nobody does."""
    if place.in_use:
        return f"in use: {place.in_use}"
    if place.removable:
        return f"{'only ' + first_of(place.runs, SHOWN) if place.runs else 'nobody'}: removable"
    if place.state == "foreign":
        return "no STARTED.json of ours: stays"
    return first_of(place.runs, SHOWN)


def _sums(plan: Plan, again: str) -> list[str]:
    going = plan.removable
    whole = f"{decimal(sum(place.bytes for place in plan.places))} in {len(plan.places)} folders"
    if not going:
        return ["", f"{whole}; every folder of ours is referred to"]
    frees = decimal(sum(place.frees for place in going))
    return ["", f"{whole}; {frees} in {len(going)} of them are removable: {again}", *_staying(going)]


def _done(plan: Plan, gone: Sequence[Place]) -> list[str]:
    freed = f"removed {len(gone)} folders: {decimal(sum(place.frees for place in gone))} are free"
    stay = [place.folder for place in plan.removable if place not in gone]
    came = [f"a run has come to refer to {first_of(stay, SHOWN)} meanwhile: stays"] if stay else []
    return ["", freed, *came, *_staying(gone)]


def _staying(places: Sequence[Place]) -> list[str]:
    """The files of people in what goes."""
    return [
        f"{place.folder}: {first_of(place.foreign_files, SHOWN)} stay, no stage wrote them"
        for place in places
        if place.foreign_files
    ]
