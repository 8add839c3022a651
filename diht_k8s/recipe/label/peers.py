"""Workers of one stage that wait for each other learn soon when one of them is gone, and why.

Each worker keeps a small file beside the stage's output: a counter that grows while it lives, and how it ended. Who waits looks at the files of
those whom it waits for: one that ended badly is named with its own message and exit code, one whose counter stands still is taken for
killed. Only workers of one program need this; on a cluster each step is a job of its own, and nobody waits.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Final

from diht_k8s.api.errors import BY_EXIT_CODE, DihtError, ExitCode, RetryableError, UserError
from diht_k8s.api.layout import join
from diht_k8s.recipe.shards.storage import Storage

BEAT_SECONDS: Final = 15.0
SILENT_SECONDS: Final = 120.0
"""A worker that has not moved its counter for so long was killed or has lost the storage."""
ABSENT_SECONDS: Final = 600.0
"""A worker that has not shown up for so long is not coming: pods may wait for a node, but not for ever."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beat:
    """What a worker says of itself."""

    process: str
    """different for each start."""
    number: int = 0
    exit_code: int | None = None
    """None while it runs."""
    message: str = ""


def beat_uri(folder: str, worker: int) -> str:
    """Where worker's file lies below the stage's folder."""
    return join(folder, "workers", f"worker-{worker:05}.json")


@contextmanager
def heartbeat(storage: Storage, folder: str, worker: int, *, every_s: float = BEAT_SECONDS) -> Iterator[None]:
    """Show that this worker lives while the block runs; the file goes when it ends well, and says why when it does not.

    Args:
        storage: where the file is written.
        folder: the stage's folder.
        worker: index of this worker.
        every_s: seconds between two signs of life.
    """
    uri, beat, ended = beat_uri(folder, worker), Beat(uuid.uuid4().hex), threading.Event()

    def go_on() -> None:
        number = beat.number
        while not ended.wait(every_s):
            number += 1
            try:
                _write(storage, uri, replace(beat, number=number))
            except DihtError as error:  # the work itself meets the same storage and says so
                logger.warning("no sign of life written: %s", error)

    _write(storage, uri, beat)
    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        ended.set()
        thread.join()
        code = error.exit_code if isinstance(error, DihtError) else ExitCode.UNEXPECTED
        _write(storage, uri, replace(beat, exit_code=int(code), message=str(error) or type(error).__name__))
        raise
    ended.set()
    thread.join()
    storage.remove(uri)


def _write(storage: Storage, uri: str, beat: Beat) -> None:
    storage.write_bytes(uri, json.dumps(asdict(beat)).encode())


class Peers:
    """Looks after the workers that this one waits for."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = BEAT_SECONDS,
    ) -> None:
        """Begin to look; what lies there from an earlier start counts only when it stays.

        Args:
            storage: where the files are.
            folder: the stage's folder.
            clock: seconds, monotonic.
            every_s: seconds between two looks, at least.
        """
        self._storage, self._folder, self._clock, self._every_s = storage, folder, clock, every_s
        self._seen: dict[int, tuple[Beat | None, float, bool]] = {}
        self._looked_at = float("-inf")

    def check(self, workers: Iterable[int]) -> None:
        """Look at some workers' files.

        Raises:
            DihtError: one of them ended badly, with its exit code; RetryableError where it is silent or absent.
        """
        now = self._clock()
        if now - self._looked_at < self._every_s:
            return
        self._looked_at = now
        for worker in workers:
            self._check(worker, now)

    def _check(self, worker: int, now: float) -> None:
        found = self._read(worker)
        before, since, fresh = self._seen.get(worker, (None, now, False))
        if worker not in self._seen or found != before:
            since, fresh = now, worker in self._seen
            self._seen[worker] = (found, since, fresh)
        if found is not None and found.exit_code is not None and (fresh or now - since > SILENT_SECONDS):
            kind = BY_EXIT_CODE.get(found.exit_code, RetryableError)
            raise kind(f"worker {worker} failed: {found.message}")
        silent = now - since
        if found is None and silent > ABSENT_SECONDS:
            raise RetryableError(f"worker {worker} has not shown up for {silent:.0f} s: start all workers again")
        if found is not None and found.exit_code is None and silent > SILENT_SECONDS:
            raise RetryableError(
                f"worker {worker} has given no sign of life for {silent:.0f} s: it was killed or lost the storage; "
                "see its log, start all workers again"
            )

    def _read(self, worker: int) -> Beat | None:
        uri = beat_uri(self._folder, worker)
        if not self._storage.exists(uri):
            return None
        try:
            return Beat(**json.loads(self._storage.read_bytes(uri)))
        except UserError:  # it ended well between the two looks
            return None
