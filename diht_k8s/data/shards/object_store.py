"""Google's and Azure's stores as file systems of fsspec that read by plain HTTP, as `range_reads` asks for it.

Each store lists and writes by its maker's client (`google_store`, `azure_store`); whatever a server refuses comes out
as botocore's `ClientError` with S3's codes, so that one place (`storage`) says what each means. Folders are what keys
have before a slash. An object `folder/`, which some programs keep for an empty folder, is listed, as s3fs does.

Own code, because gcsfs 2026.10.1 and adlfs 2026.8.0 read an object that is replaced meanwhile as a mixture of both
versions, without an error. Besides, gcsfs cuts an object below 5 MB at the first line `--==0==` in it, without an
error, and gives up after 5 refusals in a row; adlfs gives up after 3, sends a request for each folder whose name begins
with that of the folder it lists, and prefers AZURE_STORAGE_CONNECTION_STRING to the key of a storage rule. Both create
conditionally and read in forked processes. Measured on the emulators of `tests/s3`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import requests
from botocore.exceptions import ClientError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from diht_k8s.data.shards.listing import WholeWalks

TIMEOUTS_S: Final = (10, 60)
"""Of a connection, and between two pieces of an answer."""
RETRY: Final = Retry(
    total=8,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    allowed_methods=None,
    backoff_factor=0.25,
    backoff_jitter=0.25,
    backoff_max=20,
    raise_on_status=False,
)
"""Temporary refusals, as botocore repeats those of S3."""
LIST_SIZE: Final = 1000
"""Objects that one request lists."""
REMOVALS: Final = 32
"""Objects that are removed at the same time."""


class Listed(NamedTuple):
    """An object, or what is a folder to a person."""

    key: str
    """a folder's ends with a slash."""
    size: int | None
    """in bytes; None for a folder."""
    version: str = ""
    """changes with the content."""


class ObjectStore(WholeWalks):
    """The buckets of one account. Paths are `bucket/key`."""

    cachable = False
    protocol = ("gs", "az")

    def __init__(self, session: requests.Session) -> None:
        """Make a store that reads by a session, which may add credentials of its own."""
        super().__init__()
        adapter = HTTPAdapter(max_retries=RETRY, pool_maxsize=32)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        self._session = session

    def listed(self, bucket: str, prefix: str, *, deep: bool) -> Iterator[Listed]:
        """What begins with a prefix, in pages of `LIST_SIZE`; up to the next slash unless `deep`."""
        raise NotImplementedError

    def about(self, bucket: str, key: str) -> Listed | None:
        """An object; None if there is none."""
        raise NotImplementedError

    def write_object(self, bucket: str, key: str, file: IO[bytes], size: int, *, create: bool) -> None:
        """Write an object at once: readers see the old one or the whole new one.

        Args:
            bucket: of the object.
            key: of the object.
            file: its content.
            size: in bytes.
            create: only where there is none.

        Raises:
            FileExistsError: there is one, and `create` is set.
        """
        raise NotImplementedError

    def remove_object(self, bucket: str, key: str) -> None:
        """Remove an object; raises FileNotFoundError if there is none."""
        raise NotImplementedError

    def _request(self, bucket: str, key: str, version: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """URL, query and headers that ask for an object, only in one version if that is not empty."""
        raise NotImplementedError

    def _version(self, headers: Mapping[str, str]) -> str:
        """The version that an answer's headers name; empty if they name none."""
        raise NotImplementedError

    def get_object(self, *, Bucket: str, Key: str, Range: str, IfMatch: str = "") -> dict[str, Any]:
        """Botocore's call of this name: a range of an object.

        Raises:
            ClientError: the server refuses it.
        """
        url, query, headers = self._request(Bucket, Key, IfMatch.strip('"'))
        answer = self._session.get(
            url, params=query, headers={**headers, "Range": Range}, stream=True, timeout=TIMEOUTS_S
        )
        if answer.status_code >= 300:
            with answer:
                raise refusal(answer.status_code, answer.text, "GetObject")
        found, version = answer.headers, self._version(answer.headers)
        size = {"ContentLength": int(found["Content-Length"])} if "Content-Length" in found else {}
        return {
            "ContentRange": found.get("Content-Range", ""),
            "ETag": f'"{version}"' if version else "",
            "Body": answer.raw,
            **size,
        }

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Botocore's call of this name: size and version of an object.

        Raises:
            ClientError: there is none, or the server refuses it.
        """
        found = self.about(Bucket, Key)
        if found is None:
            raise refusal(404, "", "HeadObject")
        return {"ContentLength": found.size, "ETag": f'"{found.version}"' if found.version else ""}

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
        if not found and key and (file := self.about(bucket, key)) is not None:
            found = {path: _entry(bucket, file)}
        return found if detail else sorted(found)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size, type and version of a file or folder; raises FileNotFoundError if there is neither."""
        path, (bucket, key) = path.rstrip("/"), _place(path)
        if key and (found := self.about(bucket, key)) is not None:
            return _entry(bucket, found)
        try:
            if next(self.listed(bucket, f"{key}/" if key else "", deep=True), None) is None and key:
                raise FileNotFoundError(path)
        except ClientError as error:
            raise _missing(error, path) or error from error
        return {"name": path, "size": 0, "type": "directory"}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Write a file at once; raises FileExistsError where there is one and the mode is `create`."""
        bucket, key = _place(path)
        self.write_object(bucket, key, io.BytesIO(value), len(value), create=mode == "create")

    def put_file(self, lpath: str, rpath: str, callback: Any = None, mode: str = "overwrite", **_: Any) -> None:
        """Write a file of the disk at once; see `pipe_file`."""
        bucket, key = _place(rpath)
        with open(lpath, "rb") as file:
            self.write_object(bucket, key, file, Path(lpath).stat().st_size, create=mode == "create")

    def rm_file(self, path: str) -> None:
        """Remove a file, of which `folder/` is another one than `folder`; raises FileNotFoundError if there is none."""
        bucket, _, key = path.partition("/")
        self.remove_object(bucket, key)

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
            for found in self.listed(bucket, prefix, deep=deep):
                yield _entry(bucket, found)
        except ClientError as error:
            raise _missing(error, path) or error from error


def refusal(status: int, says: str, operation: str) -> ClientError:
    """A server's refusal as S3 would say it.

    Args:
        status: of the answer, of HTTP.
        says: its text.
        operation: S3's name of what was asked for.
    """
    expired = status == 401 or (status == 403 and "time frame" in says)  # Azure's word for a token that is too old
    return ClientError(
        {"Error": {"Code": "ExpiredToken" if expired else str(status), "Message": says[:500]}}, operation
    )


def _place(path: str) -> tuple[str, str]:
    bucket, _, key = path.rstrip("/").partition("/")
    return bucket, key


def _entry(bucket: str, found: Listed) -> dict[str, Any]:
    if found.size is None:
        return {"name": f"{bucket}/{found.key.rstrip('/')}", "size": 0, "type": "directory"}
    return {"name": f"{bucket}/{found.key}", "size": found.size, "type": "file", "ETag": found.version}


def _missing(error: ClientError, path: str) -> FileNotFoundError | None:
    return FileNotFoundError(path) if error.response.get("Error", {}).get("Code") == "404" else None
