"""The raw shards of a run, in order, with unique names (`spec.data.sources`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diht_k8s.api.run import Spec
from diht_k8s.data.shards.listing import ListedFile
from diht_k8s.data.shards.shard_names import distinct_names, stem
from diht_k8s.data.shards.source_lists import current_sources, known_sources
from diht_k8s.data.shards.storage import Storage


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
    """`SOURCE-STEM`, or `SOURCE-STEM-DIGEST` where another shard would have that name (see `shard_names`)."""
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
    """`Storage.identity` of the shard when the run listed it, or when the keep list was made."""
    size: int | None = None
    """in bytes, where it is known."""
    part: TablePart | None = None
    """which part of a table of captions this is; None for a tar."""


def input_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources by the run's source list, in order, with unique names."""
    return _named(spec, known_sources(storage, spec.data.output, _patterns(spec)))


def current_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources as they are when a stage starts (see `source_lists`)."""
    return _named(spec, current_sources(storage, spec.data.output, _patterns(spec)))


def listed_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources as they are now, for programs that run beside no stage."""
    return _named(spec, storage.list_sources(_patterns(spec)))


def training_shards(listed: Iterable[ListedFile]) -> list[Shard]:
    """The shards that the training names itself (`train.shards`); labels go by their file names."""
    files = list(listed)
    names = distinct_names([(stem(file.uri), file.uri) for file in files])
    return [
        Shard(name, uri, "train", size=size, identity=identity)
        for name, (uri, size, identity) in zip(names, files, strict=True)
    ]


def _patterns(spec: Spec) -> list[list[str]]:
    return [list(source.shards or ()) for source in spec.data.sources]


def _named(spec: Spec, found: Sequence[Sequence[ListedFile]]) -> list[Shard]:
    files = [(source, file) for source, files in zip(spec.data.sources, found, strict=True) for file in files]
    names = distinct_names([(f"{source.name}-{stem(file.uri)}", file.uri) for source, file in files])
    return [
        Shard(name, uri, source.name, source.filter, source.image_key, source.caption_key, size=size, identity=identity)
        for name, (source, (uri, size, identity)) in zip(names, files, strict=True)
    ]


def share(shards: list[Shard], worker: int, workers: int) -> list[Shard]:
    """The shards of one of several workers: every workers-th, so that neighbours differ in age and kind."""
    return shards[worker::workers]
