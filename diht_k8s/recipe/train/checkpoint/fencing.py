"""Fencing: which attempt at a training may write.

Each gang claims the next number once its process group stands; an older attempt that still runs then stops.

A lost node's processes can live on for minutes after the cluster has started the next attempt. The numbers are
stored beside the checkpoints, so they also distinguish attempts that no controller knows.
"""

from __future__ import annotations

from diht_k8s.api.errors import StopRequested
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.recipe.shards.storage import Storage


def claim(storage: Storage, layout: Layout) -> int:
    """Take the next number, by writes that fail if the object exists."""
    while True:
        epoch = _newest(storage, layout) + 1
        if storage.create(join(_folder(layout), f"{epoch:06d}"), b"taken\n"):
            return epoch


def require_newest(storage: Storage, layout: Layout, epoch: int) -> None:
    """Check before a commit.

    Raises:
        StopRequested: a newer attempt writes here.
    """
    newest = _newest(storage, layout)
    if newest > epoch:
        raise StopRequested(
            f"attempt {newest} has taken over {layout.stage(Stage.TRAIN)}, this one ({epoch}) stops: nothing is lost"
        )


def _newest(storage: Storage, layout: Layout) -> int:
    return max((int(name) for name in storage.names(_folder(layout)) if name.isdigit()), default=0)


def _folder(layout: Layout) -> str:
    return join(layout.stage(Stage.TRAIN), "epochs")
