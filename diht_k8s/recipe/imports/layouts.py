"""Which reader reads a folder or a file: by the name that a user gives, else by what lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.imports import captions, questions
from diht_k8s.recipe.imports.annotations import CAPTIONS, Layouts, read_annotations, require_known
from diht_k8s.recipe.imports.image_folder import read_image_folder
from diht_k8s.recipe.imports.records import Source, Wanted
from diht_k8s.recipe.imports.torchvision_sets import KNOWN, find_known, read_torchvision
from diht_k8s.recipe.imports.wilds_sets import find_wilds, read_wilds
from diht_k8s.recipe.imports.winoground import read_winoground

_JSON: Final[Layouts] = {
    **CAPTIONS,
    "vqav2": (questions.is_vqa, questions.read_vqa),
    "sugar-crepe": (questions.is_sugar_crepe, questions.read_sugar_crepe),
}
_LINES: Final[dict[str, Callable[[Path, Wanted], Source]]] = {
    "flickr-captions": captions.read_caption_lines,
    "snli-ve": questions.read_snli_ve,
    "winoground": read_winoground,
}
WILDS: Final = ("wilds-camelyon17", "wilds-iwildcam", "wilds-fmow")
KINDS: Final = ("image-folder", *_JSON, *_LINES, *WILDS, "hugging-face", *KNOWN)
"""All that can be read."""


def open_source(path: Path, kind: str | None, wanted: Wanted) -> Source:
    """The reader of a folder or a file.

    Args:
        path: what the user names.
        kind: one of `KINDS`; None looks.
        wanted: split, and further files.

    Raises:
        UserError: nothing is there, the kind is unknown, or it is not what lies there.
        DataError: the files are damaged.
    """
    require_known(kind, KINDS)
    if not path.exists():
        raise UserError(f"{path} does not exist: name the folder or the annotation file of the original")
    return _open_file(path, kind, wanted) if path.is_file() else _open_folder(path, kind, wanted)


def _open_folder(folder: Path, kind: str | None, wanted: Wanted) -> Source:
    if not any(folder.iterdir()):
        raise UserError(f"{folder} is empty: name the folder into which the original was unpacked")
    wilds = find_wilds(folder)
    if kind in WILDS or (kind is None and wilds):
        if wilds is None or (kind is not None and kind != wilds):
            raise UserError(f"{folder} holds no metadata of {kind}: name the folder with its metadata.csv")
        return read_wilds(wilds, folder, wanted)
    known = find_known(folder)
    if kind in KNOWN:
        root = known[1] if known is not None and known[0] == kind else folder
        return read_torchvision(kind, root, wanted)
    if kind is None and known is not None:
        return read_torchvision(*known, wanted)
    if kind == "hugging-face" or (kind is None and _is_hugging_face(folder)):
        from diht_k8s.recipe.imports.hugging_face import read_hugging_face

        return read_hugging_face(folder, wanted)
    if kind not in (None, "image-folder"):
        raise UserError(f"{kind} is read from its annotation file: name that in place of {folder}")
    documents = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
    if kind is None and documents and not any(entry.is_dir() and _holds_folders(entry) for entry in folder.iterdir()):
        raise UserError(
            f"{folder} holds annotations ({', '.join(documents[:4])}): name one of these files, not the folder"
        )
    return read_image_folder(folder, wanted)


def _holds_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in folder.iterdir())


def _is_hugging_face(folder: Path) -> bool:
    from diht_k8s.recipe.imports.hugging_face_tables import is_hugging_face

    return is_hugging_face(folder)


def _open_file(path: Path, kind: str | None, wanted: Wanted) -> Source:
    if path.suffix in (".parquet", ".arrow"):
        from diht_k8s.recipe.imports.hugging_face import read_hugging_face

        return read_hugging_face(path, wanted)
    if path.suffix == ".jsonl" and kind is None:
        kind = "winoground" if path.name == "examples.jsonl" else "snli-ve"
    if path.suffix in (".txt", ".csv") and kind is None:
        kind = "flickr-captions"
    if kind in _LINES:
        return _LINES[kind](path, wanted)
    if path.suffix != ".json":
        raise UserError(
            f"{path} is no annotation file that can be read: expected .json, .jsonl, .csv, .txt, .parquet or .arrow"
        )
    if (source := read_annotations(path, kind, _JSON, wanted)) is not None:
        return source
    expected = kind or f"a file of {', '.join(_JSON)}"
    raise UserError(f"{path} is not {expected}: check the file, or name its layout by --format")
