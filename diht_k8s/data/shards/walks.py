# pyright: reportMissingTypeStubs=false
"""File systems of fsspec whose walks, and with them globs and lists of all files below a folder, tell what cannot be listed.

Fsspec's own take such a folder for an empty one, so that its shards would be left out without a word.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Final

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

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
