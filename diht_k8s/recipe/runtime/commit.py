"""Commit markers: `COMMITTED.json` says that a stage's output is complete, and for which configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.hashing import SCHEMA_VERSION, differences, sha256_of
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.reports import Artefact, Committed
from diht_k8s.api.run import Stage
from diht_k8s.recipe.runtime.replacement import described, foreign_files, survey
from diht_k8s.recipe.runtime.started import create_started, newest_started, require_started
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
        raise DataError(f"{uri} is damaged: remove this file and run the stage {stage} again") from error


def begin(
    storage: Storage, layout: Layout, stage: Stage, config: dict[str, Any], later: Sequence[Stage] = ()
) -> Committed | None:
    """Claim the stage's folder for a configuration.

    A folder that another configuration has claimed without writing any output is taken over.

    Args:
        storage: where the folder is.
        layout: of the run.
        stage: to begin.
        config: what `config_sha256` covers.
        later: the run's stages after it, which --replace removes too.

    Returns:
        The marker if the stage is committed under this configuration (nothing to do), else None (run and resume).

    Raises:
        UserError: the folder holds output of another configuration; the message names the fields that differ.
    """
    committed = find_committed(storage, layout, stage)
    if committed is not None:
        if committed.config_sha256 == sha256_of(config):
            return committed
        raise _other_configuration(storage, layout, (stage, *later), committed.config, config)
    started = newest_started(storage, layout, stage)
    while started is None or started.config_sha256 != sha256_of(config):
        if started is not None and survey(storage, layout, stage).results:
            raise _other_configuration(storage, layout, (stage, *later), started.config, config)
        number = 1 if started is None else started.number + 1
        if create_started(storage, layout, stage, number, config):
            if started is not None and survey(storage, layout, stage).results:  # its owner is alive
                storage.remove_files(layout.stage(stage), [layout.started(stage, number).rpartition("/")[2]])
                raise _other_configuration(storage, layout, (stage, *later), started.config, config)
            return None
        started = newest_started(storage, layout, stage)
    return None


def _other_configuration(
    storage: Storage, layout: Layout, stages: Sequence[Stage], before: Any, after: Any
) -> UserError:
    lines = differences(before, after)
    shown = "; ".join(lines[:6]) + (f"; and {len(lines) - 6} more" if len(lines) > 6 else "")
    found = [survey(storage, layout, stage) for stage in stages]
    foreign = foreign_files(layout, found)
    left = f", and leaves {len(foreign)} that this project did not write" if foreign else ""
    return UserError(
        f"{layout.stage(stages[0])} holds output of another configuration ({shown}): "
        "choose another data.output, undo the change, or add --replace to run this stage and the later ones again: "
        f"it removes {described(found)}{left}"
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
    """Write the marker: from now on the output is complete.

    Raises:
        UserError: a start under another configuration has taken the folder over.
    """
    require_started(storage, layout, stage, sha256_of(config))
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
