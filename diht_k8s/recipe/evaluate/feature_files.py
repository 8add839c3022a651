"""Encoded shards as files: workers share the images, and an interrupted stage resumes from the same bytes.

A file holds the unit features of a shard's images; its header holds what the benchmarks need of each image. For a shard
that cannot be read it holds the reason, so the other benchmarks continue.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from diht_k8s.api.errors import DataError
from diht_k8s.recipe.evaluate.answer_ranking import VisualQuestion
from diht_k8s.recipe.evaluate.benchmark_images import BenchmarkImage, Cue, EncodedImages
from diht_k8s.recipe.runtime.bad_shards import Damage
from diht_k8s.recipe.shards.storage import Storage

Json = dict[str, Any]


def write_features(storage: Storage, uri: str, key: str, found: EncodedImages | DataError) -> None:
    """Write a shard's features.

    Args:
        storage: of the run.
        uri: the file.
        key: what the features depend on: the model and the shard.
        found: the images, or the reason why there are none.
    """
    from safetensors.numpy import save

    document: Json = {"key": key}
    tensors = dict[str, np.ndarray]()
    if isinstance(found, DataError):
        document["error"] = str(found)
    else:
        document |= {"items": [asdict(item) for item in found.items], "bad": dict(sorted(found.bad.items()))}
        if found.damaged:
            document["damaged"] = {name: damage.to_json() for name, damage in found.damaged.items()}
        tensors["features"] = np.ascontiguousarray(found.features_ND)
    storage.write_bytes(uri, save(tensors, metadata={"document": json.dumps(document)}))


def read_features(storage: Storage, uri: str, key: str) -> EncodedImages | DataError | None:
    """What a file holds; None if it is missing, damaged, or belongs to another model or shard."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not storage.exists(uri):
        return None
    content = storage.read_bytes(uri)
    try:
        tensors, document = load(content), _header(content)
    except (SafetensorError, ValueError, KeyError):
        return None
    if document["key"] != key:
        return None
    if "error" in document:
        return DataError(document["error"])
    items, damaged = [_item(item) for item in document["items"]], document.get("damaged", {})
    return EncodedImages(
        items,
        tensors["features"],
        Counter(document["bad"]),
        {name: Damage(**damage) for name, damage in damaged.items()},
    )


def _header(content: bytes) -> Json:
    """The metadata of safetensors: eight bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["document"])


def _item(fields: Json) -> BenchmarkImage:
    questions = tuple(
        VisualQuestion(question["text"], tuple(question["answers"]), tuple(question["candidates"]))
        for question in fields["questions"]
    )
    cues = tuple(Cue(**cue) for cue in fields.get("cues", ()))  # files of earlier versions have none
    return BenchmarkImage(**{**fields, "captions": tuple(fields["captions"]), "questions": questions, "cues": cues})
