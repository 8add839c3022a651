"""The layouts of data sets on disk, and the reader of each: named by the user, or found by what lies there.

`open_benchmark` reads evaluation sets, `open_pairs` image-caption pairs for training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError, suggestion
from diht_k8s.data.imports import caption_annotations
from diht_k8s.data.imports.caption_annotations import read_json
from diht_k8s.data.imports.folders import IMAGE_SUFFIXES, read_image_folder, read_loose_images, shallow_files, walk
from diht_k8s.data.imports.hugging_face import is_hugging_face, read_hugging_face
from diht_k8s.data.imports.pair_tables import TABLES, read_rows, read_table
from diht_k8s.data.imports.records import ReaderOptions, RecordSource, SourceFile, printable, require_inside
from diht_k8s.data.imports.torchvision_sets import TORCHVISION_SETS, read_torchvision

Layouts = Mapping[str, tuple[Callable[[Any], bool], Callable[[Path, Any, ReaderOptions], RecordSource]]]
"""Name -> whether a JSON document is of this layout, and its reader."""
CAPTIONS: Final[Layouts] = {
    "coco-captions": (caption_annotations.is_coco, caption_annotations.read_coco),
    "karpathy": (caption_annotations.is_karpathy, caption_annotations.read_karpathy),
}
BENCHMARK_LAYOUTS: Final = ("image-folder", *CAPTIONS, "flickr-captions", "hugging-face", *TORCHVISION_SETS)
"""All that can be read; torchvision's sets by their names alone."""
PAIR_LAYOUTS: Final = ("folder", "table", "rows", *CAPTIONS, "flickr-tokens")
"""All that can be read: `table` is CSV, TSV and JSON lines, `rows` Parquet, Arrow and Hugging Face data sets."""
METADATA: Final = (
    "metadata.csv",
    "metadata.jsonl",
    "metadata.parquet",
    "captions.txt",
    "captions.csv",
    "results_20130124.token",
)
"""Tables that lie in the folder of their images, under names that others give them."""
FLICKR_TABLES: Final = ("results.csv", "flickr_annotations_30k.csv")
"""Flickr30k's captions as others publish them, beside the folder of the images."""


def open_benchmark(path: Path, kind: str | None, options: ReaderOptions) -> RecordSource:
    """The reader of a folder or a file.

    Args:
        path: what the user names.
        kind: one of `BENCHMARK_LAYOUTS`; None looks.
        options: split, and further files.

    Raises:
        UserError: nothing is there, the kind is unknown, or it is not what lies there.
        DataError: the files are damaged.
    """
    _require_known(kind, BENCHMARK_LAYOUTS)
    if not path.exists():
        raise UserError(f"{path} does not exist: name the folder or the annotation file of the original")
    _require_file_or_folder(path)
    return _open_benchmark_file(path, kind, options) if path.is_file() else _open_benchmark_folder(path, kind, options)


def _open_benchmark_folder(folder: Path, kind: str | None, options: ReaderOptions) -> RecordSource:
    if not any(folder.iterdir()):
        raise UserError(f"{folder} is empty: name the folder into which the original was unpacked")
    if kind in TORCHVISION_SETS:
        return read_torchvision(kind, folder, options)
    if kind == "hugging-face" or (kind is None and is_hugging_face(folder)):
        return read_hugging_face(folder, options)
    if kind not in (None, "image-folder"):
        raise UserError(f"{kind} is read from its annotation file: name that in place of {folder}")
    documents = sorted(path.name for path in folder.iterdir() if _is_annotation(path))
    if kind is None and documents and not any(map(_holds_folders, folder.iterdir())):
        raise UserError(
            f"{folder} holds annotations ({', '.join(documents[:4])}): name one of these files, not the folder"
        )
    return read_image_folder(folder, options, named=kind is not None)


def _is_annotation(path: Path) -> bool:
    """Whether a file says by its name that it is read in place of its folder."""
    return path.suffix in (".json", ".token") or path.name in FLICKR_TABLES


def _holds_folders(folder: Path) -> bool:
    return os.path.isdir(folder) and any(map(os.path.isdir, folder.iterdir()))


def _open_benchmark_file(path: Path, kind: str | None, options: ReaderOptions) -> RecordSource:
    if path.suffix in (".parquet", ".arrow"):
        return read_hugging_face(path, options)
    if kind == "flickr-captions" or (kind is None and path.suffix in (".txt", ".csv", ".token")):
        return caption_annotations.read_caption_lines(path, options)
    if path.suffix != ".json":
        raise UserError(
            f"{path} is no annotation file that can be read: expected .json, .csv, .txt, .token, .parquet or .arrow"
        )
    if (source := _read_annotations(path, kind, CAPTIONS, options)) is not None:
        return source
    expected = kind or f"a file of {', '.join(CAPTIONS)}"
    raise UserError(f"{path} is not {expected}: check the file, or name its layout by --format")


def open_pairs(path: Path, kind: str | None, options: ReaderOptions) -> RecordSource:
    """The reader of a folder or a file.

    Args:
        path: what the user names.
        kind: one of `PAIR_LAYOUTS`; None looks.
        options: split, columns and the folder of the images.

    Raises:
        UserError: nothing is there, the kind is unknown, or it is not what lies there.
        DataError: the files are damaged.
    """
    _require_known(kind, PAIR_LAYOUTS, "layout of pairs")
    if not path.exists():
        raise UserError(f"{path} does not exist: name a folder of images, a table or an annotation file")
    _require_file_or_folder(path)
    return _open_pair_file(path, kind, options) if path.is_file() else _open_pair_folder(path, kind, options)


def _open_pair_folder(folder: Path, kind: str | None, options: ReaderOptions) -> RecordSource:
    if not any(folder.iterdir()):
        raise UserError(f"{folder} is empty: name a folder of images with a .txt or .json beside each")
    if kind in (None, "table", "rows") and (
        table := next((folder / n for n in METADATA if (folder / n).is_file()), None)
    ):
        require_inside(table, options.roots(folder))
        return _noting_unnamed(_open_pair_file(table, kind, options), folder, table, options)
    if kind == "rows" or (kind is None and is_hugging_face(folder) and not _has_loose_images(folder)):
        return read_rows(folder, options)
    if kind not in (None, "folder"):
        raise UserError(f"{kind} is read from its file: name that in place of {folder}")
    return read_loose_images(folder, options)


def _noting_unnamed(source: RecordSource, folder: Path, table: Path, options: ReaderOptions) -> RecordSource:
    """The records of a table that lies in a folder, with a note where no row names an image that lies there."""
    found = walk(folder, options.roots(folder)).files
    unnamed = {os.path.normpath(path): path for path in found if path.suffix.lower() in IMAGE_SUFFIXES}
    names = (record.image.path for record in source.read(0, source.total) if isinstance(record.image, SourceFile))
    holds_names = False
    for path in names:
        holds_names = True
        unnamed.pop(os.path.normpath(path), None)
    if not holds_names or not unnamed:  # a table that names no image holds the images
        return source
    example = printable(str(next(iter(unnamed.values()))))
    note = f"{len(unnamed)} images below {folder} are named by no row of {table.name}, for example {example}"
    return replace(source, notes=(*source.notes, note))


def _has_loose_images(folder: Path) -> bool:
    """Whether an image lies in the folder or in one of those in it, as where img2dataset wrote files."""
    return any(path.suffix in (".jpg", ".png") for path in shallow_files(folder, 2))


def _open_pair_file(path: Path, kind: str | None, options: ReaderOptions) -> RecordSource:
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        return read_rows(path, options)
    if suffix in (".token", ".txt") and kind in (None, "flickr-tokens") and caption_annotations.is_tokens(path):
        return caption_annotations.read_tokens(path, options)
    if suffix == ".csv" and kind is None and caption_annotations.is_flickr_table(path):
        return caption_annotations.read_flickr_table(path, options)
    if suffix == ".csv" and kind is None and caption_annotations.is_kaggle_table(path):
        return caption_annotations.read_kaggle_table(path, options)
    if suffix in (*TABLES, ".txt") and kind in (None, "table"):
        return read_table(path, options)
    if suffix != ".json":
        raise UserError(
            f"{path} is no table or annotation file{f' of the layout {kind}' if kind else ''}: expected "
            f"{', '.join(TABLES)}, .parquet, .arrow, COCO's .json or Flickr30k's .token"
        )
    if (source := _read_annotations(path, kind, CAPTIONS, options)) is not None:
        return source
    raise UserError(
        f"{path} is no annotation file of captions: expected COCO's (`images` and `annotations` with `caption`) or "
        "Karpathy's; a list of objects is read as JSON lines, one object a line, in a file .jsonl"
    )


def shard_files(path: Path) -> list[Path]:
    """The shards of a folder that holds some already, as img2dataset writes them; a single shard for a file.

    Raises:
        UserError: images lie beside the shards.
    """
    if path.is_file():
        return [path] if _is_shard(path) else []
    files = list(shallow_files(path, 1))
    shards = sorted(found for found in files if _is_shard(found))
    image = next((found for found in files if found.suffix.lower() in IMAGE_SUFFIXES), None)
    if shards and image is not None:
        raise UserError(
            f"{path} holds shards ({shards[0].name}) and images ({image.name}): --format folder imports the images; "
            "for the shards put them into a folder of their own"
        )
    return shards


def _require_file_or_folder(path: Path) -> None:
    if not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is neither a file nor a folder: store what it gives in a file first")


def _is_shard(path: Path) -> bool:
    return path.name.endswith((".tar", ".tar.gz", ".tgz"))


def _require_known(kind: str | None, kinds: Sequence[str], what: str = "layout") -> None:
    """Check the name that a user gives.

    Raises:
        UserError: it is none of `kinds`; the nearest is named.
    """
    if kind is not None and kind not in kinds:
        hint = suggestion(kind, kinds, f"choose one of {', '.join(kinds)}", cutoff=0.4)
        raise UserError(f"{kind} is no {what}: {hint}")


def _read_annotations(path: Path, kind: str | None, layouts: Layouts, options: ReaderOptions) -> RecordSource | None:
    """The records of a JSON file by the first layout that fits; None if none does.

    Raises:
        UserError, DataError: the reader's, or it is not JSON.
    """
    document = read_json(path)
    for name, (fits, read) in layouts.items():
        if kind in (None, name) and fits(document):
            return read(path, document, options)
    return None
