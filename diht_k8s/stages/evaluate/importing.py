"""A data set on disk into shards that `evaluate` and clip-benchmark read, with class names and templates beside them.

OUTPUT/test/{0..N-1}.tar, test/nshards.txt, classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt,
and last COMMITTED.json. Each finished shard has a record in OUTPUT/import, so that an interrupted import resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.data.imports.provenance import storable_path
from diht_k8s.data.imports.records import RecordSource
from diht_k8s.data.imports.resumable_import import ImportPlan, ImportTarget, run_import
from diht_k8s.data.imports.shard_writer import pack_for_benchmark, shard_bounds
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.evaluate.class_texts import (
    CLASS_NAMES,
    TEMPLATES,
    SourcedTexts,
    packaged_names,
    packaged_templates,
    read_lines,
    read_templates,
)

DATASET_TYPE: Final = "dataset_type.txt"
TYPES: Final = {"Classification": "classification", "MultiLabel": "multilabel", "AnswerRanking": "questions"}
"""What dataset_type.txt says; all others are `retrieval`, as images with captions are in clip-benchmark."""


@dataclass(frozen=True)
class BenchmarkImport(ImportPlan):
    """Where an import goes, and what a user gives with it."""

    split: str = "test"
    class_names: str | None = None
    templates: str | None = None


def import_benchmark(
    source: RecordSource,
    plan: BenchmarkImport,
    storage: Storage,
    begin: Callable[[int, int], object],
    advance: Callable[[], object],
) -> dict[str, Any]:
    """Write a benchmark, or what an interrupted import has left of it; the content of its marker (see `run_import`).

    Raises:
        UserError: class names do not fit.
    """
    names, templates = class_names_for(source, plan, storage), templates_for(source, plan, storage)
    texts = {
        # the number of shards comes first: until all are there, `diht benchmarks` says that the set is not whole
        "test/nshards.txt": [str(len(shard_bounds(source.total, plan.per_shard)))],
        DATASET_TYPE: [TYPES.get(source.type, "retrieval")],
        CLASS_NAMES: names.lines,
        TEMPLATES: templates.lines,
    }
    target = ImportTarget(
        name=lambda number: f"test/{number}.tar",
        pack=pack_for_benchmark,
        config={
            "type": source.type,
            "split": storable_path(plan.split),
            "class_names": sha256_of(names.lines),
            "templates": sha256_of(templates.lines),
        },
        facts={
            "classes": len(names.lines),
            "class_names_from": names.source,
            "templates_from": templates.source,
        },
        others={name: ("\n".join(lines) + "\n").encode() if lines else None for name, lines in texts.items()},
    )
    return run_import(source, plan, target, storage, begin, advance)


def class_names_for(source: RecordSource, plan: BenchmarkImport, storage: Storage) -> SourcedTexts:
    """The names given, else a package's if they are as many as the classes, else those of the data set.

    Raises:
        UserError: names are given and their number is not that of the classes, or one of the data set's own is empty or
            no UTF-8.
    """
    # a line each: the readers of the file take U+2028 and others for the end of one
    lines = [" ".join(name.split()) for name in source.class_names]
    own = SourcedTexts(lines, "the data set" if lines else "")
    if plan.class_names is not None:
        given = read_lines(storage, plan.class_names)
        if own.lines and len(given) != len(own.lines):
            raise UserError(
                f"{plan.class_names} has {len(given)} names, but the data set has {len(own.lines)} classes: give one "
                "name a line, in the order of the class numbers"
            )
        return SourcedTexts(_in_places(own.lines, given) if own.lines else given, plan.class_names)
    found = packaged_names(source.texts) if source.texts is not None else None
    if found is not None and len(found[0]) == len(own.lines):
        return SourcedTexts(*found)
    if (broken := next((n for n, name in enumerate(own.lines) if not _is_utf8(name)), None)) is not None:
        raise UserError(
            f"class {broken} of the data set has a name that is no UTF-8 ({own.lines[broken]!a}): give names by "
            "--class-names"
        )
    if "" in own.lines:
        raise UserError(f"class {own.lines.index('')} of the data set has an empty name: give names by --class-names")
    return own


def _in_places(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Given names, each in the place of its class: by the numbers where a data set's own names are numbers."""
    numbered = all(map(str.isdecimal, names))
    places = sorted(range(len(names)), key=lambda place: int(names[place])) if numbered else range(len(names))
    return [name for _, name in sorted(zip(places, given, strict=True))]


def _is_utf8(text: str) -> bool:
    """Whether a text holds no lone surrogates, which stand for other bytes or for half a character."""
    return text == text.encode(errors="ignore").decode()


def templates_for(source: RecordSource, plan: BenchmarkImport, storage: Storage) -> SourcedTexts:
    """The templates given, else a package's, else none: the benchmark's own default holds then.

    Raises:
        UserError: a template has no place for the class name.
    """
    if plan.templates is not None:
        lines = read_templates(storage, plan.templates)
        if not lines or any("{c}" not in line and "{}" not in line for line in lines):
            raise UserError(f"{plan.templates} needs one template a line, each with {{c}} for the class name")
        return SourcedTexts([line.replace("{}", "{c}") for line in lines], plan.templates)
    found = packaged_templates(source.texts) if source.texts is not None else None
    return SourcedTexts(*found) if found is not None else SourcedTexts([], "")
