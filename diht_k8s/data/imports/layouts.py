"""The layouts of data sets on disk, and the reader of each: named by the user, or found by what lies there.

`open_benchmark` reads evaluation sets, `open_pairs` image-caption pairs for training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError, suggestion
from diht_k8s.data.imports import caption_annotations, image_text_sets
from diht_k8s.data.imports.annotation_files import read_json
from diht_k8s.data.imports.folder_walk import shallow_files, walk
from diht_k8s.data.imports.hugging_face import read_hugging_face
from diht_k8s.data.imports.hugging_face_tables import is_hugging_face
from diht_k8s.data.imports.idx_files import IDX_SETS, find_idx, read_idx
from diht_k8s.data.imports.image_folder import IMAGE_SUFFIXES, read_image_folder
from diht_k8s.data.imports.imagenet import IMAGENET, is_imagenet_root, read_imagenet
from diht_k8s.data.imports.loose_images import read_loose_images
from diht_k8s.data.imports.pair_tables import TABLES, read_rows, read_table
from diht_k8s.data.imports.pascal_voc import PASCAL_VOC, PASCAL_VOC_IMAGES, find_voc, read_voc
from diht_k8s.data.imports.records import ReaderOptions, RecordSource
from diht_k8s.data.imports.source_files import SourceFile, require_inside
from diht_k8s.data.imports.tally import printable
from diht_k8s.data.imports.torchvision_sets import TORCHVISION_SETS, find_torchvision, read_torchvision
from diht_k8s.data.imports.wilds_sets import find_wilds, read_wilds

Layouts = Mapping[str, tuple[Callable[[Any], bool], Callable[[Path, Any, ReaderOptions], RecordSource]]]
"""Name -> whether a JSON document is of this layout, and its reader."""
CAPTIONS: Final[Layouts] = {
    "coco-captions": (caption_annotations.is_coco, caption_annotations.read_coco),
    "karpathy": (caption_annotations.is_karpathy, caption_annotations.read_karpathy),
}
_JSON: Final[Layouts] = {
    **CAPTIONS,
    "vqav2": (image_text_sets.is_vqa, image_text_sets.read_vqa),
    "sugar-crepe": (image_text_sets.is_sugar_crepe, image_text_sets.read_sugar_crepe),
}
_LINES: Final[dict[str, Callable[[Path, ReaderOptions], RecordSource]]] = {
    "flickr-captions": caption_annotations.read_caption_lines,
    "snli-ve": image_text_sets.read_snli_ve,
    "winoground": image_text_sets.read_winoground,
}
WILDS: Final = ("wilds-camelyon17", "wilds-iwildcam", "wilds-fmow")
BENCHMARK_LAYOUTS: Final = (
    "image-folder",
    *_JSON,
    *_LINES,
    *WILDS,
    "hugging-face",
    *IDX_SETS,
    *TORCHVISION_SETS,
    IMAGENET,
    PASCAL_VOC,
    PASCAL_VOC_IMAGES,
)
"""All that can be read."""
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


def _read_wilds(kind: str | None, found: str | None, folder: Path, options: ReaderOptions) -> RecordSource:
    if found is None or kind not in (None, found):
        raise UserError(f"{folder} holds no metadata of {kind}: name the folder with its metadata.csv")
    return read_wilds(found, folder, options)


@dataclass(frozen=True)
class FolderLayout:
    """A layout that is a folder."""

    title: str
    """in words."""
    names: Collection[str]
    """of its kinds."""
    find: Callable[[Path], Any]
    """what a folder has of it; None, False or empty for nothing."""
    read: Callable[[str | None, Any, Path, ReaderOptions], RecordSource]
    """by the kind that the user names, what was found, and the folder."""


FOLDER_LAYOUTS: Final = (
    FolderLayout("a set of WILDS", WILDS, find_wilds, _read_wilds),
    FolderLayout("IDX files", IDX_SETS, find_idx, read_idx),
    FolderLayout(
        "ImageNet", (IMAGENET,), is_imagenet_root, lambda _, __, folder, options: read_imagenet(folder, options)
    ),
    FolderLayout("Pascal VOC", (PASCAL_VOC, PASCAL_VOC_IMAGES), find_voc, read_voc),
    FolderLayout("a set of torchvision", TORCHVISION_SETS, find_torchvision, read_torchvision),
)
"""All are looked for, and one alone may be found; Hugging Face data sets and ImageFolders are what is left."""


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
    if kind is not None:
        layout = next((each for each in FOLDER_LAYOUTS if kind in each.names), None)
        if layout is not None:
            return layout.read(kind, layout.find(folder), folder, options)
    elif found := [(each, place) for each in FOLDER_LAYOUTS if (place := each.find(folder))]:
        if len(found) > 1:
            titles = ", ".join(each.title for each, _ in found)
            raise UserError(f"{folder} holds several data sets ({titles}): say which one by --format")
        layout, place = found[0]
        return layout.read(None, place, folder, options)
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
    return path.suffix in (".json", ".jsonl", ".token") or path.name in FLICKR_TABLES


def _holds_folders(folder: Path) -> bool:
    return os.path.isdir(folder) and any(map(os.path.isdir, folder.iterdir()))


def _open_benchmark_file(path: Path, kind: str | None, options: ReaderOptions) -> RecordSource:
    if path.suffix in (".parquet", ".arrow"):
        return read_hugging_face(path, options)
    if path.suffix == ".jsonl" and kind is None:
        kind = "winoground" if path.name == "examples.jsonl" else "snli-ve"
    if path.suffix in (".txt", ".csv", ".token") and kind is None:
        kind = "flickr-captions"
    if kind in _LINES:
        return _LINES[kind](path, options)
    if path.suffix != ".json":
        raise UserError(
            f"{path} is no annotation file that can be read: expected .json, .jsonl, .csv, .txt, .token, .parquet or .arrow"
        )
    if (source := _read_annotations(path, kind, _JSON, options)) is not None:
        return source
    expected = kind or f"a file of {', '.join(_JSON)}"
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
