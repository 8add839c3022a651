"""The lease of a training: of several runs that want the same one, one gang computes it.

Node 0 asks for `lease.json` in the training's folder before ranks start, and rewrites it while they run (`data.lease`).
Where another gang lives, this one ends as `ComputedElsewhere`, and its GPUs serve others. The lease saves GPUs and
protects nothing: that is what the fence does, which orders attempts whatever the leases say (`checkpoint.fencing`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from diht_k8s.api.errors import ComputedElsewhere, DihtError, StopRequested
from diht_k8s.api.layout import LEASE, join
from diht_k8s.api.pods import RUN_UID
from diht_k8s.api.run import Stage
from diht_k8s.data.lease import BEAT_SECONDS, WorkLease, beating
from diht_k8s.runtime.stage import Context


def lease_of(context: Context, clock: Callable[[], float] = time.monotonic) -> WorkLease:
    """This gang's view of the lease of its training."""
    uri = join(context.layout.stage(Stage.TRAIN), LEASE)
    return WorkLease(context.storage, uri, {"owner": context.owner.id}, clock=clock)


@contextlib.contextmanager
def held_lease(
    context: Context, sleep: Callable[[float], object] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Hold the lease of a training.

    Raises:
        ComputedElsewhere: another run's gang works on it, has just completed it, or has taken it over meanwhile.
    """
    lease = lease_of(context, clock)
    if not lease.watch(lambda: _go_on(context), sleep):
        raise _elsewhere(lease.found)
    try:
        _go_on(context)  # it may have been completed while this one watched
        with beating(lease.keep):
            yield
    except BaseException as error:
        fenced = isinstance(error, StopRequested) and not context.stop.requested
        if fenced:
            lease.look()
        with contextlib.suppress(DihtError):  # it stands still from now on, which says the same
            lease.release()
        if fenced and lease.is_foreign:
            raise _elsewhere(lease.found) from error
        raise
    # At a good end the lease stays: until the marker is written, nobody shall find the training free.


def wait_until_free(
    context: Context, sleep: Callable[[float], object] = time.sleep, clock: Callable[[], float] = time.monotonic
) -> None:
    """Wait while another run's gang works on a training, until it is committed or may be taken.

    Raises:
        StopRequested: a signal.
    """
    lease = lease_of(context, clock)
    while not _is_committed(context):
        lease.look()
        if lease.is_free():
            return
        context.stop.raise_if_requested()
        sleep(BEAT_SECONDS)


def _is_committed(context: Context) -> bool:
    return context.storage.exists(context.layout.committed(Stage.TRAIN))


def _go_on(context: Context) -> None:
    """Look whether the training is still to be computed."""
    if _is_committed(context):
        raise ComputedElsewhere("another run has completed this training meanwhile: start again to take its result")
    context.stop.raise_if_requested()


def _elsewhere(found: dict[str, Any] | None) -> ComputedElsewhere:
    """Tells the UID of the holder.

    Its name is nobody's business who shares the bucket; the operator knows those of a namespace.
    """
    owner = str((found or {}).get("owner"))
    holder = f"run {owner}" if RUN_UID.fullmatch(owner) else "another run"
    return ComputedElsewhere(f"this training is computed by {holder}: start again to take its result")
