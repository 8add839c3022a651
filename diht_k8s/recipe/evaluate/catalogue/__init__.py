"""Known benchmarks as data: what they measure, where to get them, and which are present below a folder.

A benchmark is a folder with `test/*.tar`, `test/nshards.txt`, `classnames.txt` and
`zeroshot_classification_templates.txt`; for its name see `folder_names`. `verified` says whether an entry is certain.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict

from diht_k8s.api.errors import UserError
from diht_k8s.api.evaluate import Benchmark
from diht_k8s.api.layout import join
from diht_k8s.recipe.evaluate.class_texts import CLASS_NAMES, TEMPLATES, is_imagenet, read_templates
from diht_k8s.recipe.shards.storage import Storage

LISTS: Final = ("diht29", "datacomp38")
PREFIXES: Final = ("", "wds_", "wds/")
COLLECTIONS: Final = ("", "vtab-", "vtab/", "wilds-", "wilds/", "fairness-", "fairness/")
SUFFIXES: Final = ("", "_test")
"""Parts of the folder names that DataComp's downloader and clip-benchmark give a data set, see `folder_names`."""


class Entry(BaseModel):
    """One benchmark."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    type: str
    """a type of `spec.evaluate.benchmarks`."""
    metric: str
    """the headline figure."""
    classes: int | None = None
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
    benchmarks: list[Entry]

    @property
    def averaged(self) -> bool:
        """Whether an average over all tasks is the published average."""
        return all(entry.verified and entry.computed for entry in self.benchmarks)

    def entry(self, name: str) -> Entry:
        """An entry by its name.

        Raises:
            UserError: there is none; the nearest name is given.
        """
        by_name = {entry.name: entry for entry in self.benchmarks}
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, 1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(by_name)}"
            raise UserError(f"{name} is no benchmark of {self.title}: {hint}")
        return by_name[name]


@dataclass(frozen=True)
class Presence:
    """What of one benchmark is present below a root."""

    entry: Entry
    folder: str | None
    """None: it is absent."""
    shards: int = 0
    problem: str | None = None
    """why it cannot be used as it is."""

    @property
    def whole(self) -> bool:
        """Whether it can be used as it is."""
        return self.folder is not None and self.problem is None


@cache
def catalogue(name: str) -> Catalogue:
    """One of `LISTS`.

    Raises:
        UserError: there is no such list; the nearest name is given.
    """
    if name not in LISTS:
        near = difflib.get_close_matches(name, LISTS, 1, cutoff=0.3) or LISTS
        raise UserError(f"{name} is no list of benchmarks: did you mean {near[0]}?")
    text = resources.files(__name__).joinpath(f"{name}.yaml").read_text()
    return Catalogue.model_validate(yaml.safe_load(text))


def folder_names(name: str) -> list[str]:
    """Folders in which a benchmark may lie below a root, the plainest first.

    clip-benchmark calls a set `wds/vtab/dtd` and its repository `wds_vtab-dtd`; DataComp's download_evalsets.py writes
    `wds_vtab-dtd_test`.
    """
    return [
        f"{prefix}{collection}{name}{suffix}"
        for collection in COLLECTIONS
        for prefix in PREFIXES
        for suffix in SUFFIXES
    ]


def _folders(root: str, storage: Storage) -> set[str]:
    """Folders below a root that can be a benchmark's, relative to the root: a listing for each level that exists."""
    parents = {name.rpartition("/")[0] for name in folder_names("")}
    found: set[str] = set()
    open_parents = [""]
    while open_parents:
        parent = open_parents.pop()
        names = storage.folders(join(root, parent) if parent else root)
        below = [f"{parent}/{name}" if parent else name for name in names]
        found.update(below)
        open_parents += [name for name in below if name in parents]
    return found


def presence(entry: Entry, root: str, storage: Storage) -> Presence:
    """Whether a benchmark is below a root, and whether it is complete."""
    present = _folders(root, storage)
    for name in folder_names(entry.name):
        if name not in present:
            continue
        folder = join(root, name)
        shards = [name for name in storage.names(join(folder, "test")) if name.endswith(".tar")]
        if shards:
            return Presence(entry, folder, len(shards), _problem(entry, folder, len(shards), storage))
    return Presence(entry, None)


def _problem(entry: Entry, folder: str, shards: int, storage: Storage) -> str | None:
    count = join(folder, "test", "nshards.txt")
    if storage.exists(count) and (listed := storage.read_text(count).strip()) != str(shards):
        return f"nshards.txt says {listed} shards"
    if entry.type != "Classification":
        return None
    if not storage.exists(join(folder, CLASS_NAMES)):
        if is_imagenet(entry.name):
            return None
        return f"{CLASS_NAMES} is missing"
    names = len(storage.read_text(join(folder, CLASS_NAMES)).removesuffix("\n").split("\n"))
    return f"{CLASS_NAMES} has {names} names, not {entry.classes}" if entry.classes not in (None, names) else None


def benchmark_of(found: Presence, storage: Storage) -> Benchmark:
    """The entry of `spec.evaluate.benchmarks` for a benchmark that is present."""
    assert found.folder is not None, "callers pass benchmarks that are present"
    entry, fields = found.entry, dict[str, Any]()
    shards = join(found.folder, "test", "{0..%d}.tar" % (found.shards - 1)) if found.shards > 1 else None  # noqa: UP031
    if entry.type == "Classification" and storage.exists(join(found.folder, CLASS_NAMES)):
        fields["class_names"] = join(found.folder, CLASS_NAMES)
    return Benchmark.model_validate(
        {
            "name": entry.name,
            "type": entry.type,
            "shards": [shards or join(found.folder, "test", "0.tar")],
            "templates": _templates(entry, found.folder, storage),
            **fields,
        }
    )


def _templates(entry: Entry, folder: str, storage: Storage) -> list[str]:
    if entry.templates is not None:
        return [entry.templates] if isinstance(entry.templates, str) else entry.templates
    uri = join(folder, TEMPLATES)
    if entry.type != "Classification" or not storage.exists(uri):
        return ["{}"]
    return read_templates(storage, uri)
