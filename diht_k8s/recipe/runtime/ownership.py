"""Lists of the objects that a stage has written to its folder, each written before its objects.

Each process of a stage has lists of its own, `STAGE/objects/WRITER-N.json`, so no process waits for another. It names
an object there before it writes it. A crash can leave an entry without an object, but no object without an entry.
Removing goes by these lists: what they do not name is somebody else's and stays.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final

from diht_k8s.api.data import StorageRule
from diht_k8s.api.json_types import is_array, is_object
from diht_k8s.api.layout import MARKER, OBJECTS, join
from diht_k8s.recipe.shards.storage import Storage

LIST_VERSION: Final = 1
MAX_GROWING: Final = 256
"""Entries after which a process begins a new list: a list is written again for each entry that comes alone."""
REQUESTS: Final = 16
"""Lists that are fetched at the same time."""
MARKERS: Final = re.compile(rf"{re.escape(MARKER)}|STARTED(-\d+)?\.json")
_TEMPORARY: Final = re.compile(r"(?P<folder>.*/)?\.(?P<name>[^/]+)\.[A-Za-z0-9_]{8}\.tmp")
"""What a local write leaves behind if it is killed (`Storage.local_copy`)."""


def write_list(storage: Storage, folder: str, name: str, paths: Sequence[str]) -> None:
    """Write one list of objects.

    Args:
        storage: where.
        folder: of the stage.
        name: of the list.
        paths: of the objects, relative to the folder.
    """
    document = {"schema_version": LIST_VERSION, "objects": list(paths)}
    storage.write_bytes(join(folder, OBJECTS, f"{name}.json"), json.dumps(document, ensure_ascii=False).encode())


def list_names(storage: Storage, folder: str) -> list[str]:
    """Names of the lists of a stage's folder."""
    return [name.removesuffix(".json") for name in storage.names(join(folder, OBJECTS)) if name.endswith(".json")]


def read_list(storage: Storage, folder: str, name: str) -> list[str] | None:
    """The entries of a list; None if the file is not a list of ours."""
    try:
        document: Any = json.loads(storage.read_bytes(join(folder, OBJECTS, f"{name}.json")))
    except ValueError:
        return None
    if not is_object(document) or document.get("schema_version") != LIST_VERSION:
        return None
    objects = document.get("objects")
    return [str(path) for path in objects] if is_array(objects) else None


def temporary_of(path: str) -> str | None:
    """The path of the file that a temporary file was to become; None for other files."""
    found = _TEMPORARY.fullmatch(path)
    return None if found is None else (found["folder"] or "") + found["name"]


class StageStorage(Storage):
    """Storage of a stage's process: lists each object of the stage's folder before it writes it, and removes only those."""

    def __init__(
        self, rules: Sequence[StorageRule], folder: str, *, writer: str, fence: Callable[[], object] | None = None
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            rules: of the run.
            folder: of the stage.
            writer: begins the names of this process's lists; no other process may have the same one.
            fence: runs after each list is written and before its objects are; raises to stop the process.
        """
        super().__init__(rules)
        self._folder, self._writer, self._fence = folder, writer, fence
        self._lock = threading.Lock()
        self._listed = set[str]()
        self._growing: list[str] = []
        self._number = 0
        self._known: dict[str, list[str]] = {}
        """lists of all processes, as read."""
        self._others = set[str]()

    def reserve(self, uris: Iterable[str]) -> None:
        """List files of the stage's folder, in one write; others need none."""
        paths = dict.fromkeys(path for uri in uris if (path := self._path(uri)) is not None)
        if not paths:
            return  # among others the list itself, which is written under the lock
        with self._lock:
            fresh = [path for path in paths if path not in self._listed]
            if not fresh:
                return
            if self._number == 0 or len(self._growing) + len(fresh) > MAX_GROWING:
                self._number, self._growing = self._number + 1, []
            grown = [*self._growing, *fresh]
            write_list(self, self._folder, f"{self._writer}-{self._number}", grown)
            if self._fence is not None:
                self._fence()
            self._growing = grown
            self._listed.update(fresh)

    def add_known(self, uris: Iterable[str]) -> None:
        """Learn of files that other processes have listed, which saves reading their lists again."""
        self._others.update(path for uri in uris if (path := self._path(uri)) is not None)

    @contextlib.contextmanager
    def local_copy(self, uri: str) -> Iterator[Path]:
        """As in `Storage`; the file is listed first."""
        self.reserve([uri])
        with super().local_copy(uri) as path:
            yield path

    @contextlib.contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """As in `Storage`; the file is listed first."""
        self.reserve([uri])
        with super().writer(uri) as file:
            yield file

    def create(self, uri: str, data: bytes) -> bool:
        """As in `Storage`; the file is listed first, which claims nothing yet if another process creates it."""
        self.reserve([uri])
        return super().create(uri, data)

    def remove(self, uri: str) -> None:
        """Remove a file, or what this stage has written below a folder; nothing else is touched."""
        path = self._path(uri)
        if path is None:
            super().remove(uri)
            return
        owned = self._owned()
        if path in owned:
            self.remove_files(self._folder, [path])
            return
        below = [f"{path}/{name}" for name in self.files(uri)]
        self.remove_files(self._folder, [name for name in below if name in owned or temporary_of(name) in owned])

    def _owned(self) -> set[str]:
        """What all processes have listed; lists are read once, so newer entries of others come by `add_known`."""
        unread = [name for name in list_names(self, self._folder) if name not in self._known]
        with ThreadPoolExecutor(REQUESTS, "lists") as pool:
            found = pool.map(lambda name: read_list(self, self._folder, name) or [], unread)
            self._known.update(zip(unread, found, strict=True))
        return self._listed.union(self._others, *self._known.values())

    def _path(self, uri: str) -> str | None:
        """The path below the stage's folder of what is listed; None for markers, lists and files elsewhere."""
        start = self._folder.rstrip("/") + "/"
        path = uri.removeprefix(start)
        if not uri.startswith(start) or path.startswith(f"{OBJECTS}/") or MARKERS.fullmatch(path):
            return None
        return path
