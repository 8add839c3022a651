"""Commit markers: `COMMITTED.json` says that a stage's output is complete, and for which configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION, differences, sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import Artefact, Committed
from diht_k8s.api.run import Stage
from diht_k8s.recipe.shards.storage import Storage


def read_committed(storage: Storage, layout: Layout, stage: Stage) -> Committed:
    """The marker of a stage that must have run.

    Raises:
        UserError: the stage has not been committed.
        DataError: the marker is damaged.
    """
    found = find_committed(storage, layout, stage)
    if found is None:
        raise UserError(f"{layout.stage(stage)} is not committed: run the stage {stage} first")
    return found


def find_committed(storage: Storage, layout: Layout, stage: Stage) -> Committed | None:
    """The marker of a stage, or None."""
    uri = layout.committed(stage)
    if not storage.exists(uri):
        return None
    try:
        return Committed.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        raise DataError(f"{uri} is damaged: remove {layout.stage(stage)} and run the stage {stage} again") from error


def begin(storage: Storage, layout: Layout, stage: Stage, config: dict[str, Any]) -> Committed | None:
    """Claim the stage's folder for a configuration.

    Returns:
        The marker if the stage is committed under this configuration (nothing to do), else None (run and resume).

    Raises:
        UserError: the folder holds output of another configuration; the message names the fields that differ.
    """
    committed = find_committed(storage, layout, stage)
    if committed is not None:
        if committed.config_sha256 == sha256_of(config):
            return committed
        raise _other_configuration(layout, stage, committed.config, config)
    if not storage.create(layout.started(stage), canonical_json(config).encode()):
        started = json.loads(storage.read_bytes(layout.started(stage)))
        if sha256_of(started) != sha256_of(config):
            raise _other_configuration(layout, stage, started, config)
    return None


def _other_configuration(layout: Layout, stage: Stage, before: Any, after: Any) -> UserError:
    lines = differences(before, after)
    shown = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")
    return UserError(
        f"{layout.stage(stage)} holds output of another configuration ({shown}): "
        "choose another data.output, undo the change, or add --replace to run this stage and the later ones again"
    )


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
) -> Committed:
    """Write the marker: from now on the output is complete."""
    committed = Committed(
        schema_version=SCHEMA_VERSION,
        stage=stage,
        config_sha256=sha256_of(config),
        config=config,
        inputs=config["inputs"],
        artefacts=list(artefacts),
        output_sha256=sha256_of([[item.path, item.size, item.sha256] for item in artefacts]),
        summary=summary,
    )
    storage.write_bytes(
        layout.committed(stage), json.dumps(committed.model_dump(mode="json"), indent=1, ensure_ascii=False).encode()
    )
    return committed
