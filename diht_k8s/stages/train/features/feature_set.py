"""A set of stored image features: one locked tower's, of images in one view, each shard's in a file of its own.

A file's name has the shard's and a digest of the pairs in it, so trainings on other pairs, and filters that keep others, share
what they have in common. Pure but for the markers that say which pairs a shard holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import DIGITS, Layout, join
from diht_k8s.api.run import DihtRun, Stage
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed
from diht_k8s.stages.train.data.normalisation import Normalisation

SUFFIX: Final = ".safetensors"


class FeatureFile(NamedTuple):
    """The features of one shard."""

    uri: str
    config_sha256: str
    """that its header must have."""
    of: str
    """the set, for a message."""
    remedy: str = "remove it, and the next start makes it again"
    """for a file that does not fit."""


@dataclass(frozen=True)
class FeatureSet:
    """The features of one tower and one view."""

    tower: str
    """SHA-256 of the locked tower."""
    source: str
    """where the tower comes from, for people."""
    size: int
    """side of the images in pixels."""
    normalisation: Normalisation
    view: int = 0
    """0 is an evaluation's; others are random crops, each image's its own."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """open_clip's, which the exported model has, too."""
        crop = {"crop": self.view} if self.view else {}
        return {"size": self.size, **self.normalisation.preprocessing(), **crop}

    @cached_property
    def config_sha256(self) -> str:
        """Digest of what decides the numbers."""
        return sha256_of({"tower": self.tower, "preprocessing": self.preprocessing})

    def header(self) -> dict[str, Any]:
        """What each of its files says of itself."""
        told = {"tower": self.tower, "source": self.source, "preprocessing": self.preprocessing}
        return {"config_sha256": self.config_sha256, **told}

    def file(self, layout: Layout, shard: str, pairs: str) -> FeatureFile:
        """The file of a shard that holds some pairs, by their digest."""
        name = f"{shard}-{sha256_of(pairs)[:DIGITS]}{SUFFIX}"
        of = f"the image tower {self.tower[:12]} of {self.source}"
        return FeatureFile(join(layout.feature_set(self.config_sha256), name), self.config_sha256, of)


def pairs_of(run: DihtRun, storage: Storage, layout: Layout, shards: Sequence[Shard]) -> list[str]:
    """For each shard of a training what changes when its pairs do: the filter's digest of what it kept, else its version."""
    kept: Mapping[str, str] = {}
    train = run.spec.train
    if run.spec.filter is not None and train is not None and not train.shards:
        committed = find_committed(storage, layout, Stage.FILTER)
        kept = {} if committed is None else {item.path: item.sha256 for item in committed.artefacts}
    return [
        kept.get(f"kept/{each.name}.tar") or f"{each.identity} {kept.get(f'kept/{each.name}.parquet', '')}"
        for each in shards
    ]
