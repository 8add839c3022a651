"""Wall time of a stage over all its programs: the steps before the last one, and starts that ended early.

One process notes its time beside the claims where it leaves the stage incomplete; whoever commits the stage adds its own.
A program that is killed notes nothing.
"""

from __future__ import annotations

import json
from typing import Final

from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage

PREFIX: Final = "time of program "


def note_time(storage: Storage, layout: Layout, stage: Stage, step: str, seconds: float, processes: int) -> None:
    """Add to the time of a step (or of the whole stage, without a name) that is not the commit's.

    Args:
        storage: where the stage's folder lies.
        layout: with this folder.
        stage: the stage.
        step: the program's part of it.
        seconds: wall time of the program.
        processes: number of processes that took so long.
    """
    uri = join(layout.stage(stage), "claims", f"{PREFIX}{step or stage.value}.json")
    before, held = _read(storage, uri)
    found = {"seconds": round(before + seconds, 1), "process_seconds": round(held + seconds * processes, 1)}
    storage.write_bytes(uri, json.dumps(found).encode())


def noted_time(storage: Storage, layout: Layout, stage: Stage) -> tuple[float, float]:
    """Seconds of wall time and of processes that the stage's programs noted."""
    folder = join(layout.stage(stage), "claims")
    found = [_read(storage, join(folder, name)) for name in storage.names(folder) if name.startswith(PREFIX)]
    return sum(wall for wall, _ in found), sum(held for _, held in found)


def _read(storage: Storage, uri: str) -> tuple[float, float]:
    try:
        found = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else {}
        return float(found.get("seconds", 0)), float(found.get("process_seconds", 0))
    except (AttributeError, TypeError, ValueError):
        return 0.0, 0.0
