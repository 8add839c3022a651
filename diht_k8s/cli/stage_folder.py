"""The stage folders of a run that a command line names by its document, its folder or its output; and `diht path`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from diht_k8s.api.errors import ExitCode
from diht_k8s.api.layout import Layout
from diht_k8s.api.object_stores import in_object_store
from diht_k8s.api.run import Stage
from diht_k8s.cli.document import read_run
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.run_folder import layout_at, run_layout


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
    if is_folder(run):
        storage = Storage()
        return storage, layout_at(storage, run)
    document = read_run(run, overrides, {})
    storage = Storage(document.spec.storage)
    return storage, run_layout(document, storage)


def path_command(run: str, stage: str, overrides: Sequence[str], *, as_json: bool = False) -> int:
    """Print the folder of a stage; the exit code.

    Raises:
        UserError: the stage has not begun.
    """
    _, layout = layout_named(run, overrides)
    folder = layout.stage(Stage(stage))
    print(json.dumps({"folder": folder}) if as_json else folder)
    return ExitCode.DONE
