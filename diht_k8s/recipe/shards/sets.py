"""Which shards a stage reads: the run's input, or what the filter kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import Layout
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import Spec, Stage
from diht_k8s.recipe.runtime.commit import read_committed
from diht_k8s.recipe.shards.storage import Storage


@dataclass(frozen=True)
class Shard:
    """One shard and the name under which stages write what belongs to it."""

    name: str
    """`SOURCE-STEM`, unique in the run."""
    uri: str
    source: str
    filtered: bool = True
    """whether the CAT rules judge it (data.sources[].filter)."""
    image_key: str | None = None
    """suffix of the pictures, where it is an unusual one (data.sources[].imageKey)."""
    caption_key: str | None = None
    """suffix of the captions or their name in the .json (data.sources[].captionKey)."""
    samples: int | None = None
    """number of samples where it is known."""
    keep_list: str | None = None
    """URI of the list of the samples to be read; None reads all."""
    identity: str | None = None
    """`Storage.identity` of the shard of which the list was made."""


def input_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """The raw shards of all sources, in order, with unique names."""
    shards: list[Shard] = []
    taken: set[str] = set()
    for source in spec.data.sources:
        for uri in storage.expand(source.shards):
            stem = PurePosixPath(uri).name.partition(".")[0]
            name = f"{source.name}-{stem}"
            if name in taken:
                name = f"{name}-{len(shards)}"
            taken.add(name)
            shards.append(Shard(name, uri, source.name, source.filter, source.image_key, source.caption_key))
    return shards


def kept_shards(spec: Spec, storage: Storage) -> list[Shard]:
    """What training and labelling read: what the filter kept, without empty shards, or the raw input of a run without a filter.

    Raises:
        UserError: the filter has not been committed or its raw shards are not there, or there is none and a source has keys that only it reads.
    """
    if spec.filter is None:
        shards = input_shards(spec, storage)
        renamed = next((shard.source for shard in shards if shard.image_key or shard.caption_key), None)
        if renamed is not None:
            raise UserError(
                f"spec.data.sources {renamed}: imageKey and captionKey are read by the stage filter: add spec.filter "
                "(with filter: false for the source where nothing should be dropped)"
            )
        return shards
    return kept_by(read_committed(storage, Layout(spec.data.output), Stage.FILTER), spec, storage)


def kept_by(committed: Committed, spec: Spec, storage: Storage) -> list[Shard]:
    """What a filter kept that ended with this marker, without empty shards.

    Raises:
        UserError: its raw shards are to be read, and the run does not name one of them.
    """
    layout = Layout(spec.data.output)
    kept = [item for item in committed.summary["shards"] if item["kept"]]
    if committed.config.get("config", {}).get("output") == "KeepList":
        raw = {shard.name: shard for shard in input_shards(spec, storage)}
        return [_listed(raw.get(item["name"]), item, layout, committed.inputs) for item in kept]
    return [Shard(item["name"], layout.kept(item["name"]), item["source"], samples=item["kept"]) for item in kept]


def _listed(raw: Shard | None, item: Mapping[str, Any], layout: Layout, inputs: Mapping[str, str]) -> Shard:
    """A raw shard of which the filter kept something, with its keep list."""
    name: str = item["name"]
    if raw is None:
        raise UserError(
            f"the filter kept pairs of the shard {name}, which spec.data.sources lead to no more: "
            "give the run document of which it was made, or run the stage filter again"
        )
    identity = inputs[name].partition(" ")[0]  # what follows says how the filter read it
    return replace(raw, samples=item["kept"], keep_list=layout.keep_list(name), identity=identity)


def share(shards: list[Shard], worker: int, workers: int) -> list[Shard]:
    """The shards of one of several workers: every workers-th, so that neighbours differ in age and kind."""
    return shards[worker::workers]
