"""The first and the last file of a folder: `STARTED.json` comes before all else, `COMMITTED.json` once it is complete.

`STARTED.json` says what decides the content of the folder, which may be incomplete: of the folder of a stage and of an
import alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from diht_k8s.api.errors import DataError
from diht_k8s.api.hashing import SCHEMA_VERSION, sha256_of
from diht_k8s.api.layout import STARTED, join
from diht_k8s.data.shards.storage import Storage

Marker = TypeVar("Marker", bound=BaseModel)


class Started(BaseModel):
    """How a folder began."""

    model_config = ConfigDict(frozen=True)

    schema_version: int
    config: dict[str, Any]
    """what decides its content."""
    reads: dict[str, str]
    """what it is -> folder that is read, relative to the output where it lies there."""


def read_marker(storage: Storage, uri: str, kind: type[Marker], again: str) -> Marker | None:
    """A marker; None where there is none.

    Args:
        storage: where the folder is.
        uri: of the file.
        kind: what it holds.
        again: what to do after a damaged one is removed.

    Raises:
        DataError: it is damaged.
    """
    if not storage.exists(uri):
        return None
    try:
        return kind.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        raise DataError(f"{uri} is damaged: remove this file and {again}") from error


def find_started(storage: Storage, folder: str, again: str) -> Started | None:
    """How a folder began; None if it has not."""
    return read_marker(storage, join(folder, STARTED), Started, again)


def start(storage: Storage, folder: str, config: Mapping[str, Any], reads: Mapping[str, str], again: str) -> Started:
    """Begin a folder, or find how it began.

    Raises:
        DataError: it belongs to another configuration whose digest begins alike.
    """
    mine = Started(schema_version=SCHEMA_VERSION, config=dict(config), reads=dict(reads))
    created = storage.create(join(folder, STARTED), json.dumps(mine.model_dump(), ensure_ascii=False).encode())
    found = mine if created else find_started(storage, folder, again)
    if found is None or sha256_of(found.config) != sha256_of(mine.config):
        raise DataError(f"{folder} belongs to another configuration: choose another data.output")
    return found
