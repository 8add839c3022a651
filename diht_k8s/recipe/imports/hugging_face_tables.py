"""Rows of a Hugging Face data set on disk: the Parquet files of a repository, or the Arrow files of `save_to_disk`."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.recipe.imports.image_folder import SPLITS

BATCH: Final = 64
"""Rows that are in memory at a time: a row of images may be large."""


@dataclass(frozen=True)
class Table:
    """The files of one split, in order."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """number of the first row of each file, and of the row after the last."""
    schema: pa.Schema
    features: dict[str, Any]
    """what `datasets` says of the columns, by name; {} where it says nothing."""

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
    return any(
        next(folder.glob(pattern), None) for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet", "*.arrow")
    )


def open_table(path: Path, split: str) -> Table:
    """The rows of one split of a folder, or of one file.

    Raises:
        UserError: there is no such split.
        DataError: a file is damaged, or there are no rows.
    """
    files = [path] if path.is_file() else _files(path, split)
    starts, schema = [0], None
    for file in files:
        try:
            rows, found = _size(file)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(file, error) from error
        schema = schema or found
        starts.append(starts[-1] + rows)
    if schema is None or not starts[-1]:
        raise DataError(f"{path} has no rows in split {split}: fetch it again")
    return Table(tuple(files), tuple(starts), schema, _features(schema, path))


def _files(folder: Path, split: str) -> list[Path]:
    found = sorted(
        path for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet", "*.arrow", "*/*.arrow")
        for path in folder.glob(pattern) if not path.name.startswith("cache-")
    )  # fmt: skip
    by_split: dict[str, list[Path]] = {}
    for path in found:
        by_split.setdefault(_split_of(path, folder), []).append(path)
    if split in by_split:
        return by_split[split]
    if set(by_split) == {""}:
        return by_split[""]
    if not by_split:
        raise UserError(f"{folder} holds no Parquet or Arrow files: name the folder of the data set")
    names = ", ".join(sorted(name for name in by_split if name))
    raise UserError(f"{folder} has no split {split}: choose one by --split ({names})")


def _split_of(path: Path, folder: Path) -> str:
    """The split that a path names: `data/test-00000-of-00001.parquet`, `test/0.parquet`, `test/data-00000-of-00001.arrow`."""
    parts = path.relative_to(folder).parts
    for part in reversed(parts):
        word = part.replace(".", "-").replace("_", "-").partition("-")[0].lower()
        if word in SPLITS:
            return word
    return ""


def _size(path: Path) -> tuple[int, pa.Schema]:
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        return file.metadata.num_rows, file.schema_arrow
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        return sum(batch.num_rows for batch in reader), reader.schema


def _rows(path: Path, columns: list[str], first: int, last: int) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from parquet_rows(pq.ParquetFile(path), columns, first, last)
        return
    seen = 0
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            low, high = max(first - seen, 0), min(last - seen, batch.num_rows)
            if low < high:
                chosen = pa.Table.from_batches([batch]).select(columns)
                for start in range(low, high, BATCH):
                    yield from chosen.slice(start, min(BATCH, high - start)).to_pylist()
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
            yield from batch.slice(low, high - low).to_pylist()
        position += batch.num_rows
        if position >= last:
            return


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
