"""The state of a checkpoint as all ranks read it together: each part by one rank, which passes its tensors on.

However many ranks there are, a part is read once: its reader checks the digest and keeps it. A reader of several parts
keeps the last one and reads the others again when they are asked for (fewer ranks than those that saved). So a rank
holds one part, and the tensor that is on its way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load
from torch import Tensor

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.train.collectives import gather_objects
from diht_k8s.stages.train.distributed import control_group


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
