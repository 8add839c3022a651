"""The raw shards of a run, in order, with unique names (`spec.data.sources`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from diht_k8s.api.run import Spec
from diht_k8s.recipe.shards.storage import Storage


@dataclass(frozen=True)
class TablePart:
    """The share of a table of captions that one worker filters at a time."""

    start: int
    """the first row of a Parquet file, or the first byte of a text file."""
    stop: int
    """the one after the last."""
    size: int
    """bytes, about."""


@dataclass(frozen=True)
class Shard:
    """One shard and the name under which stages write what belongs to it."""

    name: str
    """`SOURCE-STEM`, unique in the run."""
    uri: str
    source: str
    filtered: bool = True
    """whether the CAT rules apply (data.sources[].filter)."""
    image_key: str | None = None
    """suffix of the images, if unusual (data.sources[].imageKey)."""
    caption_key: str | None = None
    """suffix of the captions or their name in the .json (data.sources[].captionKey)."""
    samples: int | None = None
    """number of samples where it is known."""
    keep_list: str | None = None
    """URI of the list of the samples to be read; None reads all."""
    identity: str | None = None
    """`Storage.identity` of the shard when the list was made."""
    part: TablePart | None = None
    """which part of a table of captions this is; None for a tar."""


def input_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources, in order, with unique names."""
    shards: list[Shard] = []
    taken: set[str] = set()
    for source in spec.data.sources:
        for uri in storage.expand(source.shards or ()):
            stem = PurePosixPath(uri).name.partition(".")[0]
            name = f"{source.name}-{stem}"
            if name in taken:
                name = f"{name}-{len(shards)}"
            taken.add(name)
            shards.append(Shard(name, uri, source.name, source.filter, source.image_key, source.caption_key))
    return shards


def share(shards: list[Shard], worker: int, workers: int) -> list[Shard]:
    """The shards of one of several workers: every workers-th, so that neighbours differ in age and kind."""
    return shards[worker::workers]
