"""Tables of URLs and captions, as web data sets are published: Parquet, CSV, TSV or JSON lines, on disk or S3.

A table is read in parts: rows of a Parquet file (whole row groups where they are small), byte ranges of JSON lines. A
CSV file is one part, because its quotes may hold line ends, and so is a gzip'd file.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from diht_k8s.api.errors import DataError, UserError, in_one_line
from diht_k8s.data.imports.hugging_face import parquet_rows
from diht_k8s.data.imports.pair_tables import (
    CAPTION_COLUMNS,
    URL_COLUMNS,
    caption_column,
    usual_column,
)
from diht_k8s.data.imports.text_tables import DIALECTS, JSON_LINES, csv_rows, json_rows, require_distinct
from diht_k8s.data.shards.sources import TablePart
from diht_k8s.data.shards.storage import Storage

PART_ROWS: Final = 50_000
"""Rows of a part of a Parquet file at most, some 20 s of work."""
PART_BYTES: Final = 8 << 20
"""Of a part of JSON lines."""
MAX_LINE: Final = 1 << 20
"""Bytes of a line of JSON; a longer one is a row that cannot be read."""
BATCH_ROWS: Final = 4096
UID_COLUMNS: Final = ("uid",)
WIDTH_COLUMNS: Final = ("original_width", "width", "image_width")
HEIGHT_COLUMNS: Final = ("original_height", "height", "image_height")
DIGEST_COLUMNS: Final = ("sha256",)

TableRow = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """The names that a table has for what is read of it; None where it lacks the column."""

    url: str
    caption: str
    uid: str | None
    width: str | None
    height: str | None
    sha256: str | None
    """digest of the image's file, as DataComp publishes it."""
    numbers: tuple[str, ...]
    """further columns, by exact name."""

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        found = (self.url, self.caption, self.uid, self.width, self.height, self.sha256, *self.numbers)
        return list(dict.fromkeys(name for name in found if name is not None))


def find_columns(uri: str, names: Sequence[str], caption: str | None, numbers: Sequence[str]) -> Columns:
    """The columns of a table: LAION's, DataComp's and COYO's names are known.

    Args:
        uri: the table, for messages.
        names: of its columns.
        caption: name of the captions' column (`captionKey`); None takes a usual one.
        numbers: columns that are wanted if they are there.

    Raises:
        UserError: there is no column of URLs or captions.
        DataError: two columns have one name.
    """
    require_distinct(uri, names)
    url = usual_column(names, URL_COLUMNS)
    found = caption if caption in names else usual_column(names, CAPTION_COLUMNS) if caption is None else None
    there = ", ".join(names[:40])
    if url is None:
        raise UserError(f"{uri} has no column of URLs (its columns: {there}): rename it to url")
    if found is None:
        raise UserError(f"{uri} has no column of captions (its columns: {there}): name it by data.sources[].captionKey")
    return Columns(
        url=url,
        caption=found,
        uid=usual_column(names, UID_COLUMNS),
        width=usual_column(names, WIDTH_COLUMNS),
        height=usual_column(names, HEIGHT_COLUMNS),
        sha256=usual_column(names, DIGEST_COLUMNS),
        numbers=tuple(name for name in numbers if name in names),
    )


def parts_of(storage: Storage, uri: str) -> list[TablePart]:
    """The parts of a table, in order; of a Parquet file its footer is read.

    Raises:
        UserError: the name says no known format.
        DataError: the file is damaged.
    """
    size, suffix = storage.size(uri), _suffix(uri)
    if suffix == ".parquet":
        with storage.open(uri, seekable=True) as file, _reading(uri):
            metadata = pq.ParquetFile(file).metadata
            groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        starts = part_starts(groups)
        rows = max(starts[-1], 1)
        return [TablePart(a, b, size * (b - a) // rows) for a, b in itertools.pairwise(starts)]
    if suffix in JSON_LINES and not _is_packed(uri):
        starts = [*range(0, max(size, 1), PART_BYTES), size]
        return [TablePart(a, b, b - a) for a, b in itertools.pairwise(starts)]
    return [TablePart(0, size, size)]


def rows_of_part(uri: str, part: TablePart) -> int | None:
    """Rows of a part by the footer of its table; None of a text file, which says nothing of its rows."""
    return part.stop - part.start if _suffix(uri) == ".parquet" else None


def part_starts(groups: Sequence[int]) -> list[int]:
    """The first row of each part, and the number of all rows.

    Args:
        groups: rows of each row group. Small groups share a part, a large one is cut into equal parts.
    """
    starts, end = [0], 0
    for group in groups:
        if end > starts[-1] and end + group - starts[-1] > PART_ROWS:
            starts.append(end)
        pieces = -(-group // PART_ROWS)
        starts += [end + group * piece // pieces for piece in range(1, pieces)]
        end += group
    return [*starts, end]


def read_part(
    storage: Storage, uri: str, part: TablePart, caption: str | None, numbers: Sequence[str]
) -> tuple[Columns, Iterator[tuple[str, TableRow | None]]]:
    """The columns of a table, and the key and cells of each row of a part; None in place of a row that cannot be read.

    Args:
        storage: where the table is.
        uri: its name.
        part: one of `parts_of`.
        caption: name of the captions' column; None takes a usual one.
        numbers: further columns that are wanted if they are there.

    Raises:
        UserError: there is no column of URLs or captions.
        DataError: the file is damaged, or has no row that can be read.
    """
    if _suffix(uri) == ".parquet":
        with storage.open(uri, seekable=True) as file, _reading(uri):
            names = pq.ParquetFile(file).schema_arrow.names
        columns = find_columns(uri, names, caption, numbers)
        return columns, _parquet_part(storage, uri, part, columns)
    first = next(
        (row for row in _text_rows(storage, uri, TablePart(0, part.stop, 0), caption) if row is not None), None
    )
    if first is None:
        raise DataError(f"{uri} has no row that can be read: it needs a header, or JSON objects, with url and caption")
    columns = find_columns(uri, list(first), caption, numbers)
    rows = enumerate(_text_rows(storage, uri, part, caption))
    return columns, ((f"{part.start}-{number}" if part.start else str(number), row) for number, row in rows)


def _parquet_part(
    storage: Storage, uri: str, part: TablePart, columns: Columns
) -> Iterator[tuple[str, TableRow | None]]:
    with storage.open(uri, seekable=True) as file, _reading(uri):
        table = pq.ParquetFile(file, pre_buffer=True)
        rows = parquet_rows(table, columns.names, part.start, part.stop, batch_rows=BATCH_ROWS)
        for number, row in enumerate(rows, start=part.start):
            yield str(number), row


def _text_rows(storage: Storage, uri: str, part: TablePart, caption: str | None) -> Iterator[TableRow | None]:
    suffix = _suffix(uri)
    with storage.open(uri, seekable=True) as file, _reading(uri):
        if _is_packed(uri):
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=file))
        if suffix in JSON_LINES:
            yield from json_rows(_json_lines(file, part, whole=_is_packed(uri)))
        else:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
            yield from csv_rows(text, DIALECTS[suffix], uri, caption_column(caption))


def _json_lines(file: IO[bytes], part: TablePart, *, whole: bool) -> Iterator[bytes]:
    """The lines that begin in a part; one that is too long comes as text that is no JSON."""
    position = part.start
    if position:
        file.seek(position - 1)
        while line := file.readline(MAX_LINE):  # the rest of the line that the part before reads
            position += len(line)
            if line.endswith(b"\n"):
                break
        position -= 1
    while whole or position < part.stop:
        line = file.readline(MAX_LINE)
        if not line:
            return
        position += len(line)
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while rest := file.readline(MAX_LINE):
                position += len(rest)
                if rest.endswith(b"\n"):
                    break
            line = b"too long"
        yield line.removeprefix(b"\xef\xbb\xbf")


@contextlib.contextmanager
def _reading(uri: str) -> Iterator[None]:
    """Turn what readers raise for damaged files into our error."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        said = in_one_line(error, 120)
        raise DataError(f"{uri} cannot be read ({said}): fetch it again or leave it out of the captions") from error


def _is_packed(uri: str) -> bool:
    return uri.lower().endswith(".gz")


def _suffix(uri: str) -> str:
    """The suffix that says the format, in lower case, of a gzip'd file the one below it.

    Raises:
        UserError: it is of no known format.
    """
    name = uri.rpartition("/")[2].lower()
    suffix = "." + name.removesuffix(".gz").rpartition(".")[2]
    if suffix not in (*JSON_LINES, *DIALECTS) and not (suffix == ".parquet" and not name.endswith(".gz")):
        raise UserError(
            f"{uri} is no table that can be read: expected .parquet, .csv, .tsv or .jsonl, the last three also with .gz"
        )
    return suffix
