"""Ownership of the files in a stage's folder, and removal of those that the stage has written (`--replace`).

In: lists of objects (`runtime.ownership`), markers, file names. Files that neither a list nor a marker names are not
this project's: they stay.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.json_types import is_object
from diht_k8s.api.layout import OBJECTS, Layout
from diht_k8s.api.run import KIND, Stage
from diht_k8s.recipe.runtime.ownership import MARKERS, list_names, read_list, temporary_of, write_list
from diht_k8s.recipe.shards.storage import Storage

KEPT_FOLDERS: Final = {Stage.FILTER: ("scores/",)}
"""What survives --replace: scores carry their own digest, and other thresholds reuse them."""
NO_RESULT: Final = ("claims/", "epochs/", "commits/", "preflight-", "preflight.json")
"""What a stage writes before it has any output."""
SURVIVED: Final = "kept"
"""Name of the list of what --replace has kept."""


@dataclass(frozen=True)
class StageFiles:
    """The files of a stage's folder; paths are relative to it."""

    stage: Stage
    owned: tuple[str, ...]
    """written by the stage, without markers and lists."""
    markers: tuple[str, ...]
    lists: tuple[str, ...]
    foreign: tuple[str, ...]
    """everything else."""

    @property
    def replaced(self) -> list[str]:
        """What --replace removes, without markers and lists."""
        return [path for path in self.owned if not path.startswith(KEPT_FOLDERS.get(self.stage, ()))]

    @property
    def results(self) -> list[str]:
        """What another configuration would have to replace."""
        return [path for path in self.replaced if not path.startswith(NO_RESULT)]

    @property
    def of_stage(self) -> bool:
        """Whether the stage has written anything here."""
        return bool(self.owned or self.markers or self.lists)


def survey(storage: Storage, layout: Layout, stage: Stage) -> StageFiles:
    """Find out which files of a stage's folder the stage has written."""
    folder = layout.stage(stage)
    files = storage.files(folder)
    markers = tuple(path for path in files if MARKERS.fullmatch(path))
    found = {name: read_list(storage, folder, name) for name in list_names(storage, folder)}
    lists = {f"{OBJECTS}/{name}.json": paths for name, paths in found.items() if paths is not None}
    written = {path for paths in lists.values() for path in paths} | set(_artefacts(storage, layout, stage))
    rest = [path for path in files if path not in markers and path not in lists]
    names = {*written, *markers, *lists}
    owned = tuple(path for path in rest if path in written or temporary_of(path) in names)
    foreign = tuple(sorted(set(rest).difference(owned)))
    return StageFiles(stage, owned, markers, tuple(lists), foreign)


def remove_output(storage: Storage, layout: Layout, stages: Sequence[Stage]) -> list[StageFiles]:
    """Remove what some stages have written, markers first: a partially removed output has no marker.

    `STARTED.json` goes last, so that an interrupted removal is noticed and can be started again.

    Returns:
        What was there.
    """
    found = [survey(storage, layout, stage) for stage in stages]
    there = [files for files in found if files.of_stage]
    for files in there:
        storage.remove_files(layout.stage(files.stage), [layout.committed(files.stage).rpartition("/")[2]])
    for files in there:
        _remove(storage, layout, files)
    if there and _is_ours(storage, layout.run_document):
        storage.remove_files(layout.output, ["run.json"])
    return found


def _remove(storage: Storage, layout: Layout, files: StageFiles) -> None:
    folder = layout.stage(files.stage)
    storage.remove_files(folder, files.replaced)
    survivors = sorted(set(files.owned).difference(files.replaced))
    if survivors:
        write_list(storage, folder, SURVIVED, survivors)
    storage.remove_files(folder, sorted(set(files.lists) - ({f"{OBJECTS}/{SURVIVED}.json"} if survivors else set())))
    storage.remove_files(folder, files.markers)


def described(found: Iterable[StageFiles]) -> str:
    """What --replace removes, for a person: the number of files of each stage by folder."""
    parts: list[str] = []
    for files in found:
        if files.replaced:
            counts = Counter(f"{path.partition('/')[0]}/" if "/" in path else path for path in files.replaced)
            listed = [f"{name} {count}" if name.endswith("/") else name for name, count in sorted(counts.items())]
            parts.append(f"{len(files.replaced)} files of {files.stage} ({', '.join(listed)})")
    return " and ".join(parts) or "no file but the markers"


def foreign_files(layout: Layout, found: Iterable[StageFiles]) -> list[str]:
    """URIs of what this project did not write."""
    return [f"{layout.stage(files.stage)}/{path}" for files in found for path in files.foreign]


def _artefacts(storage: Storage, layout: Layout, stage: Stage) -> list[str]:
    """The paths that the commit marker names."""
    items = _json(storage, layout.committed(stage)).get("artefacts", [])
    return [str(item["path"]) for item in items if is_object(item) and "path" in item]


def _is_ours(storage: Storage, uri: str) -> bool:
    """Whether a run document has the form in which stages write it; a person's has another one."""
    document = _json(storage, uri)
    return document.get("kind") == KIND and storage.read_bytes(uri) == canonical_json(document).encode()


def _json(storage: Storage, uri: str) -> dict[str, Any]:
    """A JSON mapping; an empty one if the file is absent or damaged."""
    if not storage.exists(uri):
        return {}
    try:
        document: Any = json.loads(storage.read_bytes(uri))
    except ValueError:
        return {}
    return dict(document) if is_object(document) else {}
