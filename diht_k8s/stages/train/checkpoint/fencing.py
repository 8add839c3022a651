"""Fencing of attempts at a training: only the newest one may write.

Each gang claims the next number in `train/epochs/` once its process group stands. A lost node's processes can live on
for minutes after the cluster has started the next attempt, so checking the newest number protects nothing that is
written after that. Therefore attempts and commits also take places in one sequence, `train/commits/NNNNNN`, each by a
write that fails if the object exists. A checkpoint is committed by taking the place after the attempt's own newest one;
an attempt that has been replaced finds its successor there. The entry holds the checkpoint's marker, so a successor
writes a marker that its predecessor had committed and could not write any more.

The numbers are stored beside the checkpoints, so they also distinguish attempts that no controller knows.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from diht_k8s.api.errors import DihtError, StopRequested
from diht_k8s.api.layout import Layout, join
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.storage import Storage

KEPT_ENTRIES: Final = 100
"""Newest entries of the sequence that stay; whoever takes a number that was removed sees that later ones exist."""


class Commit(BaseModel):
    """A checkpoint that is committed."""

    model_config = ConfigDict(frozen=True)

    step: str
    """name of its folder."""
    marker: dict[str, Any]
    """content of its marker."""


class FenceEntry(BaseModel):
    """One place in the sequence: the begin of an attempt, or a commit of it."""

    model_config = ConfigDict(frozen=True)

    attempt: int
    owner: str
    """tells an attempt its own entries, whose write may have succeeded although its answer was lost."""
    commit: Commit | None = None


class Fence:
    """The right of one attempt to write; lost as soon as another one begins. Used by rank 0 alone."""

    def __init__(self, storage: Storage, layout: Layout) -> None:
        """Claim the next number, and from then on nobody else commits.

        Raises:
            StopRequested: a still newer attempt has begun meanwhile.
        """
        self._storage, self._layout = storage, layout
        self._owner = uuid.uuid4().hex
        self.attempt = self._claimed()
        self._newest = 0
        self.left: Commit | None = None
        """what the attempt before had committed last, if nothing came after it: its marker may be missing."""
        self._take(None)

    def require_newest(self) -> None:
        """Check before a write that another attempt's one would make wrong for a moment only.

        Raises:
            StopRequested: a newer attempt writes here.
        """
        newest = _newest(self._storage, self._epochs)
        if newest > self.attempt:
            raise self._replaced(newest)

    def commit(self, step: str, marker: dict[str, Any]) -> None:
        """Commit a checkpoint: from here on it counts, also if this process ends before it writes the marker.

        Raises:
            DihtError: the storage does not answer; the checkpoint may count or not.
            StopRequested: a newer attempt has begun; the checkpoint does not count.
        """
        self._take(Commit(step=step, marker=marker))
        newest = _newest(self._storage, self._commits)
        if newest > self._newest:  # the number had been used, and removed since
            raise self._replaced(self.attempt + 1)

    def prune(self) -> None:
        """Remove entries that no attempt needs."""
        names = [name for name in self._storage.names(self._commits) if name.isdigit()]
        old = [name for name in names if int(name) <= self._newest - KEPT_ENTRIES]
        if old:
            self._storage.remove_files(self._commits, old)

    def _claimed(self) -> int:
        while True:
            epoch = _newest(self._storage, self._epochs) + 1
            if self._storage.create(join(self._epochs, f"{epoch:06d}"), b"taken\n"):
                return epoch

    def _take(self, commit: Commit | None) -> None:
        """Take the next place, for a commit or for the begin of this attempt (None)."""
        mine = FenceEntry(attempt=self.attempt, owner=self._owner, commit=commit)
        while True:
            if commit is None:
                self._newest = _newest(self._storage, self._commits)
                self._look_back()
            number = self._newest + 1
            if self._storage.create(self._uri(number), mine.model_dump_json().encode()):
                self._newest = number
                return
            found = self._read(number)
            if found is None or found.owner != self._owner:
                if commit is None:
                    continue
                raise self._replaced(self.attempt + 1 if found is None else found.attempt)
            self._newest = number
            if found == mine:
                return

    def _look_back(self) -> None:
        before = self._read(self._newest) if self._newest else None
        if before is not None and before.attempt > self.attempt:
            raise self._replaced(before.attempt)
        self.left = before.commit if before is not None else None

    def _read(self, number: int) -> FenceEntry | None:
        """An entry; None if it is gone or no entry."""
        try:
            return FenceEntry.model_validate_json(self._storage.read_bytes(self._uri(number)))
        except ValidationError:
            return None
        except DihtError:
            if self._storage.exists(self._uri(number)):
                raise
            return None

    def _replaced(self, newest: int) -> StopRequested:
        return StopRequested(
            f"attempt {newest} has taken over {self._layout.stage(Stage.TRAIN)}, this one ({self.attempt}) stops: "
            "nothing is lost"
        )

    def _uri(self, number: int) -> str:
        return join(self._commits, f"{number:06d}")

    @property
    def _epochs(self) -> str:
        return join(self._layout.stage(Stage.TRAIN), "epochs")

    @property
    def _commits(self) -> str:
        return join(self._layout.stage(Stage.TRAIN), "commits")


def _newest(storage: Storage, folder: str) -> int:
    return max((int(name) for name in storage.names(folder) if name.isdigit()), default=0)
