"""The features of encoded shards as files: workers share the shards, and an interrupted stage resumes from the same bytes.

A file holds the unit features of a shard's images; its header holds what the benchmarks need of each image. For a shard
that cannot be read it holds the reason, so the other benchmarks continue.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.data.shards.safetensors_metadata import metadata_of
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.bad_shards import Damage
from diht_k8s.runtime.ledger import Count, require_equal
from diht_k8s.stages.evaluate.benchmark_images import BenchmarkImage, Cue, VisualQuestion
from diht_k8s.stages.evaluate.encoding import EncodedImages, joined

Json = dict[str, Any]


class FeatureFiles:
    """The feature files of a stage, `NNNNN.safetensors` in the order of the shards."""

    def __init__(self, storage: Storage, folder: str, keys: Mapping[str, str]) -> None:
        """List them; nothing is read yet.

        Args:
            storage: of the run.
            folder: where the files lie.
            keys: shard -> digest of all that its features depend on; a file with another key does not count.
        """
        self._storage, self._folder, self._keys = storage, folder, keys
        self._names = {uri: f"{number:05d}" for number, uri in enumerate(keys)}
        self._found = set[str]()
        """shards whose file was found complete or written here; it is read again only for use."""
        self.damaged = dict[str, Damage]()
        """the damaged ones among them; those of all workers once none is missing."""

    @property
    def shards(self) -> list[str]:
        """All shards, in order."""
        return list(self._names)

    def name(self, shard: str) -> str:
        """A short name of a shard, for its claim."""
        return self._names[shard]

    def missing(self) -> list[str]:
        """The shards that nobody has encoded yet, in order."""
        there = set(self._storage.names(self._folder))
        return [shard for shard in self._names if self._file(shard) not in there or not self.holds(shard)]

    def holds(self, shard: str) -> bool:
        """Whether a shard is encoded."""
        if shard not in self._found and (features := self._read(shard)) is not None:
            self._add(shard, features)
        return shard in self._found

    def read(self, shards: Sequence[str]) -> EncodedImages:
        """The images of encoded shards, in order.

        Raises:
            DataError: one of the shards could not be read, or images of it were lost.
        """
        parts: list[EncodedImages] = []
        for shard in shards:
            features = self._read(shard)
            assert features is not None, "every shard is encoded before one is read"
            if isinstance(features, DataError):
                raise features
            _check(self._uri(shard), features)
            parts.append(features)
        return joined(parts)

    def write(self, shard: str, features: EncodedImages | DataError) -> None:
        """Keep the images of a shard, or the reason why there are none."""
        write_features(self._storage, self._uri(shard), self._keys[shard], features)
        self._add(shard, features)

    def _add(self, shard: str, features: EncodedImages | DataError) -> None:
        self._found.add(shard)
        if isinstance(features, EncodedImages):
            self.damaged |= features.damaged

    def _read(self, shard: str) -> EncodedImages | DataError | None:
        return read_features(self._storage, self._uri(shard), self._keys[shard])

    def _file(self, shard: str) -> str:
        return f"{self._names[shard]}.safetensors"

    def _uri(self, shard: str) -> str:
        return join(self._folder, self._file(shard))


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
        document["samples"] = found.samples
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
        tensors, document = load(content), json.loads(metadata_of(content)["document"])
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
        document["samples"],
    )


def _check(uri: str, found: EncodedImages) -> None:
    """Compare the images of a shard with its tar and with the rows of their features."""
    again, bad = "remove this file and run the stage evaluate again", found.bad.total()
    images = Count(len(found.items), "images are encoded")
    require_equal(uri, again, images, Count(len(found.features_ND), "rows of features"))
    held = Count(found.samples, "images are in the shard")
    require_equal(uri, again, held, Count(images.number + bad, f"are encoded or bad ({bad})"))


def _item(fields: Json) -> BenchmarkImage:
    questions = tuple(
        VisualQuestion(question["text"], tuple(question["answers"]), tuple(question["candidates"]))
        for question in fields["questions"]
    )
    cues = tuple(Cue(**cue) for cue in fields.get("cues", ()))  # files of earlier versions have none
    several = ("captions", "classes", "ignored_classes", "unusable_cues")
    lists = {name: tuple(value) for name, value in fields.items() if name in several and value is not None}
    return BenchmarkImage(**{**fields, **lists, "questions": questions, "cues": cues})
