"""The markers of a stage: `STARTED.json` comes before all else, `COMMITTED.json` last, and counts agree in between.

`STARTED.json` says what decides the content of the folder, which may be incomplete; `COMMITTED.json` that the output is
complete, and for which configuration. Before a stage commits, what came out is what went in: an equation compares
counts that were taken in different places (a Parquet footer, the headers of a tar, a listing, the counters of a loop).
Counts of one place would agree by construction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import Artefact, Committed
from diht_k8s.api.run import Stage
from diht_k8s.data import markers
from diht_k8s.data.markers import Started, read_marker
from diht_k8s.data.shards.storage import Storage


def read_committed(storage: Storage, layout: Layout, stage: Stage) -> Committed:
    """The marker of a stage that must have run.

    Raises:
        UserError: the stage has not been committed.
        DataError: the marker is damaged.
    """
    found = find_committed(storage, layout, stage)
    if found is None:
        raise UserError(f"{layout.stage(stage)} is not complete: run the stage {stage} first")
    return found


def find_committed(storage: Storage, layout: Layout, stage: Stage) -> Committed | None:
    """The marker of a stage; None where it has not begun or has not ended.

    Raises:
        DataError: the marker is damaged.
    """
    if stage not in layout.folders:
        return None
    return read_marker(storage, layout.committed(stage), Committed, _again(stage))


def _again(stage: Stage) -> str:
    return f"run the stage {stage} again"


def artefact(storage: Storage, layout: Layout, stage: Stage, path: str) -> Artefact:
    """Size and digest of a file that the stage wrote (path relative to its folder)."""
    digest, size = hashlib.sha256(), 0
    with storage.open(join(layout.stage(stage), path)) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return Artefact(path=path, size=size, sha256=digest.hexdigest())


def commit(
    storage: Storage,
    layout: Layout,
    stage: Stage,
    config: dict[str, Any],
    artefacts: Sequence[Artefact],
    summary: dict[str, Any],
    before: Committed | None = None,
) -> Committed:
    """Write the marker: from now on the output is complete. Whoever comes second takes the first one's.

    Args:
        storage: where the folder is.
        layout: with the stage's folder.
        stage: that is complete.
        config: what `config_sha256` covers.
        artefacts: what belongs to the output.
        summary: for people and later stages.
        before: the marker before a takedown; None for the first one.
    """
    output_sha256 = sha256_of([[item.path, item.size, item.sha256] for item in artefacts])
    committed = Committed(
        schema_version=SCHEMA_VERSION,
        stage=stage,
        config_sha256=sha256_of(config),
        config=config,
        inputs=config["inputs"],
        artefacts=list(artefacts),
        output_sha256=output_sha256,
        identity=output_sha256 if before is None else before.identity,
        revision=0 if before is None else before.revision + 1,
        summary=summary,
    )
    content = json.dumps(committed.model_dump(mode="json"), indent=1, ensure_ascii=False).encode()
    if storage.create(layout.committed(stage), content):
        return committed
    return read_committed(storage, layout, stage)


def find_started(storage: Storage, layout: Layout, stage: Stage) -> Started | None:
    """How the stage began in its folder; None if it has not.

    Raises:
        DataError: the file is damaged.
    """
    return markers.find_started(storage, layout.stage(stage), _again(stage)) if stage in layout.folders else None


def start(
    storage: Storage, layout: Layout, stage: Stage, config: Mapping[str, Any], reads: Mapping[str, str]
) -> Started:
    """Begin a folder, or find how it began.

    Raises:
        DataError: it belongs to another configuration whose digest begins alike.
    """
    return markers.start(storage, layout.stage(stage), config, reads, _again(stage))


class Count(NamedTuple):
    """One side of an equation."""

    number: int
    of: str
    """what was counted, and where."""


def require_equal(where: str, remedy: str, first: Count, *others: Count) -> None:
    """Refuse counts that differ.

    Args:
        where: the file, shard or stage that they belong to.
        remedy: what to do if they differ.
        first: what the others are compared with.
        others: from other places.

    Raises:
        DataError: names the first two counts that differ, with both numbers.
    """
    for other in others:
        if other.number != first.number:
            raise DataError(f"{where}: {first.number} {first.of}, but {other.number} {other.of}: {remedy}")
