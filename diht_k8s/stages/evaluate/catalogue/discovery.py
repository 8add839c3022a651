"""Benchmarks found below a folder, those of a list and others.

A benchmark is a folder with `test/*.tar`, `test/nshards.txt`, `classnames.txt` and
`zeroshot_classification_templates.txt`; for its name see `catalogue.folder_names`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from diht_k8s.api.evaluate import Benchmark
from diht_k8s.api.layout import MARKER, join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.catalogue import PARENTS, CatalogueEntry, folder_names, plain_name
from diht_k8s.stages.evaluate.class_texts import CLASS_NAMES, TEMPLATES, WITH_CLASSES, is_imagenet, read_templates
from diht_k8s.stages.evaluate.importing import DATASET_TYPE


@dataclass(frozen=True)
class FoundBenchmark:
    """One benchmark of a list, as it lies below a root."""

    entry: CatalogueEntry
    folder: str | None
    """None: it is absent."""
    shards: int = 0
    problem: str | None = None
    """why it cannot be used as it is."""

    @property
    def whole(self) -> bool:
        """Whether it can be used as it is."""
        return self.folder is not None and self.problem is None


def candidate_folders(root: str, storage: Storage) -> set[str]:
    """Folders below a root that can be a benchmark's, relative to the root: a listing for each level that exists."""
    found: set[str] = set()
    open_parents = [""]
    while open_parents:
        parent = open_parents.pop()
        names = storage.folders(join(root, parent) if parent else root)
        below = [f"{parent}/{name}" if parent else name for name in names]
        found.update(below)
        open_parents += [name for name in below if name in PARENTS]
    return found


def find_benchmark(
    entry: CatalogueEntry, root: str, storage: Storage, folders: Collection[str] | None = None
) -> FoundBenchmark:
    """Whether a benchmark is below a root, and whether it is complete.

    Args:
        entry: of a catalogue.
        root: folder or prefix.
        storage: where it is.
        folders: the `candidate_folders` of the root, if they are known.
    """
    folders = candidate_folders(root, storage) if folders is None else folders
    for name in folder_names(entry.name):
        if name in folders and (shards := _shards(join(root, name), storage)):
            folder = join(root, name)
            return FoundBenchmark(entry, folder, shards, _problem(entry, folder, shards, storage))
    return FoundBenchmark(entry, None)


def find_unlisted(
    root: str, storage: Storage, folders: Collection[str], known: Collection[str]
) -> list[FoundBenchmark]:
    """Benchmarks that lie below a root and are in no list, as they are: type and classes are those of their own files.

    Args:
        root: folder or prefix.
        storage: where it is.
        folders: the `candidate_folders` of the root.
        known: names of benchmarks that are not listed again.
    """
    found: list[FoundBenchmark] = []
    for name in sorted(folders):
        plain = plain_name(name)
        if plain in known or name in PARENTS or not (shards := _shards(join(root, name), storage)):
            continue
        folder = join(root, name)
        entry = CatalogueEntry(
            name=plain,
            title=name,
            type=_type(folder, storage),
            metric="",
            licence="",
            source="",
            verified=False,
        )
        found.append(FoundBenchmark(entry, folder, shards, _problem(entry, folder, shards, storage)))
    return found


def benchmark_of(found: FoundBenchmark, storage: Storage) -> Benchmark:
    """The entry of `spec.evaluate.benchmarks` for a benchmark that is present."""
    assert found.folder is not None, "callers pass benchmarks that are present"
    entry, fields = found.entry, dict[str, Any]()
    shards = join(found.folder, "test", "{0..%d}.tar" % (found.shards - 1)) if found.shards > 1 else None  # noqa: UP031
    names = join(found.folder, CLASS_NAMES)
    if entry.type in (*WITH_CLASSES, "AnswerRanking") and storage.exists(names):
        fields["class_names"] = names
    return Benchmark.model_validate(
        {
            "name": entry.name,
            "type": entry.type,
            "shards": [shards or join(found.folder, "test", "0.tar")],
            "templates": _templates(entry, found.folder, storage),
            **fields,
        }
    )


def _shards(folder: str, storage: Storage) -> int:
    return sum(name.endswith(".tar") for name in storage.names(join(folder, "test")))


def _type(folder: str, storage: Storage) -> str:
    """The task that an import has written down, else what clip-benchmark says."""
    if storage.exists(marker := join(folder, MARKER)):
        return json.loads(storage.read_bytes(marker)).get("type", "Classification")
    if storage.exists(told := join(folder, DATASET_TYPE)) and storage.read_text(told).strip() == "retrieval":
        return "Retrieval"
    return "Classification"


def _problem(entry: CatalogueEntry, folder: str, shards: int, storage: Storage) -> str | None:
    count = join(folder, "test", "nshards.txt")
    if storage.exists(count) and (listed := storage.read_text(count).strip()) != str(shards):
        return f"nshards.txt says {listed} shards"
    if entry.type not in WITH_CLASSES:
        return None
    if not storage.exists(join(folder, CLASS_NAMES)):
        if is_imagenet(entry.name):
            return None
        return f"{CLASS_NAMES} is missing"
    names = len(storage.read_text(join(folder, CLASS_NAMES)).removesuffix("\n").split("\n"))
    return f"{CLASS_NAMES} has {names} names, not {entry.classes}" if entry.classes not in (None, names) else None


def _templates(entry: CatalogueEntry, folder: str, storage: Storage) -> list[str]:
    if entry.templates is not None:
        return [entry.templates] if isinstance(entry.templates, str) else entry.templates
    uri = join(folder, TEMPLATES)
    if entry.type not in WITH_CLASSES or not storage.exists(uri):
        return [] if entry.type not in (*WITH_CLASSES, "Retrieval") else ["{}"]
    return read_templates(storage, uri)
