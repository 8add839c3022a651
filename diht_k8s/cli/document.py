"""Run documents that a command gets: by file, by output folder, or in the environment variable `DIHT_RUN`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from diht_k8s.api.documents import load, read_text
from diht_k8s.api.errors import UserError
from diht_k8s.api.run import KIND, DihtRun


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


def output_of(path: str, overrides: Sequence[str] = ()) -> str | None:
    """The output folder of a run, given itself or by the run document; None for any other file.

    Raises:
        UserError: the run document is wrong.
    """
    if path.endswith((".yaml", ".yml")) or (path.endswith(".json") and _is_document(path)):
        return read_run(path, overrides, {}).spec.data.output
    return None if path.endswith(".json") else path


def _is_document(path: str) -> bool:
    """Whether a JSON file is a run document; a report holds one, too, but not at its top."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):  # a URI of an object store, nothing, or no JSON
        return False
    return isinstance(found, dict) and found.get("kind") == KIND
