"""Known benchmarks as data: what they measure and where to get them. `verified` says whether an entry is certain.

Public tools spell their folders in several ways: clip-benchmark calls a set `wds/vtab/dtd` and its repository
`wds_vtab-dtd`; DataComp's download_evalsets.py writes `wds_vtab-dtd_test`.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict

from diht_k8s.api.errors import UserError, suggestion

LISTS: Final = ("diht29", "datacomp38", "vtab")


class CatalogueEntry(BaseModel):
    """One benchmark."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    type: str
    """a type of `spec.evaluate.benchmarks`."""
    metric: str
    """the headline figure."""
    classes: int | None = None
    images: int | None = None
    """number of test images."""
    chance: float | None = None
    """the headline figure of guessing; None if it follows from the number of classes or the gallery."""
    templates: str | list[str] | None = None
    """`openai80` (open_clip ships it) or a list; None: the file beside the shards, `{}` if there is none."""
    tasks: int = 1
    """retrieval counts once in each direction in DiHT's list."""
    computed: bool = True
    """False: the metric is not implemented."""
    licence: str
    source: str
    verified: bool
    note: str = ""

    @property
    def guessing(self) -> float | None:
        """The figure of guessing."""
        if self.chance is not None or not self.classes or self.metric not in ("top1", "balanced"):
            return self.chance
        return 1 / self.classes


class Catalogue(BaseModel):
    """A list of benchmarks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    tasks: int
    benchmarks: list[CatalogueEntry]

    @property
    def averaged(self) -> bool:
        """Whether an average over all tasks is the published average."""
        return all(entry.verified and entry.computed for entry in self.benchmarks)

    def entry(self, name: str) -> CatalogueEntry:
        """An entry by its name.

        Raises:
            UserError: there is none; the nearest name is given.
        """
        by_name = {entry.name: entry for entry in self.benchmarks}
        if name not in by_name:
            hint = suggestion(name, by_name, f"it has {', '.join(by_name)}", cutoff=0.4)
            raise UserError(f"{name} is no benchmark of {self.title}: {hint}")
        return by_name[name]


@cache
def catalogue(name: str) -> Catalogue:
    """One of `LISTS`.

    Raises:
        UserError: there is no such list; the nearest name is given.
    """
    if name not in LISTS:
        hint = suggestion(name, LISTS, f"there are {', '.join(LISTS)}", cutoff=0.3)
        raise UserError(f"{name} is no list of benchmarks: {hint}")
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text()
    return Catalogue.model_validate(yaml.safe_load(text))


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
