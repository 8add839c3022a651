"""`STARTED.json`: the configuration under which a stage's folder is being written.

A start under another configuration takes over a folder without output: it creates `STARTED-2.json`, then
`STARTED-3.json` and so on. Each is created only where it is absent, so one of several starters wins; the highest number
counts. Whoever has lost finds out before it writes its next list of objects, and at the latest before it commits.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from diht_k8s.api.documents import canonical_json
from diht_k8s.api.errors import UserError
from diht_k8s.api.hashing import sha256_of
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.recipe.shards.storage import Storage

_NAME: Final = re.compile(r"STARTED(?:-(\d+))?\.json")


@dataclass(frozen=True)
class Started:
    """The newest start of a stage."""

    number: int
    config: Any
    """None if the file is damaged."""

    @property
    def config_sha256(self) -> str:
        """Digest of the configuration."""
        return sha256_of(self.config)


def newest_started(storage: Storage, layout: Layout, stage: Stage) -> Started | None:
    """The configuration that a stage's folder belongs to; None if no start has claimed it."""
    found = [_NAME.fullmatch(name) for name in storage.names(layout.stage(stage))]
    numbers = [int(match[1] or 1) for match in found if match is not None]
    if not numbers:
        return None
    try:
        config = json.loads(storage.read_bytes(layout.started(stage, max(numbers))))
    except ValueError:
        config = None
    return Started(max(numbers), config)


def create_started(storage: Storage, layout: Layout, stage: Stage, number: int, config: dict[str, Any]) -> bool:
    """Claim a folder for a configuration; False if another start has taken the number."""
    return storage.create(layout.started(stage, number), canonical_json(config).encode())


def rewrite_started(storage: Storage, layout: Layout, stage: Stage, config: dict[str, Any]) -> None:
    """Give the folder of a committed stage another configuration (takedowns)."""
    newest = newest_started(storage, layout, stage)
    number = 1 if newest is None else newest.number
    storage.write_bytes(layout.started(stage, number), canonical_json(config).encode())


def require_started(storage: Storage, layout: Layout, stage: Stage, config_sha256: str) -> None:
    """Check that a folder still belongs to a configuration.

    Raises:
        UserError: a start under another configuration has taken it over.
    """
    newest = newest_started(storage, layout, stage)
    if newest is not None and newest.config_sha256 != config_sha256:
        raise UserError(
            f"another configuration has taken over {layout.stage(stage)}, this one stops: "
            "give each run a data.output of its own"
        )
