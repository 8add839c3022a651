"""Who refers to which stage folder of an output: runs by their pointers and documents, folders by what they read.

A folder that is reached from no run is of use to nobody here. Runs of other outputs are not seen.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from diht_k8s.api.base import in_object_store, texts_in
from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import ABOUT_FEATURES, DIGITS, Layout, join, refuse_old_layout
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.commit import Started, find_started
from diht_k8s.runtime.run_folder import layout_of

RUNS: Final = "runs"
FEATURES: Final = "features"


@dataclass(frozen=True)
class StoredStage:
    """A folder `STAGE/DIGEST` of an output."""

    place: str
    """relative to the output."""
    stage: Stage
    state: Literal["complete", "begun", "foreign"]
    """foreign: without our `STARTED.json`, so not ours."""
    reads: frozenset[str]
    """places of the stage folders that it reads."""
    stored_features: bool = False
    """whether it is a training on stored features. Which set it reads is known when its tower is."""


@dataclass(frozen=True)
class StoredRun:
    """A folder `runs/NAME/DIGEST` of an output."""

    place: str
    """relative to the output."""
    refers: frozenset[str]
    """places of the stage folders that its pointers and its document name."""


def stage_folders(storage: Storage, output: str) -> Iterator[StoredStage]:
    """The folders of all stages.

    Raises:
        UserError: the output has an old layout.
    """
    refuse_old_layout(output, storage.names)
    for stage in Stage:
        for name in storage.folders(join(output, stage.value)):
            place = f"{stage.value}/{name}"
            layout = Layout(output).with_folder(stage, join(output, place))
            if (started := _started(storage, layout, stage, name)) is None:
                yield StoredStage(place, stage, "foreign", frozenset())
                continue
            state = "complete" if storage.exists(layout.committed(stage)) else "begun"
            features = stage is Stage.TRAIN and started.config.get("config", {}).get("features") == "Stored"
            yield StoredStage(place, stage, state, places_named(storage, output, started.reads), features)


def feature_sets(storage: Storage, output: str) -> Iterator[str]:
    """The places of the stored image features that trainings of ours made."""
    layout = Layout(output)
    for name in storage.folders(layout.feature_sets):
        if _digest_of_features(storage, layout.feature_set(name)) == name:
            yield f"{FEATURES}/{name}"


def _digest_of_features(storage: Storage, folder: str) -> str | None:
    """The name that a folder of features should have by what it says of itself; None where it says nothing."""
    about = join(folder, ABOUT_FEATURES)
    try:
        return str(json.loads(storage.read_bytes(about))["config_sha256"])[:DIGITS] if storage.exists(about) else None
    except (ValueError, TypeError, KeyError):
        return None


def _started(storage: Storage, layout: Layout, stage: Stage, name: str) -> Started | None:
    """How a folder began; None where it is not ours: a copy under another name is a person's."""
    try:
        started = find_started(storage, layout, stage)
    except DataError:
        return None
    return started if started is not None and sha256_of(started.config)[:DIGITS] == name else None


def run_folders(storage: Storage, output: str) -> Iterator[StoredRun]:
    """The folders of all runs.

    Raises:
        DataError: a pointer is damaged.
    """
    for name in storage.folders(join(output, RUNS)):
        for digest in storage.folders(join(output, RUNS, name)):
            place = join(RUNS, name, digest)
            layout, document = layout_of(storage, output, join(output, place)), join(output, place, "run.json")
            begun = storage.exists(document)
            if begun or layout.folders:
                named = places_named(storage, output, _document(storage, document)) if begun else frozenset[str]()
                yield StoredRun(place, named | {layout.relative(stage) for stage in layout.folders})


def _document(storage: Storage, uri: str) -> Any:
    try:
        return json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise DataError(f"{uri} is damaged: what the run refers to is not known: fix this file or remove it") from error


def places_named(storage: Storage, output: str, document: Any) -> frozenset[str]:
    """The places of stage folders that the texts of a JSON document name, relative to the output or anyhow."""
    start = f"{storage.location(output)}/"
    found = set[str]()
    for text in texts_in(document, keys=False):
        if "/" not in text or "\0" in text:  # no place
            continue
        for place in map(storage.location, _spellings(output, text)):
            stage, _, rest = place.removeprefix(start).partition("/")
            if place.startswith(start) and rest and stage in list(Stage):
                found.add(f"{stage}/{rest.partition('/')[0]}")
    return frozenset(found)


def _spellings(output: str, text: str) -> list[str]:
    """What a text may mean as a place; nothing for a URI that no storage reads."""
    scheme, separator, _ = text.partition("://")
    if separator:
        return [text] if scheme == "file" or in_object_store(text) else []
    return [join(output, text), text]


def reached(roots: Iterable[str], reads: Mapping[str, Collection[str]]) -> set[str]:
    """The places that are reached from some by what each reads, themselves included."""
    found, new = set[str](), set(roots)
    while new:
        found |= new
        new = {place for reader in new for place in reads.get(reader, ())} - found
    return found
