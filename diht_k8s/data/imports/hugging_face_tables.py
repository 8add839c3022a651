"""Rows of a Hugging Face data set on disk: the Parquet files of a repository, or the Arrow files of `save_to_disk`."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.column_names import require_distinct
from diht_k8s.data.imports.folder_walk import shallow_files
from diht_k8s.data.imports.image_folder import SPLITS
from diht_k8s.data.imports.records import ReaderOptions
from diht_k8s.data.imports.source_files import SourceRoots, require_inside
from diht_k8s.data.imports.tally import printable

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
        UserError: there is no such split, its files are those of several data sets, or one is a link that leaves the folder.
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
            f"{folder} has several splits that begin with {split}: choose one by --split ({', '.join(several)}); parts of one "
            f"split differ in a number alone ({split}_0, {split}_1)"
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
    """Refuse files of several folders where the repository's README.md lists several configs; else folders may be parts of a set.

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
    """Why two files are not of one data set; None where they may be. A file may say nothing of its columns' features."""
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
    """Rows as Python's values; a text that is no UTF-8 keeps its bytes as surrogates, a value that Python lacks is None."""
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
    return DataError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}): fetch it again")
