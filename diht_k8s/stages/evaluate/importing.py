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
from diht_k8s.api.layout import join
from diht_k8s.data.imports.records import RecordSource
from diht_k8s.data.imports.resumable_import import (
    MARKER,
    ImportTarget,
    json_bytes,
    renewed,
    resume,
    seen_json,
    seen_units,
    settle,
    sole_writer,
    write_missing,
)
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

VERSION: Final = 2
DATASET_TYPE: Final = "dataset_type.txt"
FIXED_FILES: Final = (CLASS_NAMES, TEMPLATES, DATASET_TYPE, "test/nshards.txt")
TYPES: Final = {"Classification": "classification", "MultiLabel": "multilabel", "AnswerRanking": "questions"}
"""What dataset_type.txt says; all others are `retrieval`, as images with captions are in clip-benchmark."""

Json = dict[str, Any]


@dataclass(frozen=True)
class BenchmarkImport:
    """Where an import goes, and what a user gives with it."""

    output: str
    split: str = "test"
    class_names: str | None = None
    templates: str | None = None
    per_shard: int = 1000
    replace: bool = False
    links: tuple[str, ...] = ()
    """folders outside of the source in which its files may lie."""


def import_benchmark(
    source: RecordSource,
    plan: BenchmarkImport,
    storage: Storage,
    begin: Callable[[int, int], object],
    advance: Callable[[], object],
) -> Json:
    """Write a benchmark, or what an interrupted import has left of it; the content of its marker.

    Args:
        source: what is imported.
        plan: where to, and how.
        storage: where the output is.
        begin: called once with the number of records and how many of them are already there.
        advance: called after each record.

    Raises:
        UserError: the output holds something else, or class names do not fit.
        RetryableError: another import writes there now.
        DataError: no record of a shard can be used, or something that was seen is not accounted for.
    """
    names, templates = class_names_for(source, plan, storage), templates_for(source, plan, storage)
    parts = shard_bounds(source.total, plan.per_shard)
    config: Json = {
        "version": VERSION,
        "kind": source.kind,
        "type": source.type,
        "split": plan.split,
        "records": source.total,
        "source": source.fingerprint,
        "shards": len(parts),
        "class_names": sha256_of(names.lines),
        "templates": sha256_of(templates.lines),
        "links": list(plan.links),
    }
    target = ImportTarget(plan.output, lambda number: f"test/{number}.tar", FIXED_FILES, replace=plan.replace)
    with sole_writer(storage, target, len(parts)):
        found, done = resume(storage, target, config, parts, begin)
        if found is not None:
            return renewed(storage, target, found, seen_json(seen_units(source)))
        _write_texts(storage, plan.output, source, names, templates, len(parts))
        finished = write_missing(storage, target, source, parts, done, advance, pack=pack_for_benchmark)
        marker = {
            "schema_version": 1,
            "config": config,
            "type": source.type,
            "kind": source.kind,
            **settle(source, finished, plan.output),
            "shards": [{"name": f"test/{n}.tar", **each.to_json()} for n, each in enumerate(finished)],
            "classes": len(names.lines),
            "class_names_from": names.source,
            "templates_from": templates.source,
            "notes": list(source.notes),
        }
        storage.write_bytes(join(plan.output, MARKER), json_bytes(marker))
    return marker


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


def _write_texts(
    storage: Storage, output: str, source: RecordSource, names: SourcedTexts, templates: SourcedTexts, shards: int
) -> None:
    """The number of shards comes first: until all are there, `diht benchmarks` says that the set is not whole."""
    storage.write_bytes(join(output, "test/nshards.txt"), f"{shards}\n".encode())
    storage.write_bytes(join(output, DATASET_TYPE), f"{TYPES.get(source.type, 'retrieval')}\n".encode())
    for name, texts in ((CLASS_NAMES, names), (TEMPLATES, templates)):
        if texts.lines:
            storage.write_bytes(join(output, name), ("\n".join(texts.lines) + "\n").encode())
