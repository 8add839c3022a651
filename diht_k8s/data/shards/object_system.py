"""An object store as a file system of fsspec, by the few calls that `storage` and `listing` use.

Folders are what keys have before a slash. An object `folder/`, which some programs keep for an empty folder, is listed, as s3fs does.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from diht_k8s.data.shards.listing import WholeWalks

if TYPE_CHECKING:
    from diht_k8s.data.shards.object_store import Listed, ObjectStore  # whose packages are optional

REMOVALS: Final = 32
"""Objects that are removed at the same time."""


class ObjectSystem(WholeWalks):
    """Paths are `bucket/key`."""

    cachable = False
    protocol = ("gs", "az")

    def __init__(self, store: ObjectStore) -> None:
        """Make a file system of a store."""
        super().__init__()
        self.store = store

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What lies directly below a folder; a file is its own only entry.

        Raises:
            FileNotFoundError: there is neither.
        """
        path = path.rstrip("/")
        found = list(self._below(path, deep=False)) or [self.info(path)]
        if found[0]["name"] == path and found[0]["type"] == "directory":
            found = []  # an empty bucket or folder
        return found if detail else [each["name"] for each in found]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **_: Any
    ) -> Any:
        """Path -> what a listing says, of all files below a folder, or of a file; only the paths without `detail`."""
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail)
        path, (bucket, key) = path.rstrip("/"), _place(path)
        found = {each["name"]: each for each in self._below(path, deep=True)}
        if not found and key and (file := self.store.about(bucket, key)) is not None:
            found = {path: _entry(bucket, file)}
        return found if detail else sorted(found)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, type and version of a file or folder; raises FileNotFoundError if there is neither."""
        path, (bucket, key) = path.rstrip("/"), _place(path)
        if key and (found := self.store.about(bucket, key)) is not None:
            return _entry(bucket, found)
        try:
            if next(self.store.listed(bucket, f"{key}/" if key else "", deep=True), None) is None and key:
                raise FileNotFoundError(path)
        except ClientError as error:
            raise _missing(error, path) or error from error
        return {"name": path, "size": 0, "type": "directory"}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file at once; raises FileExistsError where there is one and the mode is `create`."""
        bucket, key = _place(path)
        self.store.put(bucket, key, io.BytesIO(value), len(value), create=mode == "create")

    def put_file(self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **_: Any) -> None:
        """Write a file of the disk at once; see `pipe_file`."""
        bucket, key = _place(rpath)
        with open(lpath, "rb") as file:
            self.store.put(bucket, key, file, Path(lpath).stat().st_size, create=mode == "create")

    def rm_file(self, path: str) -> None:
        """Remove a file; raises FileNotFoundError if there is none. `folder/` is the object of this name, not `folder`."""
        bucket, _, key = path.partition("/")
        self.store.remove(bucket, key)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove a file, and with `recursive` all below a folder, of which some may be gone meanwhile.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not recursive:
            self.rm_file(path)
            return

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self.rm_file(name)

        with ThreadPoolExecutor(REMOVALS) as pool:
            list(pool.map(remove, self.find(path)))

    def _below(self, path: str, *, deep: bool) -> Iterator[dict[str, Any]]:
        bucket, key = _place(path)
        prefix = f"{key}/" if key else ""
        try:
            for found in self.store.listed(bucket, prefix, deep=deep):
                yield _entry(bucket, found)
        except ClientError as error:
            raise _missing(error, path) or error from error


def _place(path: str) -> tuple[str, str]:
    bucket, _, key = path.rstrip("/").partition("/")
    return bucket, key


def _entry(bucket: str, found: Listed) -> dict[str, Any]:
    if found.size is None:
        return {"name": f"{bucket}/{found.key.rstrip('/')}", "size": 0, "type": "directory"}
    return {"name": f"{bucket}/{found.key}", "size": found.size, "type": "file", "ETag": found.version}


def _missing(error: ClientError, path: str) -> FileNotFoundError | None:
    return FileNotFoundError(path) if error.response.get("Error", {}).get("Code") == "404" else None
