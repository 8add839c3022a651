"""`STARTED.json`: what decides the content of a stage's folder, written before anything else; the folder may be incomplete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage


class Started(BaseModel):
    """How a stage began."""

    model_config = ConfigDict(frozen=True)

    schema_version: int
    config: dict[str, Any]
    """what `config_sha256` covers."""
    reads: dict[str, str]
    """what it is -> folder that the stage reads, relative to the output where it lies there."""


def find_started(storage: Storage, layout: Layout, stage: Stage) -> Started | None:
    """How the stage began in its folder; None if it has not.

    Raises:
        DataError: the file is damaged.
    """
    if stage not in layout.folders or not storage.exists(uri := layout.started(stage)):
        return None
    try:
        return Started.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        raise DataError(f"{uri} is damaged: remove this file and run the stage {stage} again") from error


def start(
    storage: Storage, layout: Layout, stage: Stage, config: Mapping[str, Any], reads: Mapping[str, str]
) -> Started:
    """Begin a folder, or find how it was begun.

    Raises:
        DataError: it belongs to another configuration whose digest begins alike.
    """
    mine = Started(schema_version=SCHEMA_VERSION, config=dict(config), reads=dict(reads))
    created = storage.create(layout.started(stage), json.dumps(mine.model_dump(), ensure_ascii=False).encode())
    found = mine if created else find_started(storage, layout, stage)
    if found is None or sha256_of(found.config) != sha256_of(mine.config):
        raise DataError(f"{layout.stage(stage)} belongs to another configuration: choose another data.output")
    return found
