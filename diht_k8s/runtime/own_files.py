"""The files that stages and runs write into a folder: told apart from those of people, and removed in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from diht_k8s.api.layout import pattern_of
from diht_k8s.data.shards.storage import Storage, temporary_of
from diht_k8s.runtime.signals import StopFlag

CHUNK: Final = 1000
"""Files that are removed between two looks at the stop flag."""


def pattern_of_file(name: str, patterns: Sequence[str]) -> int | None:
    """Which pattern a file matches first, or the one that a killed write would have made; None for one that is not ours."""
    return pattern_of(temporary_of(name) or name, patterns)


def remove_ours(
    storage: Storage,
    folder: str,
    patterns: Sequence[str],
    stop: StopFlag,
    advance: Callable[[int], object] = lambda files: None,
) -> None:
    """Remove the files of a folder that match some patterns, by these; the folder goes if it holds nothing else.

    Args:
        storage: where the folder is.
        folder: its URI or path.
        patterns: as of `STAGE_FILES`.
        stop: checked between some files.
        advance: gets the number of files that have gone since the last call.

    Raises:
        StopRequested: a signal.
    """
    above, _, name = folder.rpartition("/")  # an empty folder goes, and one that holds nothing else
    for names in _in_order(storage.files(folder), patterns):
        for start in range(0, len(names), CHUNK):
            stop.raise_if_requested("nothing that is left looks complete")
            chunk = names[start : start + CHUNK]
            storage.remove_files(above, [f"{name}/{file}" for file in chunk])
            advance(len(chunk))


def _in_order(names: Iterable[str], patterns: Sequence[str]) -> list[list[str]]:
    """Our files among some, by pattern."""
    found: list[list[str]] = [[] for _ in patterns]
    for name in names:
        if (number := pattern_of_file(name, patterns)) is not None:
            found[number].append(name)
    return found
