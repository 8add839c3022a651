"""Tables with a caption and an image (its path or bytes) in each row: CSV, TSV, JSON lines, Parquet, Arrow."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.recipe.imports.annotation_files import image_folder_of
from diht_k8s.recipe.imports.caption_annotations import FOLDERS, LOOKED_AT
from diht_k8s.recipe.imports.column_names import require_distinct
from diht_k8s.recipe.imports.hugging_face_tables import holds_bytes, open_table
from diht_k8s.recipe.imports.provenance import kept_columns, named_path, text_columns
from diht_k8s.recipe.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    file_stats,
    fingerprint,
)
from diht_k8s.recipe.imports.source_files import SourceFile, SourceRoots
from diht_k8s.recipe.imports.tally import printable

IMAGE_COLUMNS: Final = (
    "image", "img", "jpg", "jpeg", "png", "webp", "picture", "image_path", "img_path", "filepath", "file_path",
    "file_name", "filename", "image_name", "image_id", "path", "file",
)  # fmt: skip
CAPTION_COLUMNS: Final = (
    "caption", "captions", "text", "txt", "sentence", "sentences", "raw", "title", "comment", "description", "alt_text",
)  # fmt: skip
URL_COLUMNS: Final = ("url", "image_url", "img_url", "key_url")
TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson")
DIALECTS: Final = {".csv": ",", ".tsv": "\t"}
OTHER_DELIMITERS: Final = (";", "\t", "|", ",")
DELIMITER_NAMES: Final = {"\t": "tab"}
"""How `--delimiter` names what a shell makes hard to write."""
URLS_ONLY: Final = (
    "{path} holds URLs only and nothing is downloaded: run img2dataset on it, then diht import its output"
)
BAD_ROW: Final = "row_unreadable"
"""Why a row is bad: it is not JSON, or has no cell of the column."""


@dataclass(frozen=True)
class RowReader:
    """Makes records of the rows of a table."""

    table: Path
    image: str
    """column of the images or their paths."""
    caption: str
    folder: Path
    """to which the paths are relative."""
    options: ReaderOptions
    roots: SourceRoots

    def record(self, row: Mapping[str, Any] | None, where: str) -> ImageRecord:
        """One row; `None` is one that could not be read.

        Args:
            row: column -> cell.
            where: `line 7`, `row 6`.
        """
        place, named = f"{self.table} {where}", f"{self.table.name} {where}"
        if row is None or (row.get(self.image) is None and row.get(self.caption) is None):
            return ImageRecord(place, b"", problem=BAD_ROW, row=named)
        value, said = row.get(self.image), row.get(self.caption)
        texts = said if isinstance(said, list) else [] if said is None else [said]
        problem = "caption_no_text" if any(not isinstance(text, str) for text in texts) else None
        captions = tuple(text for text in texts if isinstance(text, str))
        inside = _bytes_of(value)
        image, path = b"", ""
        if isinstance(inside, bytes):
            image, path = inside, value.get("path") if isinstance(value, dict) else ""
        elif name := _path_of(value):
            file = self.folder / name
            image, path = SourceFile(file, self.roots), named_path(file, self.table.parent, self.options.images)
        others = {column: cell for column, cell in row.items() if column not in (self.image, self.caption)}
        return ImageRecord(
            place, image, captions=captions, problem=problem, path=path if isinstance(path, str) else "", row=named,
            columns=kept_columns(others),
        )  # fmt: skip


def read_table(path: Path, options: ReaderOptions) -> RecordSource:
    """A CSV (with a header), TSV or JSON lines file; a row that cannot be read is a bad record.

    Raises:
        UserError: a column is not found, or no image lies where the rows say.
        DataError: the file has no rows, or two columns of one name.
    """
    delimiter = options.delimiter or DIALECTS.get(path.suffix.lower(), ",")
    rows, seen = _read_text(path, delimiter)
    names = list(dict.fromkeys(name for _, row in rows[:LOOKED_AT] for name in row or ()))
    if not any(row for _, row in rows):
        raise DataError(f"{path} has no rows that can be read: expected {_expected(path)}")
    image, caption = columns(path, names, options)
    folder = image_folder(path, options, [row[image] for _, row in rows[:LOOKED_AT] if row and row.get(image)])
    reader = RowReader(path, image, caption, folder, options, options.roots(path.parent))
    is_json = _is_json_lines(path)

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for line, row in rows[start:stop]:
            typed = row if is_json or row is None else {**text_columns(row), image: row[image], caption: row[caption]}
            yield reader.record(typed, f"line {line}")

    return RecordSource(
        kind="table", type="Pairs", total=len(rows), read=read,
        fingerprint=fingerprint([image, caption, delimiter, file_stats([path])]),
        notes=() if is_json else _long_rows(rows), seen=SeenUnits("rows", seen),
    )  # fmt: skip


Numbered = list[tuple[int, dict[str, Any] | None]]
"""Rows with the number of the line at which each ends; None for one that cannot be read."""


def _read_text(path: Path, delimiter: str) -> tuple[Numbered, int]:
    """The rows of a file, and how many a second reading counts."""
    if _is_json_lines(path):
        with _opened(path, "\n") as file:
            rows = list(numbered_json_rows(file))
        with path.open("rb") as file:
            lines = (line if number else line.removeprefix(codecs.BOM_UTF8) for number, line in enumerate(file))
            return rows, sum(1 for line in lines if line.decode(errors="surrogateescape").strip())
    with _opened(path, "") as file:
        rows = list(numbered_csv_rows(file, delimiter, path))
    with _opened(path, "") as file:
        filled = sum(1 for cells in _cells(csv.reader(_without_nul(file), delimiter=delimiter)) if cells != [])
    return rows, max(filled - 1, 0)


def _opened(path: Path, newline: str) -> TextIO:
    return path.open(newline=newline, encoding="utf-8-sig", errors="surrogateescape")


def _long_rows(rows: Numbered) -> tuple[str, ...]:
    """A note where rows hold line ends: an opening quote without its end takes in all rows up to the next quote."""
    long = [row for _, row in rows if row and any("\n" in cell for cell in row.values())]
    if not long:
        return ()
    line = next(number for number, row in rows if row is long[0])
    return (f"{len(long)} rows hold line ends, the first up to line {line}: check that each quote there has its end",)


def read_rows(path: Path, options: ReaderOptions) -> RecordSource:
    """A Parquet or Arrow file, or one split of a Hugging Face data set on disk; rows are read when they are needed.

    Raises:
        UserError: there is no such split, a column is not found, or no image lies where the rows say.
        DataError: a file is damaged, or there are no rows.
    """
    table = open_table(path, options)
    image, caption = columns(path, table.schema.names, options)
    first = [row[image] for row in table.rows([image], 0, min(LOOKED_AT, table.total))]
    base, paths = table.files[0], [_path_of(value) for value in first if _path_of(value)]
    holds_images = any(isinstance(_bytes_of(value), bytes) for value in first)  # then paths are names of what they were
    folder = base.parent if holds_images else image_folder(base, options, paths)
    reader = RowReader(path, image, caption, folder, options, table.roots)
    others = [
        name for name in table.schema.names if name not in (image, caption) and not holds_bytes(table.schema, name)
    ]
    unkept = [name for name in table.schema.names if name not in (image, caption, *others)]

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, caption, *others], start, stop), start=start):
            yield reader.record(row, f"row {number}")

    return RecordSource(
        kind="rows", type="Pairs", total=table.total, read=read,
        fingerprint=fingerprint([image, caption, options.split, file_stats(table.files)]),
        notes=(f"columns of bytes are not kept: {printable(', '.join(unkept))}",) if unkept else (),
        seen=SeenUnits("rows", table.total),
    )  # fmt: skip


def columns(path: Path, names: Sequence[str], options: ReaderOptions) -> tuple[str, str]:
    """The columns of images and captions: those given, else the first with a usual name.

    Raises:
        UserError: one is not found; the message says which there are and what to write.
    """
    image = _column(path, names, options.image_column, IMAGE_COLUMNS, "image")
    if image is None and any(name.lower() in URL_COLUMNS for name in names):
        raise UserError(URLS_ONLY.format(path=path))
    caption = _column(path, names, options.caption_column, CAPTION_COLUMNS, "caption")
    for kind, found in (("image", image), ("caption", caption)):
        if found is None:
            raise UserError(_unknown_column(path, names, kind))
    assert image is not None
    assert caption is not None
    return image, caption


def _unknown_column(path: Path, names: Sequence[str], kind: str) -> str:
    there = printable(", ".join(names))
    said = f"{path} has no known column of {kind}s (its columns: {there}): name it by --{kind}-column"
    other = next((mark for mark in OTHER_DELIMITERS if len(names) == 1 and mark in names[0]), None)
    if other is None:
        return f"{said}, or what stands between the cells by --delimiter" if len(names) == 1 else said
    return f"{said}, or add --delimiter '{DELIMITER_NAMES.get(other, other)}', which its header seems to have"


def _column(path: Path, names: Sequence[str], given: str | None, usual: Sequence[str], kind: str) -> str | None:
    if given is not None:
        if given not in names:
            there = printable(", ".join(names))
            raise UserError(f"{path} has no column {given}: choose by --{kind}-column one of {there}")
        return given
    return usual_column(names, usual)


def usual_column(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first column with a usual name, in any case; None where there is none."""
    lower = {name.lower().strip(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


def image_folder(path: Path, options: ReaderOptions, first: Sequence[Any]) -> Path:
    """The folder to which the paths of some rows are relative.

    Raises:
        UserError: none of the images is in a folder where they are looked for.
    """
    texts = [text for text in first if isinstance(text, str)]
    if texts and all(text.startswith(("http://", "https://")) for text in texts):
        raise UserError(URLS_ONLY.format(path=path))
    return image_folder_of(path, options.images, FOLDERS, texts) if texts else path.parent


def _bytes_of(value: Any) -> Any:
    """What a cell holds in place of a path, bytes as a rule."""
    return value.get("bytes") if isinstance(value, dict) else value


def _path_of(value: Any) -> str | None:
    """The path in a cell; None where it holds bytes or nothing."""
    if isinstance(value, dict):
        value = None if isinstance(value.get("bytes"), bytes) else value.get("path")
    return value if isinstance(value, str) and value and "\0" not in value else None


def csv_rows(lines: Iterable[str], delimiter: str, table: object) -> Iterator[dict[str, Any] | None]:
    """Rows of a CSV file with a header, None for one that cannot be read; commas of a caption in the last column need no
    quotes.

    Args:
        lines: of the file, with their ends.
        delimiter: between cells.
        table: the file, for messages.

    Raises:
        DataError: two columns have one name; columns without a name are not told apart.
    """
    return (row for _, row in numbered_csv_rows(lines, delimiter, table))


def numbered_csv_rows(
    lines: Iterable[str], delimiter: str, table: object
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows of `csv_rows`, each with the number of its last line."""
    reader = csv.reader(_without_nul(lines), delimiter=delimiter)
    header: list[str] | None = None
    for cells in _cells(reader):
        if cells == []:
            continue
        if header is None:
            header = [name.strip() for name in cells or ()]
            require_distinct(table, filter(None, header))
            continue
        row = None
        if cells is not None:
            last = len(header) - 1
            cells = [*cells[:last], delimiter.join(cells[last:])]
            row = dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None
        yield reader.line_num, row


def _cells(reader: Iterator[list[str]]) -> Iterator[list[str] | None]:
    """The cells of each row, [] for an empty line, None where they cannot be told apart or one is too long."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield None


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    return (line.replace("\0", "") for line in lines)


def json_rows(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any] | None]:
    """Objects of JSON lines, None for a line that is none; empty lines are skipped."""
    return (row for _, row in numbered_json_rows(lines))


def numbered_json_rows(lines: Iterable[str | bytes]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The rows of `json_rows`, each with the number of its line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        yield number, value if isinstance(value, dict) else None


def _is_json_lines(path: Path) -> bool:
    return path.suffix.lower() in (".jsonl", ".ndjson")


def _expected(path: Path) -> str:
    json_lines = '{"image": "a.jpg", "caption": "a dog runs"} in each line'
    return json_lines if _is_json_lines(path) else "a header such as image,caption and a row for each"
