"""Hugging Face data sets on disk: the Parquet files of a repository, or the Arrow files of `save_to_disk`.

As benchmarks, their columns decide the task.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from diht_k8s.api.errors import DataError, UserError, in_one_line
from diht_k8s.data.imports.folders import SPLITS, shallow_files
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    SourceFile,
    SourceRoots,
    Tally,
    file_stats,
    fingerprint,
    printable,
    require_inside,
)
from diht_k8s.data.imports.text_tables import require_distinct

BATCH: Final = 64
"""Rows that are in memory at a time: a row of images may be large."""
BUFFER: Final = 1 << 18
"""Bytes of a column that are read at a time: without it, those of a whole row group."""
_CARD_HEAD: Final = re.compile(r"---\s*\n(.*?)\n---", re.DOTALL)
"""The YAML at the beginning of a README.md."""
_NUMBER: Final = re.compile(
    r"([-_.]\d+[-_]of[-_]\d+([-_.][0-9a-f]+)?|[-_.](part|shard)?[-_.]?\d+)(\.(snappy|zstd|gz|gzip|lz4|brotli|c000))*$"
)
"""Which file of a split it is, at the end of a name: as `datasets` or Spark writes it, or another number."""


@dataclass(frozen=True)
class Table:
    """The files of one split, in order."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """number of the first row of each file, and of the row after the last."""
    schema: pa.Schema
    features: dict[str, Any]
    """what `datasets` says of the columns, by name; {} where it says nothing."""
    roots: SourceRoots
    """where files that its cells name may lie."""

    @property
    def total(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    def rows(self, columns: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Some columns of a range of rows.

        Raises:
            DataError: a file is damaged.
        """
        stop = self.total if stop is None else stop
        number = bisect.bisect_right(self.starts, start) - 1
        while start < stop and number < len(self.files):
            first, last = start - self.starts[number], min(stop, self.starts[number + 1]) - self.starts[number]
            try:
                yield from _rows(self.files[number], list(columns), first, last)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(self.files[number], error) from error
            number += 1
            start = self.starts[number]


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds Parquet files or what `save_to_disk` writes."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json", "dataset_info.json")):
        return True
    return any(path.suffix == ".parquet" for path in shallow_files(folder, 2)) or any(
        path.suffix == ".arrow" for path in shallow_files(folder, 1)
    )


def open_table(path: Path, options: ReaderOptions) -> Table:
    """The rows of one split of a folder, or of one file.

    Raises:
        UserError: there is no such split, its files are those of several data sets, or one is a link out of the folder.
        DataError: a file is damaged, or there are no rows.
    """
    split, roots = options.split, options.roots(path if path.is_dir() else path.parent)
    files = [path] if path.is_file() else _files(path, split)
    if path.is_dir():
        for file in files:
            require_inside(file, roots)
        _require_one_config(path, files)
    starts, schema, features = [0], None, dict[str, Any]()
    for file in files:
        try:
            rows, found = _size(file)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file, error) from error
        if schema is None:
            schema, features = found, _features(found, file)
        elif (difference := _difference(schema, features, found, _features(found, file))) is not None:
            raise _several(files[0], file, f"they differ in the {difference}")
        starts.append(starts[-1] + rows)
    if schema is None or not starts[-1]:
        raise DataError(f"{path} has no rows in split {split}: fetch it again")
    require_distinct(path, schema.names)
    return Table(tuple(files), tuple(starts), schema, features, roots)


def _files(folder: Path, split: str) -> list[Path]:
    """The files whose names hold the split as a whole, else those that begin with it (`test_000.parquet`).

    Raises:
        UserError: there is no such split, or several begin with it.
    """
    found = _split_files(folder)
    if not found:
        raise UserError(f"{folder} holds no Parquet or Arrow files: name the folder of the data set")
    if exact := [file.path for file in found if split in file.names]:
        return exact
    if all(not file.word for file in found):
        return [file.path for file in found]
    alike = [file for file in found if file.word == split]
    if not alike:
        names = ", ".join(sorted({file.names[0] for file in found if file.word}))
        raise UserError(f"{folder} has no split {split}: choose one by --split ({names})")
    if len(several := sorted({file.names[0] for file in alike})) > 1:
        raise UserError(
            f"{folder} has several splits that begin with {split}: choose one by --split ({', '.join(several)}); parts "
            f"of one split differ in a number alone ({split}_0, {split}_1)"
        )
    return [file.path for file in alike]


@dataclass(frozen=True)
class _SplitFile:
    """A file, and the split that its path names: `data/test-00000-of-00001.parquet`, `test/0.parquet`."""

    path: Path
    names: tuple[str, ...]
    """the split's whole name, such as `test_seen`; all parts of the path where none begins as splits do."""
    word: str
    """the first word of the name, one of `SPLITS`; "" where there is none."""
    place: tuple[str, ...]
    """the folders above what names the split: splits of one data set have the same."""


def _split_files(folder: Path) -> list[_SplitFile]:
    found = sorted(
        path
        for suffix, depth in ((".parquet", 3), (".arrow", 2))
        for path in shallow_files(folder, depth)
        if path.suffix == suffix and not path.name.startswith("cache-")
    )
    return [_split_file(path, folder) for path in found]


def _split_file(path: Path, folder: Path) -> _SplitFile:
    parts = path.relative_to(folder).with_suffix("").parts
    names = tuple(_NUMBER.sub("", part) for part in parts)
    for depth, name in reversed([*enumerate(names)]):
        word = re.split(r"[-_.]", name, maxsplit=1)[0].lower()
        if word in SPLITS:
            return _SplitFile(path, (name,), word, parts[:depth])
    return _SplitFile(path, names, "", parts[:-1])


def values_elsewhere(path: Path, table: Table, column: str, kind: type) -> tuple[dict[str, set[Any]], list[Path]]:
    """What a column holds in the other splits of a table's data set, as far as they lie in its folder.

    Args:
        path: what the user names.
        table: of one split.
        column: its name.
        kind: type of the values; others do not count.

    Returns:
        Of each other split its values, and the files that cannot be read, such as pointers of Git LFS.

    Raises:
        UserError: a file is a link that leaves the folder.
    """
    files = _split_files(path) if path.is_dir() else []
    places = {file.place for file in files if file.path in table.files}
    found: dict[str, set[Any]] = {}
    unread: list[Path] = []
    for file in (each for each in files if each.place in places and each.path not in table.files):
        require_inside(file.path, table.roots)
        try:
            rows, schema = _size(file.path)
            if column in schema.names:
                values = (row[column] for row in _rows(file.path, [column], 0, rows))
                found.setdefault(file.names[0], set()).update(value for value in values if isinstance(value, kind))
        except (pa.ArrowException, OSError):
            unread.append(file.path)
    return found, unread


def _require_one_config(folder: Path, files: Sequence[Path]) -> None:
    """Refuse files of several folders where the repository's README.md lists several configs; else they may be parts.

    Raises:
        UserError: names two of the folders.
    """
    other = next((file for file in files if file.parent != files[0].parent), None)
    if other is not None and _configs(folder / "README.md") > 1:
        raise _several(files[0], other, "README.md lists configs")


def _configs(card: Path) -> int:
    """Number of configs that the head of a README.md lists; 0 where it cannot be read."""
    if not card.is_file():
        return 0
    head = _CARD_HEAD.match(card.read_text(encoding="utf-8-sig", errors="replace"))
    try:
        facts = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return 0
    configs = facts.get("configs") if isinstance(facts, dict) else None
    return len(configs) if isinstance(configs, list) else 0


def _difference(
    schema: pa.Schema, features: Mapping[str, Any], other: pa.Schema, other_features: Mapping[str, Any]
) -> str | None:
    """Why two files are not of one data set; None where they may be. A file may say nothing of its features."""
    if columns := {*schema.names} ^ {*other.names}:
        return f"columns {printable(', '.join(sorted(columns)))}"
    unlike = sorted(name for name in {*features} & {*other_features} if features[name] != other_features[name])
    return f"features of {printable(', '.join(unlike))}" if unlike else None


def _several(first: Path, other: Path, why: str) -> UserError:
    if first.parent != other.parent:
        first, other = first.parent, other.parent
    return UserError(f"{first} and {other} are several data sets ({why}): name one of them")


def _size(path: Path) -> tuple[int, pa.Schema]:
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        return file.metadata.num_rows, file.schema_arrow
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return sum(batch.num_rows for batch in reader), reader.schema


def _rows(path: Path, columns: list[str], first: int, last: int) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False)
        yield from parquet_rows(file, columns, first, last)
        return
    seen = 0
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            low, high = max(first - seen, 0), min(last - seen, batch.num_rows)
            if low < high:
                chosen = batch.select([name for name in columns if name in batch.schema.names])
                for start in range(low, high, BATCH):
                    yield from _python_rows(chosen.slice(start, min(BATCH, high - start)))
            seen += batch.num_rows
            if seen >= last:
                return


def parquet_rows(
    file: pq.ParquetFile, columns: Sequence[str], first: int, last: int, *, batch_rows: int = BATCH
) -> Iterator[dict[str, Any]]:
    """Some columns of the rows from `first` on, before `last`; row groups without such rows are not read.

    Args:
        file: the table.
        columns: their names.
        first: number of a row in the file.
        last: number of the row after the last one.
        batch_rows: rows that are in memory at a time.
    """
    groups, seen, skipped = list[int](), 0, 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if seen + size <= first:
            skipped += size
        elif seen < last:
            groups.append(group)
        seen += size
    position = skipped
    for batch in file.iter_batches(batch_rows, row_groups=groups, columns=list(columns)):
        low, high = max(first - position, 0), min(last - position, batch.num_rows)
        if low < high:
            yield from _python_rows(batch.slice(low, high - low))
        position += batch.num_rows
        if position >= last:
            return


def _python_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as Python's values; a text that is no UTF-8 keeps its bytes as surrogates, what Python lacks is None."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # of one cell: the others are sound
        columns = [[_python_value(cell) for cell in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _python_value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        read = getattr(cell, "as_buffer", None)
        return None if read is None else read().to_pybytes().decode(errors="surrogateescape")
    except (ValueError, OverflowError, pa.ArrowException):
        return None


def holds_bytes(schema: pa.Schema, name: str) -> bool:
    """Whether the values of a column hold bytes, which no JSON holds."""
    waiting = [schema.field(name).type]
    while waiting:
        kind = waiting.pop()
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            return True
        waiting += [kind.field(number).type for number in range(kind.num_fields)]
    return False


def _features(schema: pa.Schema, path: Path) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    try:
        found = json.loads(raw)["info"]["features"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: what `datasets` wrote of its columns cannot be read ({error}): fetch it again"
        ) from error
    return found if isinstance(found, dict) else {}


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read ({in_one_line(error, 120)}): fetch it again")


IMAGES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture")
LABELS: Final = ("label", "labels", "cls", "fine_label", "class", "category")
CAPTIONS: Final = ("caption", "captions", "sentences", "sentence", "text", "txt", "raw")
WINOGROUND: Final = ("image_0", "image_1", "caption_0", "caption_1")
WINOGAVIL: Final = ("candidate_images", "candidates", "cue", "associations")


def read_hugging_face(path: Path, options: ReaderOptions) -> RecordSource:
    """One split of a folder, or one file.

    Raises:
        UserError: there is no such split, or the columns are those of no task.
        DataError: a file is damaged.
    """
    table = open_table(path, options)
    columns = set(table.schema.names)
    if columns.issuperset(WINOGROUND):
        return _source(table, options, "winoground", "PairMatching", 2 * table.total, _winoground(table))
    if columns.issuperset(WINOGAVIL):
        return _winogavil(table, options)
    image = _first(table, IMAGES, "Image")
    if image is None:
        raise UserError(f"{path} has no column of images ({', '.join(sorted(columns))}): expected {', '.join(IMAGES)}")
    if {"question", "answers"} <= columns or {"question", "answer"} <= columns:
        return _source(table, options, "hugging-face", "AnswerRanking", table.total, _asked(table, image))
    label, caption = _label_column(path, table), _first(table, CAPTIONS, None)
    if label is not None:
        return _labelled(path, table, options, image, label)
    if caption is not None:
        return _source(table, options, "hugging-face", "Retrieval", table.total, _captioned(table, image, caption))
    raise UserError(
        f"{path} has neither classes nor captions ({', '.join(sorted(columns))}): expected a column "
        f"{', '.join(LABELS[:2])}, or {', '.join(CAPTIONS[:2])}"
    )


def _source(
    table: Table,
    options: ReaderOptions,
    kind: str,
    task: str,
    total: int,
    read: Any,
    class_names: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> RecordSource:
    marks = fingerprint([kind, options.split, table.total, class_names, file_stats(table.files)])
    return RecordSource(kind, task, total, read, marks, class_names, notes=notes)


def _typed(table: Table, feature: str | None) -> list[str]:
    """The columns of a feature type."""
    return [name for name, found in table.features.items() if isinstance(found, dict) and found.get("_type") == feature]


def _first(table: Table, names: Sequence[str], feature: str | None) -> str | None:
    """The column of a feature type, else the first of some names."""
    typed = _typed(table, feature)
    by_name = [name for name in names if name in table.schema.names]
    both = [name for name in by_name if name in typed]
    return next(iter([*both, *(typed if feature else ()), *by_name]), None)


def _label_column(path: Path, table: Table) -> str | None:
    """The classes with a usual name, else the only column whose type is ClassLabel; None where there is none.

    Raises:
        UserError: several are of that type, and none has a usual name.
    """
    typed = _typed(table, "ClassLabel")
    named = [name for name in LABELS if name in table.schema.names]
    usual = [name for name in named if name in typed] or ([] if len(typed) == 1 else named)
    if not usual and len(typed) > 1:
        raise UserError(
            f"{path} has several columns of classes ({printable(', '.join(typed))}): rename the one to evaluate to "
            f"{LABELS[0]}"
        )
    return next(iter([*usual, *typed]), None)


def _labelled(path: Path, table: Table, options: ReaderOptions, image: str, label: str) -> RecordSource:
    notes: list[str] = []
    if others := [name for name in _typed(table, "ClassLabel") if name != label]:
        notes.append(f"classes are from the column {label} (also there: {printable(', '.join(others))})")
    names = table.features.get(label, {}).get("names") if isinstance(table.features.get(label), dict) else None
    values = [row[label] for row in table.rows([label])]
    is_text = all(isinstance(value, str) for value in values)
    if not is_text and any(not isinstance(value, int) or value < 0 for value in values):
        raise UserError(
            f"{table.files[0]}: column {label} of split {options.split} does not hold classes from 0 "
            f"({str(next(v for v in values if not isinstance(v, int) or v < 0))[:40]!r}): choose another by --split"
        )
    if is_text or not names:  # a split may lack classes of the data set
        elsewhere, unread = values_elsewhere(path, table, label, str if is_text else int)
        more = _classes_of(elsewhere.values()) - {*values}
        known = {*values, *more}
        names = sorted(known) if is_text else [str(number) for number in range(1 + max(known))]
        notes += [f"{file.name} cannot be read: classes that it alone holds are not known" for file in unread[:1]]
        if more:
            notes.append(
                f"{len(more)} of the {len(names)} classes are in other splits alone, such as {sorted(more)[0]!r}"
            )
        elif not any(elsewhere.values()):
            notes.append(
                f"the {len(names)} classes are those of split {options.split} alone: if other splits hold more, put "
                "them beside it and name the folder"
            )
        if not is_text:
            notes.append("class names are numbers, since the data set gives none: give names by --class-names")
    number_of = {name: number for number, name in enumerate(names)}

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, label], start, stop), start=start):
            value = row[label]
            number_or = number_of[value] if isinstance(value, str) else int(value)  # of a truth value, too
            yield ImageRecord(_place(table, number), _image(row[image], table), label=number_or)

    plain = tuple(str(name).replace("_", " ") for name in names)
    return _source(table, options, "hugging-face", "Classification", table.total, read, plain, tuple(notes))


def _classes_of(splits: Iterable[set[Any]]) -> set[Any]:
    """The classes of other splits; one value that stands for a whole split, as in test sets of contests, is none."""
    usable = (found - {"", -1} for found in splits)
    return {value for found in usable if len(found) > 1 for value in found}


def _captioned(table: Table, image: str, caption: str) -> Any:
    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, caption], start, stop), start=start):
            said = row[caption]
            captions = tuple(text for text in (said if isinstance(said, list) else [said]) if isinstance(text, str))
            yield ImageRecord(_place(table, number), _image(row[image], table), captions=captions)

    return read


def _asked(table: Table, image: str) -> Any:
    """VQAv2 as its repository keeps it: a question a row, answers as texts or as objects with `answer`."""
    key = "answers" if "answers" in table.schema.names else "answer"
    candidates = ["candidates"] if "candidates" in table.schema.names else []

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, "question", key, *candidates], start, stop), start=start):
            given = row[key] if isinstance(row[key], list) else [row[key]]
            answers = [one.get("answer") if isinstance(one, dict) else one for one in given]
            meta = {"question": row["question"], "answers": [each for each in answers if each is not None]}
            meta |= {name: row[name] for name in candidates}
            yield ImageRecord(_place(table, number), _image(row[image], table), meta=meta)

    return read


def _winoground(table: Table) -> Any:
    """Two records a row: the images of a group with their own captions."""

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        rows = table.rows(WINOGROUND, start // 2, -(-stop // 2))
        for number, row in enumerate(rows, start=start // 2):
            for side in (0, 1):
                if start <= 2 * number + side < stop:
                    meta = {"group": number, "uid": f"{number}-{side}"}
                    image, caption = row[f"image_{side}"], row[f"caption_{side}"]
                    is_text = isinstance(caption, str)
                    yield ImageRecord(
                        _place(table, number),
                        _image(image, table),
                        captions=(caption,) if is_text else (),
                        meta=meta,
                        problem=None if is_text else "caption_no_text",
                    )

    return read


def _winogavil(table: Table, options: ReaderOptions) -> RecordSource:
    """A record for each image, with all the cues that it is a candidate for; rows that give no cue are counted.

    Raises:
        DataError: no row gives one.
    """
    place_of: dict[str, tuple[int, int]] = {}
    cues: dict[str, list[dict[str, Any]]] = {}
    ignored = Tally()
    for number, row in enumerate(table.rows(WINOGAVIL[1:])):
        if (problem := _cue_problem(row)) is not None:
            ignored.add(problem, _place(table, number))
            continue
        for position, name in enumerate(row["candidates"]):
            place_of.setdefault(name, (number, position))
            cue = {"group": number, "cue": row["cue"], "candidates": len(row["candidates"])}
            cues.setdefault(name, []).append({**cue, "associated": name in row["associations"]})
    if not cues:
        raise DataError(f"{table.files[0]} has no usable row ({'; '.join(ignored.lines('left out'))}): fetch it again")
    names = sorted(place_of, key=lambda name: place_of[name])

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        wanted_here = names[start:stop]
        first, last = place_of[wanted_here[0]][0], place_of[wanted_here[-1]][0]
        by_row: dict[int, list[str]] = {}
        for name in wanted_here:
            by_row.setdefault(place_of[name][0], []).append(name)
        for number, row in enumerate(table.rows(WINOGAVIL[:2], first, last + 1), start=first):
            images = row["candidate_images"] or []
            whole = number not in by_row or len(images) == len(row["candidates"])  # else which is whose is not known
            for name in by_row.get(number, ()):
                image = _image(images[place_of[name][1]], table) if whole else b""
                yield ImageRecord(
                    _place(table, number),
                    image,
                    meta={"cues": cues[name], "uid": name},
                    problem=None if whole else "images_unlike_candidates",
                )

    source = _source(table, options, "winogavil", "Association", len(names), read)
    seen = SeenUnits("images and unusable rows", len(names) + ignored.total, ignored=ignored)
    return replace(source, seen=seen) if ignored else source


def _cue_problem(row: Mapping[str, Any]) -> str | None:
    """Why a row of WinoGAViL gives no cue; None for one that does."""
    for column in ("candidates", "associations"):
        names = row[column]
        if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return f"row_without_{column}"
    if not isinstance(row["cue"], str) or not row["cue"].strip():
        return "row_without_cue"
    return None if {*row["associations"]} <= {*row["candidates"]} else "association_without_candidate"


def _image(value: Any, table: Table) -> bytes | SourceFile:
    """The image of a cell: bytes, an object with `bytes` or `path`, or a path relative to the file."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return SourceFile(table.files[0].parent / value, table.roots)
    if value is None:
        return b""
    raise DataError(f"{table.files[0]} holds {type(value).__name__} in place of images: fetch it again")


def _place(table: Table, number: int) -> str:
    return f"{table.files[0].parent} row {number}"
