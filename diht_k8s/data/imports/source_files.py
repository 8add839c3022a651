"""The files of a data set, read only where they may lie: in SOURCE, in `--images` and where `--allow-links` lets links lead.

A link or a path of a table may name any file of the machine (`caption.txt -> /etc/shadow`), whose content would then be
in the shards.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diht_k8s.api.errors import UserError

MAX_FILE_BYTES: Final = 256 << 20
"""Of a file that is read into memory: above a TIFF of as many pixels as an image may have."""
OUTSIDE: Final = "outside_of_source"
LINKS_ADVICE: Final = "files outside of SOURCE are not read: name where links and paths may lead by --allow-links DIR"
DANGLING: Final = "link_dangling"
NO_FILE: Final = "no_file"
"""Reasons of a `SourceFileError`, beside missing, unreadable and file_too_large."""


class SourceFileError(Exception):
    """A file cannot be read, or must not be."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class SourceRoots:
    """The folders in which the files of a data set may lie, without links."""

    folders: tuple[str, ...]

    @classmethod
    def of(cls, *folders: Path | None) -> SourceRoots:
        """The folders that are given, links in their own paths followed: the user named them."""
        return cls(tuple(dict.fromkeys(os.path.realpath(folder) for folder in folders if folder is not None)))

    def holds(self, real: str) -> bool:
        """Whether a path without links lies in one of the folders."""
        return any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in self.folders)

    def refusal(self, path: Path) -> str | None:
        """Why a file is not read, as far as its name says; None for one that may be."""
        try:
            if not self.holds(os.path.realpath(path)):
                return OUTSIDE
            return None if stat.S_ISREG(path.stat().st_mode) else NO_FILE
        except (FileNotFoundError, NotADirectoryError):
            return DANGLING if os.path.islink(path) else "missing"
        except (OSError, ValueError):  # a loop of links, a name that is too long, a NUL in it
            return DANGLING if os.path.islink(path) else "unreadable"

    def read(self, path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
        """The content of a file.

        Args:
            path: with or without links.
            limit: most bytes.

        Raises:
            SourceFileError: it is not there, is no file, lies elsewhere, is too large or cannot be read.
        """
        if (reason := self.refusal(path)) is not None:
            raise SourceFileError(reason)
        try:
            # a pipe in the file's place must not stop the import
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as file:
                facts = os.fstat(handle)
                if not stat.S_ISREG(facts.st_mode):
                    raise SourceFileError(NO_FILE)
                if not self.holds(_path_of(handle, path)):  # the link was changed since it was looked at
                    raise SourceFileError(OUTSIDE)
                data = file.read(min(facts.st_size, limit) + 1)  # a buffer of as many bytes is made
        except FileNotFoundError as error:
            raise SourceFileError("missing") from error
        except OSError as error:
            raise SourceFileError("unreadable") from error
        if len(data) > limit:
            raise SourceFileError("file_too_large")
        return data


@dataclass(frozen=True)
class SourceFile:
    """A file of a data set, which is read when its record is written."""

    path: Path
    roots: SourceRoots

    def read(self) -> bytes:
        """Its content; raises what `SourceRoots.read` does."""
        return self.roots.read(self.path)


def require_inside(path: Path, roots: SourceRoots) -> None:
    """Check a table or annotation file that was found, not named.

    Raises:
        UserError: it is a link that leaves the folders.
    """
    if roots.refusal(path) == OUTSIDE:
        real = os.path.realpath(path)
        raise UserError(
            f"{path} is a link that leaves SOURCE: it leads to {real}: allow it by --allow-links {os.path.dirname(real)}"
        )


def _path_of(handle: int, path: Path) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:  # no /proc
        return os.path.realpath(path)
