"""What a command line names: a run document (a file, or in `DIHT_RUN`), a run's folder, an output; and `diht path`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diht_k8s.api.base import in_object_store
from diht_k8s.api.documents import load, read_text
from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import KIND, DihtRun, Stage
from diht_k8s.cli.display import show

if TYPE_CHECKING:
    from diht_k8s.data.shards.storage import Storage


def read_run(path: str | None, overrides: Sequence[str] = ()) -> DihtRun:
    """The run of a file, or of `DIHT_RUN` if no file is given.

    Raises:
        UserError: no document, or a wrong one.
    """
    if path is not None:
        return load(read_text(path), name=path, overrides=overrides)
    if "DIHT_RUN" not in os.environ:
        raise UserError("no run document: give --run FILE, or set DIHT_RUN to one")
    return load(os.environ["DIHT_RUN"], name="DIHT_RUN", overrides=overrides)


def output_of(path: str, overrides: Sequence[str] = ()) -> str | None:
    """The output folder of a run, given itself or by the run document; None for any other file.

    Raises:
        UserError: the run document is wrong.
    """
    if path.endswith((".yaml", ".yml")) or (path.endswith(".json") and _is_document(path)):
        return read_run(path, overrides).spec.data.output
    return None if path.endswith(".json") else path


def _is_document(path: str) -> bool:
    """Whether a JSON file is a run document; a report holds one, too, but not at its top."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):  # a URI of an object store, nothing, or no JSON
        return False
    return isinstance(found, dict) and found.get("kind") == KIND


def is_folder(place: str) -> bool:
    """Whether a place is a folder of this machine, or in an object store and no document."""
    return in_object_store(place) or Path(place.removeprefix("file://")).expanduser().is_dir()


def layout_named(run: str, overrides: Sequence[str] = ()) -> tuple[Storage, Layout]:
    """The storage that reaches a run, and its stage folders.

    Args:
        run: a run document, the folder of a run, or an output, whose last run it is then.
        overrides: of the document.

    Raises:
        UserError: the document is wrong.
        DataError: a pointer is damaged.
    """
    from diht_k8s.data.shards.storage import Storage
    from diht_k8s.runtime.run_folder import layout_at, run_layout

    if is_folder(run):
        storage = Storage()
        return storage, layout_at(storage, run)
    document = read_run(run, overrides)
    storage = Storage(document.spec.storage)
    return storage, run_layout(document, storage)


def path_command(run: str, stage: str, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Print the folder of a stage; the exit code.

    Raises:
        UserError: the stage has not begun.
    """
    _, layout = layout_named(run, overrides)
    folder = layout.stage(Stage(stage))
    return show({"folder": folder}, [folder], as_json=as_json)
