"""The demo's pairs as plain tars, and random soft labels."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from diht_k8s.api.hashing import SCHEMA_VERSION
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.samples import read_samples
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.runtime.commit import artefact, commit
from diht_k8s.stages.label.soft_labels import top_k, write_labels
from diht_k8s.stages.label.vocabulary import Concepts, ConceptVocabulary

ROOT = Path(__file__).resolve().parent.parent
NUM_SHARDS = 4
TOP_K = 10
OBJECTS, ATTRIBUTES = 1000, 200
LONG_CAPTION = 80
"""Times that a long caption repeats its words."""


def make_data(
    folder: Path,
    *,
    pairs: int,
    jpeg_side: int | None = None,
    shards: int = NUM_SHARDS,
    long_captions: int | None = None,
) -> None:
    """Write `FOLDER/shards/*.tar` and the label stage's output below `FOLDER/out`.

    Args:
        folder: where to.
        pairs: how many, the demo's pairs in their order, over again where there are fewer.
        jpeg_side: side of the images in pixels, as JPEG; None leaves them as they are (WebP, 96 px).
        shards: how many.
        long_captions: every N-th caption is repeated until it fills any context; None leaves all as they are.
    """
    storage, layout, rng = Storage(), Layout("", {Stage.LABEL: str(folder / "out/label")}), np.random.default_rng(0)
    found = [
        (sample.caption, sample.image)
        for uri in storage.expand([f"{ROOT}/examples/data/train/*.tar.gz"])
        for sample in read_samples(storage, uri)
    ]
    vocabulary = ConceptVocabulary(pairs, _concepts("object", OBJECTS), _concepts("attribute", ATTRIBUTES), {})
    encoded = functools.cache(lambda index: _images(found[index][1], jpeg_side))

    def caption(number: int) -> str:
        text = found[number % len(found)][0]
        return text if long_captions is None or number % long_captions else " ".join([text] * LONG_CAPTION)

    for shard in range(shards):
        numbers = range(shard, pairs, shards)
        samples = [_sample(number, caption(number), encoded(number % len(found))) for number in numbers]
        write_samples(storage, f"{folder}/shards/{shard:05d}.tar", samples)
        uids = [f"{number:06d}" for number in numbers]
        heads = [
            top_k(rng.dirichlet(np.full(n, 0.1), len(uids)).astype(np.float32), TOP_K) for n in (OBJECTS, ATTRIBUTES)
        ]
        header = {"schema_version": SCHEMA_VERSION, "top_k": TOP_K, "vocabulary_sha256": vocabulary.sha256}
        write_labels(storage, layout.labels(f"{shard:05d}"), uids, rng.random(len(uids)) > 0.1, heads, header)
    document = json.dumps(vocabulary.document({"schema_version": SCHEMA_VERSION})).encode()
    storage.write_bytes(layout.vocabulary, document)
    commit(
        storage, layout, Stage.LABEL, {"inputs": {}}, [artefact(storage, layout, Stage.LABEL, "vocabulary.json")], {}
    )


def _concepts(kind: str, number: int) -> Concepts:
    return Concepts(tuple(f"{kind} {index}" for index in range(number)), (9,) * number)


def _images(image: bytes, jpeg_side: int | None) -> dict[str, bytes]:
    return {"webp": image} if jpeg_side is None else {"jpg": _jpeg(image, jpeg_side)}


def _sample(number: int, caption: str, images: dict[str, bytes]) -> tuple[str, dict[str, bytes]]:
    meta = json.dumps({"uid": f"{number:06d}"}).encode()
    return f"{number:06d}", {**images, "txt": caption.encode(), "json": meta}


def _jpeg(image: bytes, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=90
    )
    return buffer.getvalue()
