"""Tables with a caption and an image (its path or bytes) in each row: CSV, TSV, JSON lines, Parquet, Arrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.data.imports.caption_annotations import FOLDERS, LOOKED_AT, image_folder_of
from diht_k8s.data.imports.hugging_face import holds_bytes, open_table
from diht_k8s.data.imports.provenance import kept_columns, named_path, text_columns
from diht_k8s.data.imports.records import (
    ImageRecord,
    ReaderOptions,
    RecordSource,
    SeenUnits,
    SourceFile,
    SourceRoots,
    file_stats,
    fingerprint,
    printable,
    stats_digest,
)
from diht_k8s.data.imports.text_tables import DIALECTS, JSON_LINES, CaptionColumn, TextTable, is_json_lines

IMAGE_COLUMNS: Final = (
    "image",
    "img",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "picture",
    "image_path",
    "img_path",
    "filepath",
    "file_path",
    "file_name",
    "filename",
    "image_name",
    "image_id",
    "path",
    "file",
)
CAPTION_COLUMNS: Final = (
    "caption",
    "captions",
    "text",
    "txt",
    "sentence",
    "sentences",
    "raw",
    "title",
    "comment",
    "description",
    "alt_text",
)
URL_COLUMNS: Final = ("url", "image_url", "img_url", "key_url")
TABLES: Final = (*DIALECTS, *JSON_LINES)
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
            place,
            image,
            captions=captions,
            problem=problem,
            path=path if isinstance(path, str) else "",
            row=named,
            columns=kept_columns(others),
        )


def read_table(path: Path, options: ReaderOptions) -> RecordSource:
    """A CSV (with a header), TSV or JSON lines file; a row that cannot be read is a bad record.

    Raises:
        UserError: a column is not found, or no image lies where the rows say.
        DataError: the file has no rows, or two columns of one name.
    """
    delimiter = options.delimiter or DIALECTS.get(path.suffix.lower(), ",")
    table = TextTable.open(path, delimiter, caption_column(options.caption_column))
    names = list(dict.fromkeys(name for row in table.first for name in row or ()))
    if not table.readable:
        raise DataError(f"{path} has no rows that can be read: expected {_expected(path)}")
    image, caption = columns(path, names, options)
    folder = image_folder(path, options, [row[image] for row in table.first if row and row.get(image)])
    reader = RowReader(path, image, caption, folder, options, options.roots(path.parent))
    is_json = is_json_lines(path)
    values = (row.get(image) for _, row in table.rows(0, table.total) if row)
    images = stats_digest(folder / name for value in values if (name := _path_of(value)))

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for line, row in table.rows(start, stop):
            typed = row if is_json or row is None else {**text_columns(row), image: row[image], caption: row[caption]}
            yield reader.record(typed, f"line {line}")

    return RecordSource(
        kind="table",
        type="Pairs",
        total=table.total,
        read=read,
        fingerprint=fingerprint(
            [image, caption, delimiter, os.path.relpath(folder, path.parent), file_stats([path]), images]
        ),
        notes=(*_other_columns(names, image, caption, options), *_long_rows(table)),
        seen=SeenUnits("rows", table.count()),
    )


def _other_columns(names: Sequence[str], image: str, caption: str, options: ReaderOptions) -> tuple[str, ...]:
    """A note where a table has several columns with usual names of captions and the user has chosen none."""
    others = [name for name in names if name.lower().strip() in CAPTION_COLUMNS and name not in (image, caption)]
    if options.caption_column or not others:
        return ()
    there = printable(", ".join(others))
    return (f"captions are from the column {printable(caption)} (also there: {there}): --caption-column chooses",)


def _long_rows(table: TextTable) -> tuple[str, ...]:
    """A note where rows hold line ends: an opening quote without its end takes in all rows up to the next quote."""
    if not table.long_rows:
        return ()
    return (
        f"{table.long_rows} rows hold line ends, the first up to line {table.first_long}: check that each quote there "
        "has its end",
    )


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
    values = () if holds_images else (row[image] for row in table.rows([image]))
    images = stats_digest(folder / name for value in values if (name := _path_of(value)))
    unkept = [name for name in table.schema.names if name not in (image, caption, *others)]

    def read(start: int, stop: int) -> Iterator[ImageRecord]:
        for number, row in enumerate(table.rows([image, caption, *others], start, stop), start=start):
            yield reader.record(row, f"row {number}")

    return RecordSource(
        kind="rows",
        type="Pairs",
        total=table.total,
        read=read,
        fingerprint=fingerprint(
            [image, caption, options.split, os.path.relpath(folder, base.parent), file_stats(table.files), images]
        ),
        notes=(
            *_other_columns(table.schema.names, image, caption, options),
            *([f"columns of bytes are not kept: {printable(', '.join(unkept))}"] if unkept else []),
        ),
        seen=SeenUnits("rows", table.total),
    )


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


def caption_column(given: str | None) -> CaptionColumn:
    """How the column of the captions is found: the given one, else the first with a usual name."""
    return lambda names: given or usual_column(names, CAPTION_COLUMNS)


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


def _expected(path: Path) -> str:
    json_lines = '{"image": "a.jpg", "caption": "a dog runs"} in each line'
    return json_lines if is_json_lines(path) else "a header such as image,caption and a row for each"
