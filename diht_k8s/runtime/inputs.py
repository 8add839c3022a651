"""The shards that a stage reads: the run's input, or those that the filter kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import Spec, Stage
from diht_k8s.data.shards.shard_index import StoredIndex
from diht_k8s.data.shards.sources import Shard, input_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed, read_committed


def kept_shards(spec: Spec, storage: Storage, layout: Layout) -> list[Shard]:
    """The input of training and labelling: what the filter kept, without empty shards, or the raw input without a filter.

    Raises:
        UserError: the filter is not committed, its raw shards are missing, or a run without a filter has a source with
            imageKey or captionKey, which only the filter reads.
    """
    if spec.filter is None:
        shards = input_shards(spec, storage)
        renamed = next((shard.source for shard in shards if shard.image_key or shard.caption_key), None)
        if renamed is not None:
            raise UserError(
                f"spec.data.sources {renamed}: imageKey and captionKey are read by the stage filter: add spec.filter "
                "(with filter: false for a source from which nothing should be dropped)"
            )
        return shards
    return kept_by(read_committed(storage, layout, Stage.FILTER), spec, storage, layout)


def index_folder(spec: Spec, storage: Storage, layout: Layout, shards: Sequence[Shard]) -> str:
    """Where `diht index` or a training puts the index of the shards that the training reads.

    Every process finds it by itself: raw shards count by their versions, kept ones by the digests in the filter's marker.
    """
    kept = dict[str, str]()
    if kind_of_inputs(spec) == "kept" and (committed := find_committed(storage, layout, Stage.FILTER)) is not None:
        kept = {item.path: item.sha256 for item in committed.artefacts}
    return layout.index(sha256_of([[each.name, kept.get(f"kept/{each.name}.tar", each.identity)] for each in shards]))


def other_indexes(storage: Storage, layout: Layout, folder: str) -> list[StoredIndex]:
    """The complete indexes of an output but the one in a folder: they may know some of its shards."""
    folders = [join(layout.indexes, name) for name in storage.folders(layout.indexes)]
    found = (StoredIndex.open(storage, other) for other in folders if other != folder)
    return [index for index in found if index is not None]


def filter_index(spec: Spec, storage: Storage, layout: Layout) -> StoredIndex | None:
    """The index that the filter has made of the shards that the training reads; None if there is none."""
    kind = kind_of_inputs(spec)
    if kind == "own" or spec.filter is None or Stage.FILTER not in layout.folders:
        return None
    return StoredIndex.open(storage, filter_index_folder(spec, layout))


def filter_index_folder(spec: Spec, layout: Layout) -> str:
    """Where the filter's index of what the training reads lies."""
    return layout.filter_index("kept" if kind_of_inputs(spec) == "kept" else "raw")


def kind_of_inputs(spec: Spec) -> Literal["own", "kept", "raw"]:
    """The shards that the training reads: its own, the filter's copies, or raw ones."""
    if spec.train is not None and spec.train.shards:
        return "own"
    return "kept" if spec.filter is not None and spec.filter.output == "Shards" else "raw"


def kept_by(committed: Committed, spec: Spec, storage: Storage, layout: Layout) -> list[Shard]:
    """The shards that the filter with this marker kept, without empty ones.

    Raises:
        UserError: its raw shards are to be read, and the run does not name one of them.
    """
    kept = [item for item in committed.summary["shards"] if item["kept"]]
    if committed.config.get("config", {}).get("output") == "KeepList":
        raw = {shard.name: shard for shard in input_shards(spec, storage)}
        return [_listed(raw.get(item["name"]), item, layout, committed.inputs) for item in kept]
    return [Shard(item["name"], layout.kept(item["name"]), item["source"], samples=item["kept"]) for item in kept]


def _listed(raw: Shard | None, item: Mapping[str, Any], layout: Layout, inputs: Mapping[str, str]) -> Shard:
    """A raw shard with kept pairs, and its keep list."""
    name: str = item["name"]
    if raw is None:
        raise UserError(
            f"the filter kept pairs of the shard {name}, which spec.data.sources no longer match: "
            "give the run document that made it, or run the stage filter again"
        )
    identity = inputs[name].partition(" ")[0]  # the rest says how the filter read it
    return replace(raw, samples=item["kept"], keep_list=layout.keep_list(name), identity=identity)
