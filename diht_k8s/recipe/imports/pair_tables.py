"""Tables with a caption and an image (its path or bytes) in each row: CSV, TSV, JSON lines, Parquet, Arrow."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.recipe.imports.annotation_files import image_folder_of
from diht_k8s.recipe.imports.caption_annotations import FOLDERS, LOOKED_AT
from diht_k8s.recipe.imports.hugging_face_tables import open_table
from diht_k8s.recipe.imports.records import ImageRecord, ReaderOptions, RecordSource, file_stats, fingerprint, reader_of

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
URLS_ONLY: Final = (
    "{path} holds URLs only and nothing is downloaded: run img2dataset on it, then diht import its output"
)
BAD_ROW: Final = "row_unreadable"
"""Why a row is bad: it is not JSON, or has no cell of the column."""


def read_table(path: Path, options: ReaderOptions) -> RecordSource:
    """A CSV (with a header), TSV or JSON lines file; a row that cannot be read is a bad record.

    Raises:
        UserError: a column is not found, or no image lies where the rows say.
        DataError: the file has no rows.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        by_comma = DIALECTS.get(path.suffix.lower(), ",")
        rows = list(json_rows(file) if path.suffix in (".jsonl", ".ndjson") else csv_rows(file, str(path), by_comma))
    names = list(dict.fromkeys(name for row in rows[:LOOKED_AT] for name in row or ()))
    if not any(rows):
        raise DataError(f"{path} has no rows that can be read: expected {_expected(path)}")
    image, caption = columns(path, names, options)
    folder = image_folder(path, options, [row[image] for row in rows[:LOOKED_AT] if row and row.get(image)])
    records = [row_record(f"{path} line {number}", row, image, caption, folder) for number, row in _lines(path, rows)]
    return RecordSource(
        kind="table", type="Pairs", total=len(records), read=reader_of(records),
        fingerprint=fingerprint([image, caption, file_stats([path])]),
    )  # fmt: skip


def read_rows(path: Path, options: ReaderOptions) -> RecordSource:
    """A Parquet or Arrow file, or one split of a Hugging Face data set on disk; rows are read when they are needed.

    Raises:
        UserError: there is no such split, a column is not found, or no image lies where the rows say.
        DataError: a file is damaged, or there are no rows.
    """
    table = open_table(path, options.split)
    image, caption = columns(path, table.schema.names, options)
    first = [row[image] for row in table.rows([image], 0, min(LOOKED_AT, table.total))]
    base = table.files[0]
    folder = image_folder(base, options, [_path_of(value) for value in first if _path_of(value)])

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, caption], start, stop), start=start):
            yield row_record(f"{path} row {number}", row, image, caption, folder)

    return RecordSource(
        kind="rows", type="Pairs", total=table.total, read=read,
        fingerprint=fingerprint([image, caption, options.split, file_stats(table.files)]),
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
            there = ", ".join(names)
            raise UserError(f"{path} has no known column of {kind}s (its columns: {there}): name it by --{kind}-column")
    assert image is not None
    assert caption is not None
    return image, caption


def _column(path: Path, names: Sequence[str], given: str | None, usual: Sequence[str], kind: str) -> str | None:
    if given is not None:
        if given not in names:
            raise UserError(f"{path} has no column {given}: choose by --{kind}-column one of {', '.join(names)}")
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


def row_record(place: str, row: Mapping[str, Any] | None, image: str, caption: str, folder: Path) -> ImageRecord:
    """One row; `None` is one that could not be read."""
    if row is None or (row.get(image) is None and row.get(caption) is None):
        return ImageRecord(place, b"", problem=BAD_ROW)
    value, said = row.get(image), row.get(caption)
    texts = said if isinstance(said, list) else [] if said is None else [said]
    problem = "caption_no_text" if any(not isinstance(text, str) for text in texts) else None
    captions = tuple(text for text in texts if isinstance(text, str))
    inside = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(inside, bytes):
        return ImageRecord(place, inside, captions=captions, problem=problem)
    name = _path_of(value)
    return ImageRecord(place, folder / name if name else b"", captions=captions, problem=problem)


def _path_of(value: Any) -> str | None:
    """The path in a cell; None where it holds bytes or nothing."""
    if isinstance(value, dict):
        value = None if value.get("bytes") else value.get("path")
    return value if isinstance(value, str) and value and "\0" not in value else None


def csv_rows(lines: Iterable[str], place: str, delimiter: str) -> Iterator[dict[str, Any] | None]:
    """Rows of a CSV file with a header, None for one that cannot be read; commas of a caption in the last column need no
    quotes.

    Args:
        lines: of the file, with their ends.
        place: the file, for messages.
        delimiter: between cells.

    Raises:
        DataError: a line is no CSV.
    """
    reader = csv.reader((line.replace("\0", "") for line in lines), delimiter=delimiter)
    try:
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if cells:
                last = len(header) - 1
                cells = [*cells[:last], reader.dialect.delimiter.join(cells[last:])]
                yield dict(zip(header, cells, strict=True)) if len(cells) == len(header) else None
    except csv.Error as error:
        raise DataError(f"{place}, line {reader.line_num}, is no CSV ({error}): correct the line") from error


def json_rows(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any] | None]:
    """Objects of JSON lines, None for a line that is none; empty lines are skipped."""
    for line in lines:
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        yield value if isinstance(value, dict) else None


def _lines(path: Path, rows: Iterable[dict[str, Any] | None]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    return enumerate(rows, start=1 if path.suffix in (".jsonl", ".ndjson") else 2)


def _expected(path: Path) -> str:
    json_lines = '{"image": "a.jpg", "caption": "a dog runs"} in each line'
    return json_lines if path.suffix in (".jsonl", ".ndjson") else "a header such as image,caption and a row for each"
