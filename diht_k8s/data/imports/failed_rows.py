"""Rows whose image did not come: those that img2dataset or a retry says failed, or all of a plain table of URLs.

A folder is img2dataset's output (`NAME.parquet` beside each shard) or that of an earlier retry (`failed/NAME.jsonl`); a file
is a table of URLs. Where a table has a column `status`, its rows are asked for that say anything but `success`.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.downloads import Download, Web
from diht_k8s.data.imports.folder_walk import shallow_files
from diht_k8s.data.imports.hugging_face_tables import BUFFER, parquet_rows
from diht_k8s.data.imports.pair_tables import caption_column
from diht_k8s.data.imports.provenance import kept_columns, text_columns
from diht_k8s.data.imports.records import ImageRecord, RecordSource, SeenUnits, file_stats, fingerprint
from diht_k8s.data.imports.source_files import SourceRoots, require_inside
from diht_k8s.data.imports.tally import Tally
from diht_k8s.data.imports.text_tables import DIALECTS, JSON_LINES, TextTable, is_json_lines
from diht_k8s.data.imports.url_tables import Columns, find_columns

FOLDER: Final = "failed"
"""Of a retry's output, with what failed again."""
STATUS: Final = "status"
MESSAGE: Final = "error_message"
SUCCESS: Final = "success"
FAILED: Final = "failed_to_download"
REFUSED: Final = (
    "image too small",
    "image area too large",
    "aspect ratio too large",
    "hash mismatch",
    "Use of image disallowed by X-Robots-Tag directive",
    "disallowed_by_robots_tag",
    "sha256_differs",
)
"""Messages of rows that did not fail: the user's limits or the site refused them, and another request changes nothing."""
BLOCK: Final = 5000
"""Rows among which those that failed are counted."""
OF_A_DOWNLOAD: Final = (
    STATUS,
    MESSAGE,
    "key",
    "width",
    "height",
    "original_width",
    "original_height",
    "exif",
)
"""Columns that speak of the download that failed."""
URL: Final = "url"
CAPTION: Final = "caption"


@dataclass(frozen=True)
class _Block:
    """Some rows of a table."""

    table: _Table
    start: int
    stop: int


@dataclass
class _Table:
    """A table of URLs on disk."""

    path: Path
    names: list[str]
    columns: Columns
    total: int
    text: TextTable | None
    """None for Parquet."""

    @classmethod
    def open(cls, path: Path, caption: str | None, delimiter: str | None) -> _Table:
        suffix = path.suffix.lower()
        if suffix == ".parquet":
            file, text = pq.ParquetFile(path), None
            names, total = list(file.schema_arrow.names), file.metadata.num_rows
        elif suffix in (*DIALECTS, *JSON_LINES):
            text = TextTable.open(path, delimiter or DIALECTS.get(suffix, ","), caption_column(caption))
            names, total = list(dict.fromkeys(name for row in text.first for name in row or ())), text.total
        else:
            raise UserError(f"{path} is no table of URLs: expected .parquet, {', '.join((*DIALECTS, *JSON_LINES))}")
        return cls(path, names, find_columns(str(path), names, caption, ()), total, text)

    @property
    def has_status(self) -> bool:
        """Whether rows say what became of them."""
        return STATUS in self.names

    def rows(self, start: int, stop: int, names: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
        """A range of rows with some columns at least, each with its place; None for one that cannot be read."""
        if self.text is None:
            file = pq.ParquetFile(self.path, buffer_size=BUFFER, pre_buffer=False)
            for number, row in enumerate(parquet_rows(file, names, start, stop, batch_rows=1000), start=start):
                yield f"row {number}", row
        else:
            for line, row in self.text.rows(start, stop):
                yield f"line {line}", row if row is None or is_json_lines(self.path) else text_columns(row)

    def wanted(self, start: int, stop: int) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
        """The rows of a range that are asked for."""
        return ((where, row) for where, row in self.rows(start, stop, self.names) if self.left(row) is None)

    def left(self, row: Mapping[str, Any] | None) -> str | None:
        """Why a row is not asked for; None for one that is."""
        if row is None or not self.has_status:
            return None
        if row.get(STATUS) == SUCCESS:
            return SUCCESS
        return "refused" if row.get(MESSAGE) in REFUSED else None


@dataclass
class _Failed:
    """The blocks of all tables, with the number of rows of each that are asked for."""

    blocks: list[_Block] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """rows that are asked for up to the end of each block."""
    rows: int = 0
    left: Tally = field(default_factory=Tally)

    def add(self, table: _Table) -> int:
        """Read what became of a table's rows; how many did not succeed."""
        names = [name for name in (STATUS, MESSAGE) if name in table.names]
        failed, self.rows = 0, self.rows + table.total
        for start in range(0, table.total, BLOCK):
            stop, count = min(start + BLOCK, table.total), 0
            if not table.has_status:
                count = stop - start
            else:
                for where, row in table.rows(start, stop, names):
                    why = table.left(row)
                    failed += why != SUCCESS
                    if why is None:
                        count += 1
                    else:
                        self.left.add(why, f"{table.path} {where}")
            if count:
                self.blocks.append(_Block(table, start, stop))
                self.ends.append((self.ends[-1] if self.ends else 0) + count)
        return failed

    def read(self, start: int, stop: int) -> Iterator[tuple[_Table, str, Mapping[str, Any] | None]]:
        """A range of the rows that are asked for."""
        number = bisect.bisect_right(self.ends, start)
        while start < stop and number < len(self.blocks):
            block = self.blocks[number]
            position = self.ends[number - 1] if number else 0
            for where, row in block.table.wanted(block.start, block.stop):
                if start <= position < stop:
                    yield block.table, where, row
                position += 1
                if position >= stop:
                    return
            start, number = self.ends[number], number + 1


def read_failed_rows(path: Path, web: Web, *, caption: str | None, delimiter: str | None = None) -> RecordSource:
    """The rows of a folder or table that are asked for, as records that download their image.

    Args:
        path: the folder or table.
        web: that downloads.
        caption: column of the captions; None takes a usual one.
        delimiter: between the cells of CSV; None takes its usual one.

    Raises:
        UserError: nothing is there, there is no column of URLs or captions, or no row failed.
        DataError: a table is damaged.
    """
    found, notes = _Failed(), list[str]()
    paths = _tables(path)
    for each in paths:
        try:
            table = _Table.open(each, caption, delimiter)
            failed = found.add(table)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{each} cannot be read ({' '.join(str(error).split())[:120]}): fetch it again") from error
        notes += _notes(table, failed)
    if not found.ends:
        raise UserError(f"{path}: none of its {found.rows} rows failed: there is nothing to ask for again")

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        return (_record(table, where, row, web) for table, where, row in found.read(start, stop))

    return RecordSource(
        kind="retry",
        type="Pairs",
        total=found.ends[-1],
        read=read,
        fingerprint=fingerprint([caption, delimiter, file_stats(paths)]),
        notes=tuple(notes[:10]),
        seen=SeenUnits("rows", found.rows, ignored=found.left),
    )


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} does not exist: name the output of img2dataset or of a retry, or a table of URLs")
    found = sorted(each for each in shallow_files(path, 1) if each.suffix == ".parquet")
    if (path / FOLDER).is_dir():
        found += sorted(each for each in shallow_files(path / FOLDER, 1) if each.suffix == ".jsonl")
    if not found:
        raise UserError(f"{path} holds no .parquet of img2dataset and no {FOLDER}/*.jsonl of a retry: name its folder")
    for each in found:
        require_inside(each, SourceRoots.of(path))
    return found


def _notes(table: _Table, failed: int) -> list[str]:
    if not table.has_status:
        return [f"{table.path} has no column {STATUS}: each of its rows is asked for"]
    stats = table.path.with_name(f"{table.path.stem}_stats.json")
    try:
        found = json.loads(stats.read_bytes())
        stated = found["failed_to_download"] + found["failed_to_resize"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [] if stated == failed else [f"{table.path} names {failed} failures, but {stats.name} says {stated}"]


def _record(table: _Table, where: str, row: Mapping[str, Any] | None, web: Web) -> ImageRecord:
    place, named = f"{table.path} {where}", f"{table.path.name} {where}"
    if row is None:
        return ImageRecord(place, b"", problem="row_unreadable", row=named)
    columns = table.columns
    url, said = row.get(columns.url), row.get(columns.caption)
    captions = (said,) if isinstance(said, str) else ()
    if not isinstance(url, str) or not url:
        return ImageRecord(place, b"", captions=captions, problem="url_missing", row=named)
    digest = row.get(columns.sha256) if columns.sha256 else None
    others = {
        name: cell
        for name, cell in row.items()
        if cell is not None and name not in (columns.url, columns.caption, *OF_A_DOWNLOAD)
    }
    return ImageRecord(
        f"{place} {url}",
        Download(web, url, digest if isinstance(digest, str) and len(digest) == 64 else None),
        captions=captions,
        problem="caption_no_text" if said is not None and not captions else None,
        row=named,
        columns={**kept_columns(others), URL: url},
    )
