"""The layout of an annotation file: by the name that a user gives, else by what is in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError, suggestion
from diht_k8s.recipe.imports import captions
from diht_k8s.recipe.imports.documents import read_json
from diht_k8s.recipe.imports.records import Source, Wanted

Layouts = Mapping[str, tuple[Callable[[Any], bool], Callable[[Path, Any, Wanted], Source]]]
"""Name -> whether a JSON document is of this layout, and its reader."""
CAPTIONS: Final[Layouts] = {
    "coco-captions": (captions.is_coco, captions.read_coco),
    "karpathy": (captions.is_karpathy, captions.read_karpathy),
}


def require_known(kind: str | None, kinds: Sequence[str], what: str = "layout") -> None:
    """Check the name that a user gives.

    Raises:
        UserError: it is none of `kinds`; the nearest is named.
    """
    if kind is not None and kind not in kinds:
        hint = suggestion(kind, kinds, f"choose one of {', '.join(kinds)}", cutoff=0.4)
        raise UserError(f"{kind} is no {what}: {hint}")


def read_annotations(path: Path, kind: str | None, layouts: Layouts, wanted: Wanted) -> Source | None:
    """What a JSON file holds, by the first layout that fits; None if none does.

    Raises:
        UserError, DataError: the reader's, or it is not JSON.
    """
    document = read_json(path)
    for name, (fits, read) in layouts.items():
        if kind in (None, name) and fits(document):
            return read(path, document, wanted)
    return None
