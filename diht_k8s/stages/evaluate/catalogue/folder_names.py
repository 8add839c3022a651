"""Folder names of benchmarks as the public tools spell them: one table, read in both directions. Pure.

clip-benchmark calls a set `wds/vtab/dtd` and its repository `wds_vtab-dtd`; DataComp's download_evalsets.py writes
`wds_vtab-dtd_test`.
"""

from __future__ import annotations

from typing import Final

PREFIXES: Final = ("", "wds_", "wds/")
COLLECTIONS: Final = ("", "vtab-", "vtab/", "wilds-", "wilds/", "fairness-", "fairness/", "retrieval-", "retrieval/")
SUFFIXES: Final = ("", "_test")
"""Parts of a folder's name before and after the name of the set."""
OTHER_NAMES: Final = {
    "mscoco_captions": ("mscoco_2014_5k_test_image_text_retrieval",),
    "flickr30k": ("flickr_1k_test_image_text_retrieval",),
}
"""Sets that a tool calls by another name: DataComp's list, and the repositories from which it loads them."""
PARENTS: Final = frozenset(
    f"{prefix}{collection}".rpartition("/")[0]
    for prefix in PREFIXES
    for collection in COLLECTIONS
    if "/" in f"{prefix}{collection}"
)
"""Folders that hold benchmarks and are none."""


def folder_names(name: str) -> list[str]:
    """Folders in which a benchmark may lie below a root, the plainest first."""
    return [
        f"{prefix}{collection}{spelled}{suffix}"
        for spelled in (name, *OTHER_NAMES.get(name, ()))
        for collection in COLLECTIONS
        for prefix in PREFIXES
        for suffix in SUFFIXES
    ]


def plain_name(folder: str) -> str:
    """The name of the set in a folder's name, without what the tools put before and after it."""
    found = next((folder.removeprefix(prefix) for prefix in PREFIXES[1:] if folder.startswith(prefix)), folder)
    found = next((found.removeprefix(part) for part in COLLECTIONS[1:] if found.startswith(part)), found)
    found = found.removesuffix(SUFFIXES[1])
    return next((name for name, others in OTHER_NAMES.items() if found in others), found) or folder
