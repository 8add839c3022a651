"""Who is at work in stage folders: claims of workers and leases of trainings that are alive.

Whoever works rewrites its claim (`runtime.claims`) or its lease. So one that changes while it is watched belongs to
somebody alive, and one that stands still for long to somebody dead; of an owner of this machine that is known at once. All folders are watched at once. In a complete
folder nobody works: the claim on its end stays there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

from diht_k8s.api.errors import DihtError
from diht_k8s.api.layout import LEASE, MARKER, join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.claims import STALE_SECONDS
from diht_k8s.runtime.owner import is_dead
from diht_k8s.runtime.signals import StopFlag

LOOK_SECONDS: Final = 2.0
Watch = Callable[[Storage, Iterable[str], StopFlag], dict[str, str]]
"""`living`, or what takes its place."""


def living(
    storage: Storage,
    folders: Iterable[str],
    stop: StopFlag,
    *,
    is_dead: Callable[[str], bool] = is_dead,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, str]:
    """The stage folders in which somebody works. Returns at once where nobody holds anything, else within two minutes.

    Args:
        storage: where the folders are.
        folders: of stages.
        stop: checked between two looks.
        is_dead: whether an owner is known to have ended, so that nobody need watch what it holds.
        clock: seconds, monotonic.
        sleep: waits for seconds.

    Returns:
        Folder -> the claim or lease that lives in it.

    Raises:
        StopRequested: a signal.
    """
    found = {folder: held_in(storage, folder) for folder in folders}
    waiting = {folder: held for folder, held in found.items() if not _all_dead(held, is_dead)}
    alive: dict[str, str] = {}
    if waiting:
        _tell(waiting)
    until = clock() + STALE_SECONDS
    while waiting and clock() < until:
        stop.raise_if_requested("nothing has been changed")
        sleep(LOOK_SECONDS)
        for folder, before in list(waiting.items()):
            now = held_in(storage, folder)
            if now != before:
                alive[folder] = next(uri for uri in {**before, **now} if before.get(uri) != now.get(uri))
            if now != before or _all_dead(before, is_dead):
                del waiting[folder]
    return alive


def held_in(storage: Storage, folder: str) -> dict[str, bytes]:
    """The claims that somebody holds in a stage's folder, and the lease: URI -> content."""
    if storage.exists(join(folder, MARKER)):
        return {}
    places = [join(folder, "claims", name) for name in storage.names(join(folder, "claims"))]
    found = {uri: content for uri in [*places, join(folder, LEASE)] if (content := _read(storage, uri)) is not None}
    return {uri: content for uri, content in found.items() if _is_held(uri, content)}


def _read(storage: Storage, uri: str) -> bytes | None:
    """The content of a file that may go at any moment."""
    try:
        return storage.read_bytes(uri)
    except DihtError:
        if storage.exists(uri):
            raise
        return None


def _is_held(uri: str, content: bytes) -> bool:
    """Whether somebody holds it; a claim may be released, and workers keep their times beside the claims."""
    document = _document(content)
    return document is None or uri.endswith(f"/{LEASE}") or document.get("worker") is not None


def _document(content: bytes) -> dict[str, object] | None:
    """The fields of a claim; None for one that is damaged, of which nothing is known."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _all_dead(held: dict[str, bytes], is_dead: Callable[[str], bool]) -> bool:
    owners = [(_document(content) or {}).get("owner") for content in held.values()]
    return all(isinstance(owner, str) and is_dead(owner) for owner in owners)


def _tell(waiting: dict[str, dict[str, bytes]]) -> None:
    first = next(iter(next(iter(waiting.values()))))
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    print(
        f"diht: {next(iter(waiting))}{more} may be in use ({first}): watching for up to {STALE_SECONDS:.0f} s whether "
        "somebody works there",
        file=sys.stderr,
        flush=True,
    )
