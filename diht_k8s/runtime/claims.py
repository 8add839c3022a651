"""Claims of workers on shards: small files in the stage's folder replace a coordinator.

A worker creates a claim (a conditional PUT on S3, a link on disk) and rewrites it while it works on the shard. Runs that
share a folder so share its work. A claim that does not change while another worker watches it belongs to a dead worker
and may be taken over; so may one of an owner known to be dead, and one left by an earlier start of this worker. Each
watcher uses its own clock, so clocks need not agree.

Claims avoid duplicate work and protect nothing: two workers on one shard (a slow one and its successor) write the same
bytes.

A claim also counts the workers that died while they held it: a shard that kills its worker (memory, a crash in a
decoder) would kill one after another. Whoever ended together with its whole run was not killed by the shard.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from diht_k8s.api.errors import DataError, UserError
from diht_k8s.api.layout import join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.runtime.owner import Owner, is_dead

BEAT_SECONDS: Final = 20.0
STALE_SECONDS: Final = 120.0
"""Longer than loading the models, filtering a batch or storing a kept shard; a slower live owner only gets help."""
MAX_DEATHS: Final = 3
"""Workers that may die on one shard (our choice); then the stage ends."""
FINAL_STALE_SECONDS: Final = 600.0
"""So long must the claim of the last of them stand still, unless it was this worker's own: it may only be slow."""


class Claims:
    """One worker's view of the claims of a stage."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        owner: Owner,
        worker: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is claimed yet.

        Args:
            storage: where the claims lie.
            folder: the stage's folder.
            owner: whose worker this is.
            worker: its index.
            clock: seconds, monotonic.
        """
        self._storage, self._folder, self._clock = storage, join(folder, "claims"), clock
        self._owner = {"owner": owner.id, "worker": worker}
        self._beats = 0
        self._seen: dict[str, tuple[bytes, float]] = {}
        """claims of others: content, and since when it has not changed."""
        self._held: tuple[str, float, int] | None = None
        """name of the claim that this worker holds, when it was written, and how many workers died on it before."""
        self._at = ""
        """the shard that the owner works on, of a claim on several."""
        self.took_over = False
        """whether the claim that was taken last had another owner before."""

    def take(self, name: str, *, counts_deaths: bool = True, shown: str = "") -> bool:
        """Claim something; False if another worker seems to work on it.

        Args:
            name: of the claim.
            counts_deaths: whether it is a shard, on which at most MAX_DEATHS workers may die.
            shown: what the error calls it; empty takes the name.

        Raises:
            DataError: MAX_DEATHS workers died on it; the next start of the stage counts from zero.
        """
        self.took_over = False
        deaths, self._at = 0, ""
        if not self._storage.create(self._uri(name), self._content(0)):
            found = self._read(name)
            if found is None:
                return False
            owner = json.loads(found)
            deaths, self._at = (self._deaths(owner), str(owner.get("at", ""))) if counts_deaths else (0, "")
            if not self._is_free(name, found, owner, FINAL_STALE_SECONDS if deaths >= MAX_DEATHS else STALE_SECONDS):
                return False
            if deaths >= MAX_DEATHS:
                self._storage.remove(self._uri(name))
                raise DataError(
                    f"{self._at or shown or name}: {deaths} workers died on this shard (killed for memory, or by a crash): leave it out of "
                    "the shards or fetch it again; for more memory set pods.resources"
                )
            self._storage.write_bytes(self._uri(name), self._content(deaths))
            self.took_over = True
        self._held = name, self._clock(), deaths
        return True

    def work_on(self, shard: str) -> None:
        """Note which shard of a claim on several comes next: deaths on one before it say nothing about this one."""
        if self._held is None:
            return
        name, _, deaths = self._held
        progressed, self._at = self._at not in ("", shard), shard
        if deaths:  # somebody died on this claim: the next one shall know where, without waiting for a beat
            deaths = 0 if progressed else deaths
            self._storage.write_bytes(self._uri(name), self._content(deaths))
            self._held = name, self._clock(), deaths

    def keep(self) -> None:
        """Show that the owner of the held claim is alive; call it often."""
        if self._held is not None and self._clock() - self._held[1] >= BEAT_SECONDS:
            name, _, deaths = self._held
            self._storage.write_bytes(self._uri(name), self._content(deaths))
            self._held = name, self._clock(), deaths

    def give_up(self, name: str) -> None:
        """Release a claim on work that this worker will not finish; who died on it before is not forgotten."""
        deaths = self._held[2] if self._held is not None and self._held[0] == name else 0
        self._held = None
        if deaths or self._at:  # or shards of it may be done, which the next owner looks for
            released = {**self._owner, "worker": None, "deaths": deaths}
            self._storage.write_bytes(self._uri(name), json.dumps(released).encode())
        else:
            self._storage.remove(self._uri(name))

    def clear(self, name: str) -> None:
        """Remove all claims except one, and the times of the workers (`runtime.shard_progress`)."""
        self._storage.remove_named(self._folder, "*.json")
        self._storage.write_bytes(self._uri(name), self._content(0))

    def _deaths(self, owner: dict[str, Any]) -> int:
        """How many workers have died on a claim if its owner is dead."""
        died = owner.get("worker") is not None and not is_dead(str(owner.get("owner")))
        return int(owner.get("deaths", 0)) + died

    def _is_free(self, name: str, content: bytes, owner: dict[str, Any], stale_seconds: float) -> bool:
        if owner.get("worker") is None or is_dead(str(owner.get("owner"))):
            return True
        if {key: owner.get(key) for key in self._owner} == self._owner:
            return True  # this worker's, before it was started again
        now = self._clock()
        before, since = self._seen.get(name, (b"", now))
        if content != before:
            self._seen[name] = content, now
            return False
        return now - since >= stale_seconds

    def _content(self, deaths: int) -> bytes:
        """Different at each beat and each start."""
        self._beats += 1
        known: dict[str, Any] = {"deaths": deaths} if deaths else {}
        if self._at:
            known["at"] = self._at
        return json.dumps({**self._owner, **known, "beat": f"{time.time():.3f} {self._beats}"}).encode()

    def _read(self, name: str) -> bytes | None:
        """A claim of another worker; None if it has just been removed."""
        uri = self._uri(name)
        try:
            return self._storage.read_bytes(uri)
        except UserError:
            if self._storage.exists(uri):
                raise
            return None

    def _uri(self, name: str) -> str:
        return join(self._folder, f"{name}.json")
