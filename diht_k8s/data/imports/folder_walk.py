"""All files of a folder and of those below it, each once; links are followed within the folders where they may lead."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from diht_k8s.data.imports.source_files import DANGLING, NO_FILE, OUTSIDE, SourceRoots
from diht_k8s.data.imports.tally import Tally

HIDDEN: Final = "hidden"
"""Why a file is ignored: its name, or that of a folder above it, begins with a dot."""
LINKED_FOLDER: Final = "link_to_folder"
"""Why a link is ignored: it leads to a folder whose files are seen where they lie."""
UNREADABLE: Final = "folder_unreadable"


@dataclass
class FolderWalk:
    """What lies in a folder."""

    files: dict[Path, str | None] = field(default_factory=dict)
    """file -> why it must not be read (None: it may be), in the order of the paths."""
    ignored: Tally = field(default_factory=Tally)
    """what is no file of the data set, by reason."""
    seen: int = 0
    """number of names that are no folders, counted as they were met."""


def walk(folder: Path, roots: SourceRoots) -> FolderWalk:
    """Walk a folder.

    Args:
        folder: where it begins.
        roots: where links may lead.
    """
    found = FolderWalk()
    base = os.path.realpath(folder)
    waiting, visited = [(folder, base, False)], {base}
    while waiting:
        place, real, hidden = waiting.pop()
        for entry in _entries(place, found):
            path, is_hidden = place / entry.name, hidden or entry.name.startswith(".")
            below = os.path.join(real, entry.name)
            if entry.is_symlink():
                found.seen += 1
                target = _target_of(entry.path)
                if not is_hidden and os.path.isdir(target) and _may_enter(target, base, roots, visited):
                    found.seen -= 1  # a folder: its files count
                    below = target
                else:
                    _add_link(found, path, target, roots, hidden=is_hidden)
                    continue
            elif not entry.is_dir():
                found.seen += 1
                _add_file(found, path, entry, hidden=is_hidden)
                continue
            if below not in visited:
                visited.add(below)
                waiting.append((path, below, is_hidden))
    found.files = dict(sorted(found.files.items()))
    return found


def shallow_files(folder: Path, depth: int) -> Iterator[Path]:
    """The files of a folder and of those up to some levels below it, links followed: what lies there, roughly.

    Args:
        folder: where it begins.
        depth: 1 for the folder alone.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        if len(Path(place).relative_to(folder).parts) + 1 >= depth:
            folders.clear()
        yield from (path for name in names if os.path.isfile(path := Path(place, name)))


def _entries(place: Path, found: FolderWalk) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        found.seen += 1
        found.ignored.add(UNREADABLE, str(place))


def _target_of(link: str) -> str:
    """Where a link leads; the link itself where that cannot be read, because it is gone."""
    try:
        return os.path.realpath(link)
    except OSError:
        return link


def _may_enter(target: str, base: str, roots: SourceRoots, visited: set[str]) -> bool:
    """Whether a link leads to a folder that would not be seen otherwise, and may be."""
    within = target == base or target.startswith(base.rstrip("/") + "/")
    return not within and target not in visited and roots.holds(target)


def _add_link(found: FolderWalk, path: Path, target: str, roots: SourceRoots, *, hidden: bool) -> None:
    if hidden:
        found.ignored.add(HIDDEN, str(path))
    elif os.path.isdir(target):
        found.ignored.add(LINKED_FOLDER if roots.holds(target) else OUTSIDE, str(path))
    elif not os.path.exists(path):  # a loop of links, too
        found.files[path] = DANGLING
    else:
        found.files[path] = roots.refusal(path)


def _add_file(found: FolderWalk, path: Path, entry: os.DirEntry[str], *, hidden: bool) -> None:
    if hidden:
        found.ignored.add(HIDDEN, str(path))
    elif not entry.is_file(follow_symlinks=False):
        found.ignored.add(NO_FILE, str(path))
    else:
        found.files[path] = None
