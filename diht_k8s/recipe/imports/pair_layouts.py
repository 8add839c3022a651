"""Which reader reads a folder or a file of image-caption pairs for training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.imports import captions
from diht_k8s.recipe.imports.annotations import CAPTIONS, read_annotations, require_known
from diht_k8s.recipe.imports.caption_tables import TABLES, read_rows, read_table
from diht_k8s.recipe.imports.loose_images import read_loose_images
from diht_k8s.recipe.imports.records import Source, Wanted

KINDS: Final = ("folder", "table", "rows", *CAPTIONS, "flickr-tokens")
"""All that can be read: `table` is CSV, TSV and JSON lines, `rows` Parquet, Arrow and Hugging Face data sets."""
METADATA: Final = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "captions.txt", "captions.csv", "results_20130124.token")  # fmt: skip
"""Tables that lie in the folder of their images, under names that others give them."""
_TOKENS: Final = re.compile(r"[^\t]+#\d+\t")


def tar_files(path: Path) -> list[Path]:
    """The shards of a folder that holds some already, as img2dataset writes them; a single shard for a file."""
    if path.is_file():
        return [path] if _is_shard(path) else []
    return sorted(found for found in path.iterdir() if found.is_file() and _is_shard(found)) if path.is_dir() else []


def open_pairs(path: Path, kind: str | None, wanted: Wanted) -> Source:
    """The reader of a folder or a file.

    Args:
        path: what the user names.
        kind: one of `KINDS`; None looks.
        wanted: split, columns and the folder of the images.

    Raises:
        UserError: nothing is there, the kind is unknown, or it is not what lies there.
        DataError: the files are damaged.
    """
    require_known(kind, KINDS, "layout of pairs")
    if not path.exists():
        raise UserError(f"{path} does not exist: name a folder of images, a table or an annotation file")
    return _open_file(path, kind, wanted) if path.is_file() else _open_folder(path, kind, wanted)


def _open_folder(folder: Path, kind: str | None, wanted: Wanted) -> Source:
    from diht_k8s.recipe.imports.hugging_face_tables import is_hugging_face

    if not any(folder.iterdir()):
        raise UserError(f"{folder} is empty: name a folder of images with a .txt or .json beside each")
    if kind in (None, "table", "rows") and (
        table := next((folder / n for n in METADATA if (folder / n).is_file()), None)
    ):
        return _open_file(table, kind, wanted)
    if kind == "rows" or (kind is None and is_hugging_face(folder) and not _has_loose_images(folder)):
        return read_rows(folder, wanted)
    if kind not in (None, "folder"):
        raise UserError(f"{kind} is read from its file: name that in place of {folder}")
    return read_loose_images(folder, wanted)


def _has_loose_images(folder: Path) -> bool:
    """Whether an image lies in the folder or in one of those in it, as where img2dataset wrote files."""
    return any(next(folder.glob(pattern), None) for pattern in ("*.jpg", "*/*.jpg", "*.png", "*/*.png"))


def _is_shard(path: Path) -> bool:
    return path.name.endswith((".tar", ".tar.gz", ".tgz"))


def _open_file(path: Path, kind: str | None, wanted: Wanted) -> Source:
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow"):
        return read_rows(path, wanted)
    if suffix in (".token", ".txt") and kind in (None, "flickr-tokens") and _is_tokens(path):
        return captions.read_tokens(path, wanted)
    if suffix in (*TABLES, ".txt") and kind in (None, "table"):
        return read_table(path, wanted)
    if suffix != ".json":
        raise UserError(
            f"{path} is no table or annotation file{f' of the layout {kind}' if kind else ''}: expected "
            f"{', '.join(TABLES)}, .parquet, .arrow, COCO's .json or Flickr30k's .token"
        )
    if (source := read_annotations(path, kind, CAPTIONS, wanted)) is not None:
        return source
    raise UserError(
        f"{path} is no annotation file of captions: expected COCO's (`images` and `annotations` with `caption`) or "
        "Karpathy's; a list of objects is read as JSON lines, one object a line, in a file .jsonl"
    )


def _is_tokens(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        return _TOKENS.match(file.readline()) is not None
