"""The lease of a training: of several runs that want the same one, one gang computes it.

Node 0 asks for `lease.json` in the training's folder before ranks start, and rewrites it while they run. A lease that
changes while it is watched belongs to a living gang: this one ends as `ComputedElsewhere`, and its GPUs serve others.
One that stands still, or whose owner is known to be dead, is taken over. The lease saves GPUs and protects nothing:
that is what the fence does, which orders attempts whatever the leases say (`checkpoint.fencing`).
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

from diht_k8s.api.errors import ComputedElsewhere, DihtError, StopRequested
from diht_k8s.api.layout import LEASE, join
from diht_k8s.api.pods import RUN_UID
from diht_k8s.api.run import Stage
from diht_k8s.runtime.claims import BEAT_SECONDS, STALE_SECONDS
from diht_k8s.runtime.owner import is_dead
from diht_k8s.runtime.shared_work import beating
from diht_k8s.runtime.stage import Context

LOOK_SECONDS: Final = 2.0
"""Between two looks at a lease that may be alive."""


@contextlib.contextmanager
def held_lease(context: Context, sleep: Callable[[float], object] = time.sleep) -> Iterator[None]:
    """Hold the lease of a training.

    Raises:
        ComputedElsewhere: another run's gang works on it, has just completed it, or has taken it over meanwhile.
    """
    lease = _Lease(context)
    lease.take(sleep)
    if lease.is_committed():  # while this one watched
        lease.release()
        raise ComputedElsewhere("another run has completed this training meanwhile: start again to take its result")
    try:
        with beating(lease.keep):
            yield
    except BaseException as error:
        fenced = isinstance(error, StopRequested) and not context.stop.requested
        holder = lease.foreign() if fenced else None
        lease.release()
        if holder is None:
            raise
        raise _elsewhere(holder) from error
    # At a good end the lease stays: until the marker is written, nobody shall find the training free.


def wait_until_free(context: Context, sleep: Callable[[float], object] = time.sleep) -> None:
    """Wait while another run's gang works on a training, until it is committed or may be taken.

    Raises:
        StopRequested: a signal.
    """
    lease = _Lease(context)
    while not lease.is_committed() and lease.holder_lives(sleep) is not None:
        context.stop.raise_if_requested()
        sleep(BEAT_SECONDS)


class _Lease:
    """One gang's view of a lease."""

    def __init__(self, context: Context) -> None:
        self._context, self._storage = context, context.storage
        self._uri = join(context.layout.stage(Stage.TRAIN), LEASE)
        self._holder = uuid.uuid4().hex
        """of this start: the owner's starts before it may still run."""
        self._beats = 0

    def take(self, sleep: Callable[[float], object]) -> None:
        """Take the lease, from nobody or from a dead gang.

        Raises:
            ComputedElsewhere: its owner lives.
        """
        if self._storage.create(self._uri, self._content()):
            return
        if (holder := self.holder_lives(sleep)) is not None:
            raise _elsewhere(holder)
        self._storage.write_bytes(self._uri, self._content())

    def holder_lives(self, sleep: Callable[[float], object]) -> dict[str, Any] | None:
        """The lease, if another owner's gang is alive; None if it is free, this owner's or dead. Watches it for that."""
        first, waited = self._read(), 0.0
        while (found := self.foreign()) is not None:
            if found != first:
                return found
            if is_dead(str(found.get("owner"))) or waited >= STALE_SECONDS or self.is_committed():
                return None
            self._context.stop.raise_if_requested()
            sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
        return None

    def is_committed(self) -> bool:
        """Whether the training is complete."""
        return self._storage.exists(self._context.layout.committed(Stage.TRAIN))

    def foreign(self) -> dict[str, Any] | None:
        """The lease, if it is another owner's."""
        found = self._read()
        return None if found is None or found.get("owner") == self._context.owner.id else found

    def keep(self) -> None:
        """Show that this gang is alive, unless another one has taken over."""
        if self._is_mine():
            self._storage.write_bytes(self._uri, self._content())

    def release(self) -> None:
        """Leave the training to whoever comes next."""
        with contextlib.suppress(DihtError):  # it stands still from now on, which says the same
            if self._is_mine():
                self._storage.remove(self._uri)

    def _is_mine(self) -> bool:
        found = self._read()
        return found is not None and found.get("holder") == self._holder

    def _content(self) -> bytes:
        self._beats += 1
        beat = f"{time.time():.3f} {self._beats}"
        return json.dumps({"owner": self._context.owner.id, "holder": self._holder, "beat": beat}).encode()

    def _read(self) -> dict[str, Any] | None:
        """The lease; None if there is none, and {} if it is damaged."""
        try:
            found = json.loads(self._storage.read_bytes(self._uri))
        except ValueError:
            return {}
        except DihtError:
            if self._storage.exists(self._uri):
                raise
            return None
        return found if isinstance(found, dict) else {}


def _elsewhere(lease: dict[str, Any]) -> ComputedElsewhere:
    """Tells the UID of the holder. Its name is nobody's business who shares the bucket; the operator knows those of a namespace."""
    owner = str(lease.get("owner"))
    holder = f"run {owner}" if RUN_UID.fullmatch(owner) else "another run"
    return ComputedElsewhere(f"this training is computed by {holder}: start again to take its result")
