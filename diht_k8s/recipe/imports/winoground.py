"""Winoground as its repository keeps it: `examples.jsonl` and the unpacked `images.zip`."""

from __future__ import annotations

from pathlib import Path

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.imports.documents import image_folder_of, read_json_lines, text_of
from diht_k8s.recipe.imports.records import Record, Source, Wanted, fingerprint, listed


def read_winoground(path: Path, wanted: Wanted) -> Source:
    """Two records an example: its images with their own captions, in one group.

    Raises:
        UserError: the images are not found.
        DataError: an entry lacks a field.
    """
    pairs = [
        (entry.get("id", number), side, text_of(entry, f"image_{side}", path), text_of(entry, f"caption_{side}", path))
        for number, entry in enumerate(read_json_lines(path))
        for side in (0, 1)
    ]
    if not pairs:
        raise DataError(f"{path} has no examples: fetch it again")
    folder = image_folder_of(path, wanted.images, ("images",), [f"{pairs[0][2]}.png"])
    records = [
        Record(
            str(folder / f"{name}.png"), folder / f"{name}.png", captions=(caption,),
            meta={"group": group, "uid": f"{group}-{side}"},
        )
        for group, side, name, caption in pairs
    ]  # fmt: skip
    return Source("winoground", "PairMatching", len(records), listed(records), fingerprint(pairs))
