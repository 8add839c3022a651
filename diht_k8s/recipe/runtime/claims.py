"""Which worker processes which shard: small files in the stage's folder replace a coordinator.

A worker creates a claim (a conditional PUT on S3, a link on disk) and rewrites it while it works on the shard. A claim
that does not change while another worker watches it belongs to a dead worker and may be taken over; so may a claim left
by an earlier start of this worker, and a claim of another configuration. Each watcher uses its own clock, so clocks
need not agree.

Claims avoid duplicate work and protect nothing: two workers on one shard (a slow one and its successor) write the same
bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Final

from diht_k8s.api.errors import UserError
from diht_k8s.api.layout import join
from diht_k8s.recipe.shards.storage import Storage

BEAT_SECONDS: Final = 20.0
STALE_SECONDS: Final = 120.0
"""Longer than loading the models, filtering a batch or storing a kept shard; a slower live owner only gets help."""


class Claims:
    """One worker's view of the claims of a stage."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        *,
        worker: int,
        workers: int,
        config_sha256: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is claimed yet.

        Args:
            storage: where the claims lie.
            folder: the stage's folder.
            worker: index of this worker.
            workers: number of workers; one alone claims nothing.
            config_sha256: claims made under another configuration do not count.
            clock: seconds, monotonic.
        """
        self._storage, self._folder, self._clock = storage, join(folder, "claims"), clock
        self._owner = {"worker": worker, "config_sha256": config_sha256}
        self._alone = workers == 1
        self._beats = 0
        self._seen: dict[str, tuple[bytes, float]] = {}
        """claims of others: content, and since when it has not changed."""
        self._held: tuple[str, float] | None = None
        """name of the claim that this worker holds, and when it was written."""

    def uris(self, names: Sequence[str]) -> list[str]:
        """Where the claims of these names lie; a worker alone writes none."""
        return [] if self._alone else [self._uri(name) for name in names]

    def take(self, name: str) -> bool:
        """Claim something; False if another worker seems to work on it."""
        if self._alone:
            return True
        if not self._storage.create(self._uri(name), self._content()):
            found = self._read(name)
            if found is None or not self._is_free(name, found):
                return False
            self._storage.write_bytes(self._uri(name), self._content())
        self._held = name, self._clock()
        return True

    def keep(self) -> None:
        """Show that the owner of the held claim is alive; call it often."""
        if self._held is not None and self._clock() - self._held[1] >= BEAT_SECONDS:
            name = self._held[0]
            self._storage.write_bytes(self._uri(name), self._content())
            self._held = name, self._clock()

    def give_up(self, name: str) -> None:
        """Release a claim on work that this worker will not finish."""
        self._held = None
        if not self._alone:
            self._storage.remove(self._uri(name))

    def clear(self, name: str) -> None:
        """Remove all claims except one."""
        if not self._alone:
            self._storage.remove(self._folder)
            self._storage.write_bytes(self._uri(name), self._content())

    def _is_free(self, name: str, content: bytes) -> bool:
        owner = json.loads(content)
        if {key: owner.get(key) for key in self._owner} == self._owner:
            return True  # this worker's, before it was started again
        if owner.get("config_sha256") != self._owner["config_sha256"]:
            return True
        now = self._clock()
        before, since = self._seen.get(name, (b"", now))
        if content != before:
            self._seen[name] = content, now
            return False
        return now - since >= STALE_SECONDS

    def _content(self) -> bytes:
        """Different at each beat and each start."""
        self._beats += 1
        return json.dumps({**self._owner, "beat": f"{time.time():.3f} {self._beats}"}).encode()

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
