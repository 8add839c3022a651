"""The result of a benchmark: what the measuring hands on, its document for `report.json`, and its two files.

`benchmarks/NNN.json` holds the document, `benchmarks/NNN.parquet` each image's part in the figures. They are written as
soon as a benchmark is measured, so an interrupted stage resumes with the next one. The queries with which the page
opens are drawn by digest before any result is known, so that they show what is usual.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.report.per_image import PerImage, per_image_path, write_per_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage


import hashlib
from typing import Final

Json = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """The figures of one benchmark."""

    figures: Json
    """its part of `report.json`, plain values."""
    per_image: PerImage
    images: Sequence[BenchmarkImage]
    """that the figures are of; copies of an image may be one or several."""
    shown: Sequence[str] = ()
    """uids of the images that the page shows."""


def per_image_of(
    images: Sequence[BenchmarkImage],
    texts: list[str],
    asked: list[str],
    figures: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> PerImage:
    """Each image's part in the figures: [N] hits and [N] weights of each."""
    return PerImage([image.uid for image in images], [image.uri for image in images], texts, figures, asked=asked)


def asked_digest(asked: Any) -> str:
    """Digest of all that a benchmark asks about an image: classes in order, captions, candidates, cues.

    Comparisons pair only equal ones. Templates do not belong to it: they are how a run asks its model, and whether
    other ones are better is a fair comparison.
    """
    return sha256_of(asked)


def result_path(number: int) -> str:
    """The document's file, relative to the stage's folder; numbers of benchmarks start at 0."""
    return f"benchmarks/{number:03d}.json"


def read_result(storage: Storage, folder: str, number: int, config_sha256: str) -> Json | None:
    """The document that an earlier attempt has written; None if it is missing or of another configuration."""
    uri = join(folder, result_path(number))
    if not storage.exists(uri) or not storage.exists(join(folder, per_image_path(number))):
        return None
    found: Json = json.loads(storage.read_bytes(uri))
    return found if found["config_sha256"] == config_sha256 else None


def write_result(storage: Storage, folder: str, number: int, document: Json, per_image: PerImage) -> None:
    """Write both files, the document last."""
    write_per_image(storage, join(folder, per_image_path(number)), per_image)
    content = json.dumps(document, indent=1, ensure_ascii=False)
    storage.write_bytes(join(folder, result_path(number)), content.encode())


QUERIES: Final = 12
FOUND: Final = 5
"""Images shown of each."""


def drawn_by_digest(names: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Indices of at most `QUERIES` texts: those whose names have the smallest SHA-256, without repeated texts.

    Args:
        names: the uid of each text's image, or what else tells the texts apart; of equal names the first counts.
        texts: what is asked.
    """
    chosen: dict[str, int] = {}
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    for name in sorted(first, key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest()):
        chosen.setdefault(texts[first[name]], first[name])
        if len(chosen) == QUERIES:
            break
    return list(chosen.values())
