"""Files that are other versions than those that are meant, and copies that only look so, for their times were not copied. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from diht_k8s.api.errors import DataError

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
        f"({changed[0][0]} is the first); {COPY_WITH_TIMES}, or remove the filter's folder index from the copied output and "
        "run `diht index`"
    )
