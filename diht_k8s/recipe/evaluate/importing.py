"""A data set on disk into shards that `evaluate` and clip-benchmark read, with class names and templates beside them.

OUTPUT/test/{0..N-1}.tar, test/nshards.txt, classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt,
and last COMMITTED.json. Each finished shard has a record in OUTPUT/import, so that an interrupted import resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import differences, sha256_of
from diht_k8s.api.layout import join
from diht_k8s.recipe.evaluate.class_texts import CLASS_NAMES, TEMPLATES, Texts, read_templates
from diht_k8s.recipe.evaluate.packaged_texts import packaged_names, packaged_templates
from diht_k8s.recipe.imports.records import Source
from diht_k8s.recipe.imports.shard_writer import ShardFacts, bounds, write_shard
from diht_k8s.recipe.shards.storage import Storage

VERSION: Final = 1
MARKER: Final = "COMMITTED.json"
STARTED: Final = "import/started.json"
DATASET_TYPE: Final = "dataset_type.txt"
FIXED_FILES: Final = (CLASS_NAMES, TEMPLATES, DATASET_TYPE, "test/nshards.txt", STARTED, MARKER)
TYPES: Final = {"Classification": "classification", "AnswerRanking": "questions"}
"""What dataset_type.txt says; all others are `retrieval`, as images with captions are in clip-benchmark."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """Where an import goes, and what a user gives with it."""

    output: str
    split: str = "test"
    class_names: str | None = None
    templates: str | None = None
    per_shard: int = 1000
    replace: bool = False


def import_benchmark(
    source: Source, order: Order, storage: Storage, begin: Callable[[int, int], object], advance: Callable[[], object]
) -> Json:
    """Write a benchmark, or what an interrupted import has left of it; the content of its marker.

    Args:
        source: what is imported.
        order: where to, and how.
        storage: where the output is.
        begin: called once with the number of records and how many of them are already there.
        advance: called after each record.

    Raises:
        UserError: the output holds something else, or class names do not fit.
        DataError: no record of a shard can be used.
    """
    names, templates = class_names(source, order, storage), templates_of(source, order, storage)
    parts = bounds(source.total, order.per_shard)
    config: Json = {
        "version": VERSION,
        "kind": source.kind,
        "type": source.type,
        "split": order.split,
        "records": source.total,
        "source": source.fingerprint,
        "shards": len(parts),
        "class_names": sha256_of(names.lines),
        "templates": sha256_of(templates.lines),
    }
    if (found := _begin(storage, order, config)) is not None:
        begin(source.total, source.total)
        return found
    done = [_finished(storage, order.output, number) for number in range(len(parts))]
    begin(source.total, sum(stop - start for (start, stop), facts in zip(parts, done, strict=True) if facts))
    _write_texts(storage, order.output, source, names, templates, len(parts))
    for number, (start, stop) in enumerate(parts):
        if done[number] is None:
            uri = join(order.output, f"test/{number}.tar")
            done[number] = facts = write_shard(storage, uri, source, start, stop, advance)
            storage.write_bytes(join(order.output, f"import/{number}.json"), _json(facts.to_json()))
    finished = [each for each in done if each is not None]
    marker = {
        "schema_version": 1,
        "config": config,
        "type": source.type,
        "kind": source.kind,
        "samples": sum(each.samples for each in finished),
        "bad": _summed(finished),
        "shards": [{"name": f"test/{n}.tar", **each.to_json()} for n, each in enumerate(finished)],
        "classes": len(names.lines),
        "class_names_from": names.source,
        "templates_from": templates.source,
        "notes": list(source.notes),
    }
    storage.write_bytes(join(order.output, MARKER), _json(marker))
    return marker


def class_names(source: Source, order: Order, storage: Storage) -> Texts:
    """The names given, else a package's if they are as many as the classes, else those of the data set.

    Raises:
        UserError: names are given and their number is not that of the classes.
    """
    own = Texts(list(source.class_names), "the data set" if source.class_names else "")
    if order.class_names is not None:
        lines = [line.strip() for line in storage.read_text(order.class_names).rstrip().splitlines()]
        if own.lines and len(lines) != len(own.lines) and source.type == "Classification":
            raise UserError(
                f"{order.class_names} has {len(lines)} names, but the data set has {len(own.lines)} classes: give one "
                "name a line, in the order of the class numbers"
            )
        return Texts(lines, order.class_names)
    found = packaged_names(source.texts) if source.texts is not None else None
    return Texts(*found) if found is not None and len(found[0]) == len(own.lines) else own


def templates_of(source: Source, order: Order, storage: Storage) -> Texts:
    """The templates given, else a package's, else none: the benchmark's own default holds then.

    Raises:
        UserError: a template has no place for the class name.
    """
    if order.templates is not None:
        lines = read_templates(storage, order.templates)
        if not lines or any("{c}" not in line and "{}" not in line for line in lines):
            raise UserError(f"{order.templates} needs one template a line, each with {{c}} for the class name")
        return Texts([line.replace("{}", "{c}") for line in lines], order.templates)
    found = packaged_templates(source.texts) if source.texts is not None else None
    return Texts(*found) if found is not None else Texts([], "")


def _begin(storage: Storage, order: Order, config: Json) -> Json | None:
    """The marker if this import is there already; otherwise the output belongs to it from now on.

    Raises:
        UserError: the output holds another import, or shards of somebody else.
    """
    output = order.output
    started, marker = join(output, STARTED), join(output, MARKER)
    if not storage.exists(started):
        if any(name.endswith(".tar") for name in storage.names(join(output, "test"))):
            raise UserError(f"{output} holds shards that were not imported by diht: choose another OUTPUT")
    elif (before := json.loads(storage.read_bytes(started))) == config:
        return json.loads(storage.read_bytes(marker)) if storage.exists(marker) else None
    elif not order.replace:
        what = "; ".join(differences(before, config)[:4])
        raise UserError(f"{output} holds another import ({what}): choose another OUTPUT, or add --replace")
    else:
        written = [f"{folder}/{n}.{suffix}" for n in range(before["shards"]) for folder, suffix in _PARTS]
        storage.remove_files(output, [MARKER, *written, *FIXED_FILES])
    storage.write_bytes(started, _json(config))
    return None


_PARTS: Final = (("test", "tar"), ("import", "json"))


def _finished(storage: Storage, output: str, number: int) -> ShardFacts | None:
    """What a finished shard holds; None if it has to be written."""
    record, shard = join(output, f"import/{number}.json"), join(output, f"test/{number}.tar")
    if not storage.exists(record) or not storage.exists(shard):
        return None
    facts = ShardFacts(**json.loads(storage.read_bytes(record)))
    return facts if storage.size(shard) == facts.size else None


def _write_texts(storage: Storage, output: str, source: Source, names: Texts, templates: Texts, shards: int) -> None:
    """The number of shards comes first: until all are there, `diht benchmarks` says that the set is not whole."""
    storage.write_bytes(join(output, "test/nshards.txt"), f"{shards}\n".encode())
    storage.write_bytes(join(output, DATASET_TYPE), f"{TYPES.get(source.type, 'retrieval')}\n".encode())
    for name, texts in ((CLASS_NAMES, names), (TEMPLATES, templates)):
        if texts.lines:
            storage.write_bytes(join(output, name), ("\n".join(texts.lines) + "\n").encode())


def _summed(facts: Sequence[ShardFacts]) -> Json:
    total = ShardFacts()
    for each in facts:
        for reason, found in each.bad.items():
            total.add_bad(reason, found["example"], found["count"])
    return dict(sorted(total.bad.items()))


def _json(document: Json) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True).encode()
