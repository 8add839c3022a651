"""Benchmark shards as clip-benchmark lays them out."""

from __future__ import annotations

import json
from pathlib import Path

from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.evaluate.catalogue import CatalogueEntry
from tests.recipe.evaluate.small_run import COLOURS, draw


def lay_out(root: Path, entry: CatalogueEntry, *, prefix: str = "") -> Path:
    """Shards of an entry as clip-benchmark lays them out: six images in two shards."""
    folder = root / f"{prefix}{entry.name}"
    for shard in range(2):
        rows = range(3 * shard, 3 * shard + 3)
        write_samples(Storage(), f"{folder}/test/{shard}.tar", [sample(entry, row) for row in rows])
    (folder / "test" / "nshards.txt").write_text("2\n")
    if entry.type == "Retrieval":
        (folder / "dataset_type.txt").write_text("retrieval")
    elif entry.type == "Classification":
        (folder / "classnames.txt").write_text("\n".join(f"thing {n}" for n in range(entry.classes or 2)))
        (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\n{c}\n")
    return folder


def sample(entry: CatalogueEntry, row: int) -> tuple[str, dict[str, bytes]]:
    members = {"webp" if row % 2 else "jpg": draw(COLOURS[row], "disc", row)}
    if entry.type == "Classification":
        return f"s{row:07d}", {**members, "cls": str(row % min(6, entry.classes or 2)).encode()}
    if entry.type == "Retrieval":
        captions = [f"caption {number} of image {row}" for number in range(5)]
        return f"s{row:07d}", {**members, "txt": "\n".join(captions).encode()}
    if entry.type == "PairMatching":
        meta: dict[str, object] = {"group": row // 2, "caption": f"caption {row % 2} of group {row // 2}"}
        return f"s{row:07d}", {**members, "json": json.dumps(meta).encode()}
    if entry.type == "Association":
        cue = {"group": row // 3, "cue": "animal", "associated": row % 3 == 0, "candidates": 3}
        return f"s{row:07d}", {**members, "json": json.dumps({"cues": [cue]}).encode()}
    answers = ["yes"] * 10 if entry.name == "vqav2" else ["entailment"]
    candidates = ["yes", "no"] if entry.name == "vqav2" else ["entailment", "neutral", "contradiction"]
    meta = {"question": f"is this image {row}?", "answers": answers, "candidates": candidates}
    return f"s{row:07d}", {**members, "json": json.dumps(meta).encode()}
