"""What a stage reads: the run's input or what the filter kept, refused within its own output, and named in its digest.

The digest of a stage names the stages before it by their first output, and by the takedowns since. Labels follow their
pairs through a takedown, row by row, so they keep their folder. A model cannot forget a pair and a page shows it, so
training and evaluation count the takedowns that touched what they read: they find another folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from diht_k8s.api.braces import expanded
from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import differences, sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import Committed
from diht_k8s.api.run import DihtRun, Spec, Stage, literal_part, own_input_message, source_patterns
from diht_k8s.data.shards.shard_index import StoredIndex
from diht_k8s.data.shards.sources import Shard, input_shards
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import find_committed, read_committed


def kept_shards(spec: Spec, storage: Storage, layout: Layout) -> list[Shard]:
    """The input of training and labelling: what the filter kept, without empty shards, or the raw input without a
    filter.

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

    Every process finds it by itself: raw shards count by their versions, kept ones by the digests in the filter's
    marker.
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


def check_own_inputs(run: DihtRun, storage: Storage) -> None:
    """Check a run before it writes anything.

    Raises:
        UserError: says which source lies in which folder.
    """
    folders = [storage.location(join(run.spec.data.output, name)) for name in Stage]
    for field, pattern in source_patterns(run.spec):
        for uri in dict.fromkeys(place for item in expanded(pattern) for place in _places(storage, item, folders)):
            for name, folder in zip(Stage, folders, strict=True):
                if _inside(uri, folder):
                    raise UserError(own_input_message(field, pattern, join(run.spec.data.output, name)))


def _places(storage: Storage, pattern: str, folders: Sequence[str]) -> list[str]:
    """Where the matches of a pattern lie; they are listed only if some could lie in one of the folders."""
    start = literal_part(pattern)
    place = storage.location(start or ".")
    if start != pattern and not any(_inside(place, folder) for folder in folders):
        if not any(_inside(folder, place) for folder in folders):
            return [place]
        return [storage.location(uri) for uri in storage.matches(pattern)]
    return [place]


def _inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip("/") + "/")


TAKEN_DOWN: Final = "taken down"
"""Among a stage's inputs: how many pairs, and a digest of what is left."""
SHOWN: Final = 6
"""Differences that a person is shown."""


def pairs_before(filtered: Committed) -> dict[str, str]:
    """The filter among the inputs of a stage that reads the pairs it kept."""
    left = [[item.path, item.sha256] for item in filtered.artefacts if item.path.startswith("kept/")]
    return _named(filtered, filtered.summary.get("purged", 0), sha256_of(left))


def output_before(filtered: Committed) -> dict[str, str]:
    """The filter among the inputs of a stage that also shows what the filter dropped."""
    pairs = filtered.summary.get("purged", 0) + filtered.summary.get("forgotten", 0)
    return _named(filtered, pairs, filtered.output_sha256)


def _named(filtered: Committed, pairs: int, left: str) -> dict[str, str]:
    taken_down = {TAKEN_DOWN: f"{pairs} pairs, leaving {left}"} if pairs else {}
    return {Stage.FILTER.value: filtered.identity, **taken_down}


def why_new(before: Mapping[str, Any], config: Mapping[str, Any], *, complete: bool = True) -> str:
    """Why a stage does not find the folder of a configuration from before, for a person: `new because ...`; or nothing.

    Args:
        before: what the `config_sha256` of that folder covers.
        config: what that of the stage's new folder covers.
        complete: whether the stage had ended there.
    """
    stage, taken_down = config["stage"], _taken_down(before) < _taken_down(config)
    if taken_down and before["inputs"].get("filter") == config["inputs"].get("filter"):
        pairs = _taken_down(config) - _taken_down(before)
        before, config = _without_takedowns(before), _without_takedowns(config)
        why = [f"a takedown removed {pairs} {'pair' if pairs == 1 else 'pairs'} of its input"]
    else:
        why = []
    lines = [line.replace("config.", f"{stage}.", 1) for line in differences(before, config)]
    new = "new" if complete or not why else "begins again"
    return f"{new} because {listed([*why, *lines])}" if why or lines else ""


def listed(lines: Sequence[str]) -> str:
    """Some of the differences, on one line."""
    more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(line.replace(": ", " ", 1) for line in lines[:SHOWN]) + more


def _taken_down(config: Mapping[str, Any]) -> int:
    return int(str(config["inputs"].get(TAKEN_DOWN, "0")).partition(" ")[0])


def _without_takedowns(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "inputs": {name: value for name, value in config["inputs"].items() if name != TAKEN_DOWN}}
