"""A pool and its soft labels as published files: labels differ slightly by processor.

Shapes: N kept pairs, K stored classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diht_k8s.stages.label.soft_labels import HeadLabels
from diht_k8s.stages.label.targets import Targets

HEADS: Final = ("objects", "attributes")
CLASSES: Final = b"classes"
POOL: Final = "pool.npz"
PAIRS: Final = b"pairs"
"""SHA-256 of the pairs' uids, in order."""


@dataclass(frozen=True)
class SoftLabels:
    """Labels of the kept pairs, in their order."""

    objects: HeadLabels
    attributes: HeadLabels
    classes: tuple[int, int]

    def chosen(self, rows_N: NDArray[np.int64]) -> SoftLabels:
        """Those of some pairs."""
        heads = [
            HeadLabels(head.ids_NK[rows_N], head.probabilities_NK[rows_N]) for head in (self.objects, self.attributes)
        ]
        return SoftLabels(heads[0], heads[1], self.classes)


def of_captions(objects: Targets, attributes: Targets) -> SoftLabels:
    """What the captions themselves name, as labels: 1/m on each of m concepts, nothing where a caption names none."""
    heads = [_filled(targets) for targets in (objects, attributes)]
    return SoftLabels(heads[0], heads[1], (objects.classes, attributes.classes))


def _filled(targets: Targets) -> HeadLabels:
    present_N = targets.present
    ids_NK = np.full((len(present_N), max(1, int(present_N.max(initial=0)))), -1, np.int64)
    rows = targets.image_ids()
    ids_NK[rows, np.arange(len(rows)) - targets.offsets[rows]] = targets.class_ids
    shares_N1 = 1 / np.maximum(present_N, 1)[:, None]
    return HeadLabels(ids_NK, np.where(ids_NK >= 0, shares_N1, 0).astype(np.float32))


def write_pool(folder: Path, pool: Mapping[str, tuple[Sequence[str], Collection[str]]]) -> None:
    """Write which pairs are kept.

    Args:
        folder: of the published trainings.
        pool: name (`kept`, `junk_kept`) -> all uids in order, and those that are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {}
    for name, (uids, kept) in pool.items():
        chosen = set(kept)
        arrays[name] = np.packbits([uid in chosen for uid in uids])
        arrays[f"{name}_of"] = np.frombuffer(_pairs(uids), np.uint8)
    np.savez_compressed(folder / POOL, allow_pickle=False, **arrays)


def read_pool(folder: Path, name: str, uids: Sequence[str]) -> NDArray[np.int64]:
    """Rows of the kept pairs among all.

    Raises:
        SystemExit: all are not those of which some were kept.
    """
    with np.load(folder / POOL) as found:
        if found[f"{name}_of"].tobytes() != _pairs(uids):
            raise SystemExit(f"{folder / POOL} is of another corpus: build the one of this version")
        return np.flatnonzero(np.unpackbits(found[name], count=len(uids)))


def write(folder: Path, uids: Sequence[str], labels: Mapping[str, SoftLabels]) -> None:
    """Write `labels-SOURCE.parquet` of each source."""
    folder.mkdir(parents=True, exist_ok=True)
    for source, each in labels.items():
        columns: dict[str, Any] = {}
        for name in HEADS:
            head: HeadLabels = getattr(each, name)
            for k in range(head.ids_NK.shape[1]):
                columns[f"{name}_id_{k}"] = head.ids_NK[:, k].astype(np.int32)
                columns[f"{name}_share_{k}"] = head.probabilities_NK[:, k].astype(np.float16)
        metadata = {CLASSES: json.dumps(each.classes).encode(), PAIRS: _pairs(uids)}
        table = pa.table(columns).replace_schema_metadata(metadata)
        path = folder / f"labels-{source}.parquet"
        pq.write_table(table, path.with_suffix(".part"), compression="zstd", compression_level=19)
        path.with_suffix(".part").replace(path)


def agreement(labels: HeadLabels, captions: HeadLabels) -> tuple[float, float]:
    """Of images whose caption names a concept: how often the likeliest label is one of those, and the labels' share on
    them.
    """
    named_N = captions.ids_NK[:, 0] >= 0
    ids_NK, own_NM = labels.ids_NK[named_N], captions.ids_NK[named_N]
    said_NK = (ids_NK[:, :, None] == own_NM[:, None, :]).any(axis=2)
    return float(said_NK[:, 0].mean()), float((said_NK * labels.probabilities_NK[named_N]).sum(axis=1).mean())


def agreement_table(folder: Path) -> str:
    """How the labels of both networks, and the commonest concept alone, agree with the captions."""
    labels = read(folder, None)
    rows = [
        "| labels of | head | the likeliest is a concept of the caption | share on the caption's concepts |",
        "|---|---|---|---|",
    ]
    for source in ("teacher", "untrained"):
        for head in HEADS:
            first, share = agreement(getattr(labels[source], head), getattr(labels["captions"], head))
            rows.append(f"| {source} | {head} | {100 * first:.1f} % | {100 * share:.1f} % |")
    for head in HEADS:
        own_NM = getattr(labels["captions"], head).ids_NK
        named_NM = own_NM[own_NM[:, 0] >= 0]
        share = np.bincount(named_NM[named_NM >= 0]).max() / len(named_NM)
        rows.append(f"| none, the commonest concept | {head} | {100 * share:.1f} % | |")
    return "\n".join(rows)


def read(folder: Path, uids: Sequence[str] | None) -> dict[str, SoftLabels]:
    """The labels by source; none if the folder has none.

    Args:
        folder: of the published trainings.
        uids: the pool's; None does not compare them.

    Raises:
        SystemExit: they are of other pairs.
    """
    found: dict[str, SoftLabels] = {}
    for path in sorted(folder.glob("labels-*.parquet")):
        table = pq.read_table(path)
        if uids is not None and table.schema.metadata[PAIRS] != _pairs(uids):
            raise SystemExit(
                f"{path} has labels of other pairs than the filter keeps: another corpus, or another filter"
            )
        objects, attributes = (_head(table, name) for name in HEADS)
        first, second = json.loads(table.schema.metadata[CLASSES])
        found[path.stem.removeprefix("labels-")] = SoftLabels(objects, attributes, (first, second))
    return found


def digest(uids: Sequence[str], labels: Mapping[str, SoftLabels]) -> str:
    """Of pairs and labels: results on others are not compared."""
    found = hashlib.sha256("\n".join(uids).encode())
    for _, each in sorted(labels.items()):
        for head in (each.objects, each.attributes):
            found.update(head.ids_NK.astype("<i4").tobytes())
            found.update(head.probabilities_NK.astype("<f2").tobytes())
    return found.hexdigest()[:12]


def _pairs(uids: Sequence[str]) -> bytes:
    return hashlib.sha256("\n".join(uids).encode()).hexdigest().encode()


def _head(table: pa.Table, name: str) -> HeadLabels:
    width = sum(column.startswith(f"{name}_id_") for column in table.column_names)
    ids_NK, shares_NK = (
        np.stack([table[f"{name}_{part}_{k}"].to_numpy() for k in range(width)], axis=1) for part in ("id", "share")
    )
    shares_NK = shares_NK.astype(np.float32)
    sums_N1 = shares_NK.sum(axis=1, keepdims=True)  # of fp16: off by up to 4e-4, or 0 where nothing is said
    return HeadLabels(ids_NK.astype(np.int64), (shares_NK / np.where(sums_N1 > 0, sums_N1, 1)).astype(np.float32))
