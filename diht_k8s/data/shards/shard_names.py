"""The names under which stages write what belongs to a file of their input: distinct by construction.

A file is named after itself. Files that would share a name all get a part of a digest of their URIs behind it, so no name
depends on the order of the files, nor on how many there are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

FEWEST_DIGITS: Final = 8
MOST_DIGITS: Final = 64


def stem(uri: str) -> str:
    """The base name of a file up to its first dot."""
    return PurePosixPath(uri).name.partition(".")[0]


def distinct_names(files: Sequence[tuple[str, str]]) -> list[str]:
    """A name for each file, its wanted one where no other file wants it, and else with a digest behind it.

    Args:
        files: wanted name and URI of each; no pair comes twice.
    """
    wanted = Counter(name for name, _ in files)
    digests = {
        file: hashlib.sha256("\0".join(file).encode(errors="surrogateescape")).hexdigest()
        for file in files
        if wanted[file[0]] > 1
    }
    for digits in range(FEWEST_DIGITS, MOST_DIGITS + 1):
        names = [f"{file[0]}-{digests[file][:digits]}" if file in digests else file[0] for file in files]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("no two files have the same wanted name and URI")
