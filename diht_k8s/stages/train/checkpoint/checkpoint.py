"""Checkpoints on storage: `step-N/` with a part from each rank, then a marker with the cursor and the parts' digests.

A checkpoint counts once its marker is there and its parts have the digests that the marker names. Parts carry the
number of the attempt that wrote them, so that an upload that arrives late, from an attempt that is long replaced,
changes nothing that a marker names. DeepSpeed's own checkpoints are not used: its `latest` file can name one whose
other parts are unfinished.

The state of a checkpoint as all ranks read it together: each part by one rank, which passes its tensors on.

However many ranks there are, a part is read once: its reader checks the digest and keeps it. A reader of several parts
keeps the last one and reads the others again when they are asked for (fewer ranks than those that saved). So a rank
holds one part, and the tensor that is on its way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load, save
from torch import Tensor

from diht_k8s.api.errors import DataError, DihtError, StopRequested
from diht_k8s.api.layout import MARKER, join
from diht_k8s.api.reports import SavedCheckpoint
from diht_k8s.data.shards.storage import Storage, temporary_of
from diht_k8s.stages.train.checkpoint.fencing import Fence
from diht_k8s.stages.train.collectives import broadcast_object, control_group, gather_objects
from diht_k8s.stages.train.precision import LOSS_SCALE

CURSOR_VERSION = 2

_PART_NAME = re.compile(r"state-\d{5}-\d{6}\.safetensors")
_STEP = re.compile(r"step-\d{9}")
logger = logging.getLogger(__name__)


class OtherFormatError(DataError):
    """A checkpoint is of another version of the format: nothing is damaged."""


class CursorOrder(BaseModel):
    """The order of which a position is a place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lanes: int
    block: int
    """samples of a block."""
    window: int
    """samples of the window, over all lanes."""
    epoch: int
    """samples of an epoch."""
    sequential: list[tuple[int, int]] = []
    """first and last of the shards that are read in sequence, by number."""


class TowerDigest(BaseModel):
    """The locked image tower on which a training goes on; its weights are in no checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    uri: str | None
    """where its weights come from (`train.initFrom`); None: from the training's seed."""


class Cursor(BaseModel):
    """Progress of the training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = CURSOR_VERSION
    step: int
    """optimiser steps done."""
    position: int
    """next position of the global order, that is samples seen."""
    order: CursorOrder
    config_sha256: str
    """configuration of the stage."""
    seconds: float
    """time spent training, over all attempts."""
    bad: dict[str, int] = {}
    """unreadable images so far, by reason."""
    productive: float | None = Field(default=None, exclude=True)
    """seconds of the steps behind it, over all attempts; None from older programs. Beside the cursor in the marker,
    since older programs refuse a cursor with unknown fields."""
    tower: TowerDigest | None = Field(default=None, exclude=True)
    """the locked image tower; beside the cursor, too."""

    def saved_as(self, uri: str, *, time: int | None = None) -> SavedCheckpoint:
        """The report of a checkpoint of this cursor; `time` is that of its commit."""
        return SavedCheckpoint(step=self.step, uri=uri, time=time, seconds=int(self.seconds))


@dataclass(frozen=True)
class Saved:
    """A committed, undamaged checkpoint."""

    uri: str
    cursor: Cursor
    state: SharedState


def is_weight(key: str) -> bool:
    """Whether an entry of a state is a weight or buffer of the model."""
    return key not in ("adam_step", LOSS_SCALE) and ("|" not in key or key.startswith("buffer|"))


def write_part(
    storage: Storage, folder: str, cursor: Cursor, part: Mapping[str, Tensor], *, rank: int, attempt: int
) -> Part:
    """Write one rank's part of a checkpoint; the checkpoint counts from `commit` on."""
    name = f"state-{rank:05d}-{attempt:06d}.safetensors"
    data = save({key: value.contiguous() for key, value in part.items()})
    storage.write_bytes(join(checkpoint_uri(folder, cursor), name), data)
    return Part(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def commit(storage: Storage, folder: str, cursor: Cursor, parts: Sequence[Part], *, keep: int, fence: Fence) -> None:
    """Commit the parts of all ranks and write the marker, then remove all but the newest `keep` committed checkpoints.

    Later steps were written by an attempt that this one replaces, and are removed too. A removal that fails is logged
    and left to the next commit: the checkpoint counts.

    Args:
        storage: where to.
        folder: of the checkpoints.
        cursor: of this one.
        parts: of all ranks.
        keep: number of checkpoints that stay.
        fence: this attempt's right to write.

    Raises:
        DihtError: the checkpoint or its marker could not be written.
        StopRequested: another attempt has replaced this one, and nothing was written.
    """
    marker = {
        "cursor": cursor.model_dump(exclude_none=True),
        "parts": [part.model_dump() for part in parts],
        "productive_seconds": cursor.productive,
        **({} if cursor.tower is None else {"tower": cursor.tower.model_dump()}),
    }
    fence.commit(_name(cursor), marker)
    _write_marker(storage, checkpoint_uri(folder, cursor), marker, fence)
    try:
        _remove_old(storage, folder, cursor, keep=keep, fence=fence)
        fence.prune()
    except StopRequested:
        raise
    except DihtError as error:
        logger.warning("old checkpoints stay for now: %s", error)


def write_missing_marker(storage: Storage, folder: str, fence: Fence) -> None:
    """Write the marker of what the attempt before had committed, if it ended before it could."""
    left = fence.left
    if left is None or _STEP.fullmatch(left.step) is None:
        return
    uri, files = join(folder, left.step), set(storage.names(join(folder, left.step)))
    if MARKER not in files and files.issuperset(part["name"] for part in left.marker["parts"]):
        storage.create(join(uri, MARKER), _encoded(left.marker))


def _write_marker(storage: Storage, uri: str, marker: Mapping[str, Any], fence: Fence) -> None:
    """Write the marker where there is none; one of a damaged checkpoint, which an attempt before left, is replaced."""
    place, data = join(uri, MARKER), _encoded(marker)
    if storage.create(place, data) or storage.read_bytes(place) == data:
        return
    fence.require_newest()
    storage.write_bytes(place, data)


def _encoded(marker: Mapping[str, Any]) -> bytes:
    return json.dumps(marker, indent=1).encode()


def _remove_old(storage: Storage, folder: str, cursor: Cursor, *, keep: int, fence: Fence) -> None:
    files = {name: _removable(storage, join(folder, name)) for name in _steps(storage, folder)}
    done = [name for name, found in files.items() if name <= _name(cursor) and MARKER in found]
    old = [f"{name}/{file}" for name in files.keys() - set(done[-keep:]) for file in files[name]]
    # Listed before the check: what a later attempt writes has other names and stays, however late this removal comes.
    fence.require_newest()
    storage.remove_files(folder, old)


def _removable(storage: Storage, uri: str) -> list[str]:
    """The marker and the parts of one checkpoint, whichever rank and attempt has written and listed them."""
    names = {name: temporary_of(name) or name for name in storage.files(uri)}
    return [name for name, meant in names.items() if meant == MARKER or _PART_NAME.fullmatch(meant)]


def remove_unfinished(storage: Storage, folder: str, cursor: Cursor, *, fence: Fence) -> None:
    """Remove what a failed checkpoint has left, to free its space; what cannot be removed goes with the next commit.

    Raises:
        StopRequested: another attempt has replaced this one.
    """
    try:
        files = _removable(storage, checkpoint_uri(folder, cursor))
        fence.require_newest()
        if MARKER not in files:
            storage.remove_files(folder, [f"{_name(cursor)}/{file}" for file in files])
    except StopRequested:
        raise
    except DihtError as error:
        logger.warning("parts of the failed checkpoint stay for now: %s", error)


def checkpoint_uri(folder: str, cursor: Cursor) -> str:
    """The folder of a checkpoint of this step."""
    return join(folder, _name(cursor))


def _name(cursor: Cursor) -> str:
    return f"step-{cursor.step:09d}"


def newest(storage: Storage, folder: str, config_sha256: str, *, rank: int = 0, world: int = 1) -> Saved | None:
    """The newest committed and undamaged checkpoint of this configuration (a collective).

    Rank 0 looks for it. Damaged ones are reported and skipped.

    Raises:
        OtherFormatError: on all ranks: it is of another release's format. A training from an older one would remove it.
    """
    candidates = _candidates(storage, folder, config_sha256) if rank == 0 else None
    while True:
        candidate = broadcast_object(None if candidates is None else next(candidates, None))
        if candidate is None:
            return None
        if isinstance(candidate, OtherFormatError):
            raise candidate
        uri, cursor, parts = candidate
        try:
            return Saved(uri, cursor, SharedState(storage, uri, parts, rank=rank, world=world))
        except DataError as error:
            if rank == 0:
                logger.warning("%s; an older checkpoint is used", error)


def _candidates(
    storage: Storage, folder: str, config_sha256: str
) -> Iterator[tuple[str, Cursor, list[Part]] | OtherFormatError]:
    """The committed checkpoints of a configuration, from the newest on; an error in place of one of another format."""
    for name in reversed(_steps(storage, folder)):
        uri = join(folder, name)
        if not storage.exists(join(uri, MARKER)):
            continue
        try:
            cursor, parts = _read_marker(storage, uri)
        except OtherFormatError as error:
            yield OtherFormatError(f"{error}: use the program that wrote it, or remove it to train on from before")
            return
        except DataError as error:
            logger.warning("%s; an older checkpoint is used", error)
            continue
        if cursor.config_sha256 == config_sha256:
            yield uri, cursor, parts


def read(storage: Storage, uri: str, *, rank: int = 0, world: int = 1) -> Saved:
    """A committed checkpoint (a collective).

    Raises:
        DataError: it is damaged.
    """
    cursor, parts = _read_marker(storage, uri)
    return Saved(uri, cursor, SharedState(storage, uri, parts, rank=rank, world=world))


def _read_marker(storage: Storage, uri: str) -> tuple[Cursor, list[Part]]:
    try:
        marker = json.loads(storage.read_bytes(join(uri, MARKER)))
        version = marker["cursor"]["version"]
        if version != CURSOR_VERSION:
            raise OtherFormatError(f"the checkpoint {uri} has version {version}, this program reads {CURSOR_VERSION}")
        cursor = {**marker["cursor"], "productive": marker.get("productive_seconds"), "tower": marker.get("tower")}
        return Cursor.model_validate(cursor), [Part.model_validate(part) for part in marker["parts"]]
    except (ValueError, KeyError, TypeError) as error:
        if unknown := _unknown_fields(error):
            raise OtherFormatError(f"the checkpoint {uri} has {', '.join(unknown)}, unknown to this program") from error
        raise DataError(f"the checkpoint {uri} has a damaged marker") from error


def _unknown_fields(error: Exception) -> list[str]:
    """Fields that a later release has added to what this one reads strictly."""
    wrong = error.errors() if isinstance(error, ValidationError) else []
    return [".".join(map(str, each["loc"])) for each in wrong if each["type"] == "extra_forbidden"]


def _steps(storage: Storage, folder: str) -> list[str]:
    return [name for name in storage.folders(folder) if _STEP.fullmatch(name)]


class Part(BaseModel):
    """A file of a checkpoint."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    sha256: str


class _Entry(NamedTuple):
    """A tensor of a state."""

    part: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    value: Tensor | None
    """of a single number, which all ranks know from the beginning."""


@dataclass
class _Held:
    """The part that a rank keeps."""

    number: int
    state: Mapping[str, Tensor]


class SharedState(Mapping[str, Tensor]):
    """`PARAMETER` -> weight, `PARAMETER|exp_avg` -> moment, fp32; `adam_step`.

    Asking for an entry is a collective: all ranks ask for the same ones in the same order. The keys come part by part,
    and who takes them in this order has no part read twice.
    """

    def __init__(self, storage: Storage, uri: str, parts: Sequence[Part], *, rank: int, world: int) -> None:
        """Read all parts and check their digests (a collective).

        Args:
            storage: reads the parts.
            uri: of the checkpoint.
            parts: that its marker names.
            rank: of this process.
            world: number of processes.

        Raises:
            DataError: a part is missing or damaged, on all ranks.
        """
        self._storage, self._uri, self._parts = storage, uri, parts
        self._rank, self._world = rank, world
        self._held: _Held | None = None
        mine, problem = dict[str, _Entry](), None
        try:
            for number in range(rank, len(parts), world):
                mine |= {key: _entry(number, value) for key, value in self._part(number).items()}
        except DataError as error:
            problem = str(error)
        gathered = gather_objects((problem, mine))
        problem = next((theirs for theirs, _ in gathered if theirs is not None), None)
        if problem is not None:
            raise DataError(problem)
        entries = [(key, entry) for _, theirs in gathered for key, entry in theirs.items()]
        self._entries = dict(sorted(entries, key=lambda item: item[1].part))

    def __getitem__(self, key: str) -> Tensor:
        entry = self._entries[key]
        if entry.value is not None:
            return entry.value
        reader = entry.part % self._world
        value = self._part(entry.part)[key] if reader == self._rank else torch.empty(entry.shape, dtype=entry.dtype)
        if self._world > 1 and value.numel():
            dist.broadcast(value.contiguous().view(-1).view(torch.uint8), reader, group=control_group())
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def parts(self) -> int:
        """Number of parts: of the processes that saved it."""
        return len(self._parts)

    def _part(self, number: int) -> Mapping[str, Tensor]:
        if self._held is None or self._held.number != number:
            self._held = None  # before the next one is read
            self._held = _Held(number, self._read(self._parts[number]))
        return self._held.state

    def _read(self, part: Part) -> dict[str, Tensor]:
        place = join(self._uri, part.name)
        if not self._storage.exists(place):
            raise DataError(f"the checkpoint {self._uri} is damaged: {part.name} is missing")
        data = self._storage.read_bytes(place)
        if len(data) != part.size or hashlib.sha256(data).hexdigest() != part.sha256:
            raise DataError(f"the checkpoint {self._uri} is damaged: the digest of {part.name} does not match")
        return load(data)


def _entry(part: int, value: Tensor) -> _Entry:
    return _Entry(part, tuple(value.shape), value.dtype, value.clone() if value.numel() == 1 else None)
