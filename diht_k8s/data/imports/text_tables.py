"""Rows of tables in text (CSV, TSV, JSON lines) in flat memory: a first reading finds where rows begin."""

from __future__ import annotations

import codecs
import csv
import io
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from diht_k8s.api.errors import DataError
from diht_k8s.data.imports.records import printable


def require_distinct(table: object, names: Iterable[str]) -> None:
    """Refuse a table in which a name stands twice.

    Args:
        table: for the message.
        names: of its columns.

    Raises:
        DataError: names the columns.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{table} has two columns of one name ({printable(', '.join(repeated))}): rename one")


DIALECTS: Final = {".csv": ",", ".tsv": "\t"}
JSON_LINES: Final = (".jsonl", ".ndjson")
MAX_LINE: Final = 1 << 20
"""Characters of a line; the row of a longer one cannot be read."""
ROWS_BETWEEN_MARKS: Final = 1000
FIRST_ROWS: Final = 100

Row = dict[str, Any]
CaptionColumn = Callable[[Sequence[str]], str | None]
"""Names of a table's columns -> the one that holds the captions; its commas need no quotes where it is the last one."""


class LongLineError(csv.Error):
    """A line is too long for a row; the lines behind it can be read, as after the errors of the reader of CSV."""


class TextLines(Iterator[str]):
    """The lines of a file from a byte on, and where the next one begins."""

    def __init__(self, file: IO[bytes], newline: str, position: int = 0, number: int = 0) -> None:
        r"""Go to the place.

        Args:
            file: read from there on.
            newline: as `open` takes it: "" for CSV, "\n" for JSON lines.
            position: of the first byte; a byte-order mark at 0 is passed over.
            number: lines before it.
        """
        self.number = number
        file.seek(position)
        if position == 0 and file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            position = len(codecs.BOM_UTF8)
        file.seek(position)
        self.position = position
        self._text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline=newline)

    def __next__(self) -> str:
        """The next line with its end; raises LongLineError, after which the one behind it comes."""
        line = self._piece()
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) < MAX_LINE or line.endswith("\n"):
            return line
        while (rest := self._piece()) and not rest.endswith("\n"):
            pass
        raise LongLineError(f"line {self.number} is too long")

    def _piece(self) -> str:
        piece = self._text.readline(MAX_LINE)
        self.position += len(piece.encode(errors="surrogateescape"))
        return piece


@dataclass(frozen=True)
class TextTable:
    """A table on disk, read once to find its rows."""

    path: Path
    delimiter: str
    """between the cells of CSV."""
    header: tuple[str, ...]
    """of CSV; () of JSON lines."""
    is_caption_last: bool
    """so that surplus cells of a row are the rest of its caption."""
    total: int
    """number of rows, those that cannot be read included."""
    first: tuple[Row | None, ...]
    """the first rows, up to `FIRST_ROWS`."""
    readable: int
    """rows that can be read."""
    long_rows: int
    """rows of CSV that hold line ends."""
    first_long: int
    """the last line of the first of them."""
    positions: Sequence[int]
    """byte at which row 0, `ROWS_BETWEEN_MARKS`, ... begins."""
    numbers: Sequence[int]
    """lines before it."""

    @classmethod
    def open(cls, path: Path, delimiter: str, caption: CaptionColumn) -> TextTable:
        """Read a file once.

        Args:
            path: CSV with a header, or JSON lines by its suffix.
            delimiter: between the cells of CSV.
            caption: finds the column of the captions.

        Raises:
            DataError: two columns have one name, or the file is UTF-16.
        """
        positions, numbers, first = array("q"), array("q"), list[Row | None]()
        total = readable = long_rows = first_long = 0
        with path.open("rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise DataError(f"{path} is UTF-16: save it as UTF-8")
            lines = TextLines(file, _newline(path))
            header = () if is_json_lines(path) else _header(_cells(lines, delimiter), path)
            is_last = _is_last(header, caption)
            place = lines.position, lines.number
            for row in _rows(lines, header, delimiter, is_json=is_json_lines(path), is_caption_last=is_last):
                if total % ROWS_BETWEEN_MARKS == 0:
                    positions.append(place[0])
                    numbers.append(place[1])
                if total < FIRST_ROWS:
                    first.append(row)
                total += 1
                readable += bool(row)
                if header and row and any("\n" in cell for cell in row.values()):
                    long_rows += 1
                    first_long = first_long or lines.number
                place = lines.position, lines.number
        return cls(
            path, delimiter, header, is_last, total, tuple(first), readable, long_rows, first_long, positions, numbers
        )

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, Row | None]]:
        """A range of rows, each with the number of its last line; None for one that cannot be read."""
        if start >= min(stop, self.total):
            return
        mark = start // ROWS_BETWEEN_MARKS
        with self.path.open("rb") as file:
            lines = TextLines(file, _newline(self.path), self.positions[mark], self.numbers[mark])
            found = _rows(
                lines,
                self.header,
                self.delimiter,
                is_json=is_json_lines(self.path),
                is_caption_last=self.is_caption_last,
            )
            for number, row in enumerate(found, start=mark * ROWS_BETWEEN_MARKS):
                if number >= start:
                    yield lines.number, row
                if number + 1 >= stop:
                    return

    def count(self) -> int:
        """The number of rows by another reading, for the account of an import."""
        with self.path.open("rb") as file:
            lines = TextLines(file, _newline(self.path))
            if is_json_lines(self.path):
                return sum(1 for line in _with_long(lines) if line is None or line.strip())
            return max(sum(1 for _ in _cells(lines, self.delimiter)) - 1, 0)


def is_json_lines(path: Path) -> bool:
    """Whether a file says by its suffix that it holds JSON lines."""
    return path.suffix.lower() in JSON_LINES


def csv_rows(lines: Iterable[str], delimiter: str, table: object, caption: CaptionColumn) -> Iterator[Row | None]:
    """Rows of a CSV file with a header, None for one that cannot be read.

    Commas of a caption in the last column need no quotes.

    Args:
        lines: of the file, with their ends.
        delimiter: between cells.
        table: the file, for messages.
        caption: finds the column of the captions.

    Raises:
        DataError: two columns have one name; columns without a name are not told apart.
    """
    found = _cells(lines, delimiter)
    header = _header(found, table)
    is_last = _is_last(header, caption)
    return (_row(header, cells, delimiter, is_caption_last=is_last) for cells in found)


def json_rows(lines: Iterable[str | bytes]) -> Iterator[Row | None]:
    """Objects of JSON lines, None for a line that is none; empty lines are skipped."""
    return (_object(line) for line in _with_long(lines) if line is None or line.strip())


def _rows(
    lines: TextLines, header: Sequence[str], delimiter: str, *, is_json: bool, is_caption_last: bool
) -> Iterator[Row | None]:
    if is_json:
        return json_rows(lines)
    return (_row(header, cells, delimiter, is_caption_last=is_caption_last) for cells in _cells(lines, delimiter))


def _is_last(header: Sequence[str], caption: CaptionColumn) -> bool:
    return bool(header) and caption(header) == header[-1]


def _newline(path: Path) -> str:
    return "\n" if is_json_lines(path) else ""


def _header(found: Iterator[list[str] | None], table: object) -> tuple[str, ...]:
    header = tuple(name.strip() for name in next(found, None) or ())
    require_distinct(table, filter(None, header))
    return header


def _row(header: Sequence[str], cells: list[str] | None, delimiter: str, *, is_caption_last: bool) -> Row | None:
    if cells is None:
        return None
    last = len(header) - 1
    if is_caption_last:
        cells = [*cells[:last], delimiter.join(cells[last:])]
    elif not any(cell.strip() for cell in cells[last + 1 :]):  # commas that end a row say nothing
        cells = cells[: last + 1]
    return dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None


def _cells(lines: Iterable[str], delimiter: str) -> Iterator[list[str] | None]:
    """The cells of each row that is not empty, None where they cannot be told apart or one is too long."""
    # a generator in place of `map` would end at the first line that is too long
    reader = csv.reader(map(_without_nul, lines), delimiter=delimiter)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            cells = None
        if cells != []:
            yield cells


def _without_nul(line: str) -> str:
    return line.replace("\0", "")


def _with_long(lines: Iterable[str | bytes]) -> Iterator[str | bytes | None]:
    """Lines, None for one that is too long."""
    found = iter(lines)
    while True:
        try:
            yield next(found)
        except StopIteration:
            return
        except LongLineError:
            yield None


def _object(line: str | bytes | None) -> Row | None:
    try:
        value = json.loads(line or "")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
