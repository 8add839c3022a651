"""The files that patterns match, with their identities, by few requests, and what a changed identity says.

A folder is listed once, 1,000 objects a request. Fsspec's own walks take a folder that cannot be listed for an empty
one, so that its shards would be left out without a word; those of `WholeWalks` raise its error.

In: brace ranges and globs, and the file system of each URI. Out: the files in order, with size and identity as the
listing gives them.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from diht_k8s.api.base import scheme_of
from diht_k8s.api.braces import MAX_TEXTS, BracesError, check_braces, expanded
from diht_k8s.api.errors import DataError, UserError

LOST_AND_FOUND: Final = "lost+found"
"""At the root of an ext4 volume, where only root may look; none of a user's files lie there."""


def _raise_unless_absent(error: OSError) -> None:
    """Fsspec's `on_error` of a walk: a folder that is gone meanwhile is no error."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return
    if isinstance(error, PermissionError) and error.filename:
        folder = str(error.filename).rstrip("/")
        if folder.endswith(f"/{LOST_AND_FOUND}"):
            return
        raise PermissionError(error.errno, f"{error.strerror} ({folder})") from error
    raise error


RAISE: Any = _raise_unless_absent
"""`on_error` of walks, of which fsspec's annotations know texts alone."""


class WholeWalks(AbstractFileSystem):
    """A file system whose walks are whole or raise the error of the folder that cannot be listed."""

    def walk(
        self, path: str, maxdepth: int | None = None, topdown: bool = True, on_error: Any = None, **options: Any
    ) -> Generator[Any]:
        """Folders with what lies directly below each; fsspec calls this for each folder below another one."""
        return super().walk(path, maxdepth, topdown, RAISE, **options)


class LocalSystem(WholeWalks, LocalFileSystem):
    """The disk."""


def s3_system(**options: Any) -> AbstractFileSystem:
    """S3, by s3fs, which takes its time to be imported.

    Args:
        options: s3fs's own.
    """
    from s3fs import S3FileSystem

    class S3System(S3FileSystem):
        async def _walk(self, path: str, maxdepth: int | None = None, **options: Any) -> AsyncGenerator[Any]:
            async for found in super()._walk(path, maxdepth, **{**options, "on_error": RAISE}):
                yield found

    return S3System(**options)


COPY_WITH_TIMES: Final = "copies made without modification times look like that: copy them again with cp -a or rsync -t"


class ReplacedError(DataError):
    """A file on a disk is another version than the one that is meant."""


def differ_by_time_alone(before: str, now: str) -> bool:
    """Whether two of `Storage.identity` are those of files of one size, of different times."""
    (size, _, time), (size_now, _, time_now) = before.partition("-"), now.partition("-")
    return size == size_now and time != time_now and time.isdecimal() and time_now.isdecimal()


def copied_without_times(versions: Iterable[tuple[str, str, str]]) -> str | None:
    """One line about files of which only the times differ; None if there are none, or others differ by size.

    Args:
        versions: (name, identity that is meant, identity now) of all files.
    """
    files, changed = 0, list[tuple[str, str, str]]()
    for name, meant, now in versions:
        files += 1
        if meant != now:
            changed.append((name, meant, now))
    if not changed or not all(differ_by_time_alone(meant, now) for _, meant, now in changed):
        return None
    return (
        f"{len(changed)} of {files} shards have the sizes that their index names, and other modification times "
        f"({changed[0][0]} is the first); {COPY_WITH_TIMES}, or remove the filter's folder index from the copied "
        "output and run `diht index`"
    )


FEW: Final = 16
"""Up to this number of names of one folder are asked for one by one: the folder may hold millions of others."""
REQUESTS: Final = 16
"""Requests at the same time, of those that are sent one by one."""

Resolve = Callable[[str], tuple[AbstractFileSystem, str]]
"""URI -> its file system and the path there."""
Errors = Callable[[str, str], AbstractContextManager[None]]
"""(URI, verb) -> a block in which errors of file systems become ours."""


class ListedFile(NamedTuple):
    """A file that a pattern matches."""

    uri: str
    size: int
    """in bytes."""
    identity: str
    """as `Storage.identity` gives it."""


def identity_of(info: Mapping[str, Any], path: str) -> str:
    """A value that changes with the content: size and version of an object, size and mtime on disk.

    Args:
        info: of the file, from its file system.
        path: of the file, which is asked for its mtime where it is on a disk; those of disks begin with a slash.

    Raises:
        DataError: the object store gives no ETag.
    """
    version = str(os.stat(path).st_mtime_ns) if path.startswith("/") else str(info.get("ETag") or "").strip('"')
    if not version:
        raise DataError(
            f"the storage gives no ETag for {path}, so a replaced object would go unseen: use one that does"
        )
    return f"{info['size']}-{version}"


def list_files(groups: Sequence[Sequence[str]], resolve: Resolve, errors: Errors) -> list[list[ListedFile]]:
    """The files that brace ranges and globs match, each pattern expanded in order; stderr tells of absent ones.

    Args:
        groups: URIs with brace ranges and globs, of each source.
        resolve: see `Resolve`.
        errors: see `Errors`.

    Raises:
        UserError: a pattern matches nothing or a folder, the same file is matched twice, also by two groups, or braces
            stand for too much.
    """
    found = [_listed(patterns, resolve, errors) for patterns in groups]
    places = Counter(_scheme(each.uri) + resolve(each.uri)[1] for group in found for each in group)
    twice = next((place for place, times in places.items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is matched twice by the shard patterns: name each shard once, in one source")
    return found


def _listed(patterns: Sequence[str], resolve: Resolve, errors: Errors) -> list[ListedFile]:
    try:
        check_braces(patterns)
    except BracesError as error:
        raise UserError(str(error)) from error
    found: list[ListedFile] = []
    for pattern in patterns:
        uris = expanded(pattern)
        some = matches(uris, resolve, errors)
        if not some:
            raise UserError(
                f"no shard matches {pattern}: check the path (brace ranges {{000..127}} and globs * are expanded)"
            )
        _tell_absent(pattern, uris, some)
        found += some
    if len(found) > MAX_TEXTS:
        raise UserError(f"{len(found)} shards are more than {MAX_TEXTS}: use larger shards")
    return found


def _tell_absent(pattern: str, uris: Sequence[str], found: Sequence[ListedFile]) -> None:
    """Pools often have holes, so they stop nothing; a typing error in a range should not go unseen."""
    there = {each.uri for each in found}
    absent = [uri for uri in uris if uri not in there and not _is_glob(uri)]
    if absent:
        text = f"{len(absent)} of the {len(uris)} shards of {pattern} do not exist and are left out"
        print(f"diht: {text}, the first is {absent[0]}", file=sys.stderr, flush=True)


def _is_glob(uri: str) -> bool:
    return any(character in uri for character in "*?[")


def _scheme(uri: str) -> str:
    """What comes before a path in the URI of an object; empty for a file on a disk."""
    scheme = scheme_of(uri)
    return "" if scheme is None else f"{scheme}://"


def matches(uris: Sequence[str], resolve: Resolve, errors: Errors) -> list[ListedFile]:
    """The files that URIs without braces match, in order; those that match nothing are left out.

    Raises:
        UserError: one matches a folder.
    """
    globs = {uri for uri in uris if _is_glob(uri)}
    there = _named([uri for uri in uris if uri not in globs], resolve, errors)
    found: list[ListedFile] = []
    for uri in uris:
        if uri in globs:
            found += _globbed(uri, resolve, errors)
        elif uri in there:
            found.append(there[uri])
    return found


def _globbed(uri: str, resolve: Resolve, errors: Errors) -> list[ListedFile]:
    system, path = resolve(uri)
    with errors(uri, "list"):
        infos = cast("dict[str, dict[str, Any]]", system.glob(path, detail=True))
        return [_of(_scheme(uri) + match, match, infos[match]) for match in sorted(infos)]


def _named(uris: Iterable[str], resolve: Resolve, errors: Errors) -> dict[str, ListedFile]:
    """URI -> its file, for those that are there."""
    folders = defaultdict[str, list[str]](list)
    for uri in uris:
        folders[uri.rpartition("/")[0]].append(uri)
    found: dict[str, ListedFile] = {}
    for folder, names in folders.items():
        if len(names) > FEW and not isinstance(resolve(folder + "/")[0], LocalFileSystem):
            infos = infos_of(folder, resolve, errors)
            paths = {uri: resolve(uri)[1] for uri in names}
            found |= {uri: _of(uri, path, infos[path]) for uri, path in paths.items() if path in infos}
        else:
            found |= _asked(names, resolve, errors)
    return found


def infos_of(folder: str, resolve: Resolve, errors: Errors) -> dict[str, dict[str, Any]]:
    """Path -> what a listing says about it, of all files directly below a folder."""
    system, path = resolve(folder)
    with errors(folder, "list"):
        try:
            entries = cast("list[dict[str, Any]]", system.ls(path, detail=True))
        except FileNotFoundError:
            return {}
    files_last = sorted(entries, key=lambda entry: entry["type"] == "file")  # a folder may have the name of a file
    return {entry["name"]: entry for entry in files_last}


def _asked(uris: Sequence[str], resolve: Resolve, errors: Errors) -> dict[str, ListedFile]:
    """The files that are there, each asked for."""

    def ask(uri: str) -> ListedFile | None:
        system, path = resolve(uri)
        with errors(uri, "list"):
            try:
                return _of(uri, path, system.info(path))
            except FileNotFoundError:
                return None

    resolved = [resolve(uri)[0] for uri in uris]
    if len(uris) < 2 or isinstance(resolved[0], LocalFileSystem):
        found = list(map(ask, uris))
    else:
        with ThreadPoolExecutor(REQUESTS, "list") as pool:
            found = list(pool.map(ask, uris))
    return {each.uri: each for each in found if each is not None}


def _of(uri: str, path: str, info: Mapping[str, Any]) -> ListedFile:
    """A file; a folder raises UserError, with what to write."""
    if info["type"] == "directory":
        raise UserError(f"{uri} is a folder, not a shard: name the files in it, for example {uri.rstrip('/')}/*.tar")
    return ListedFile(uri, int(info["size"]), identity_of(info, path))
