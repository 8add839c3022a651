"""One rank's share of a training step, and its assembly from the parts that the loader's workers make.

Every rank holds ceil(B / W) rows of a batch of B pairs over W ranks, so that all have tensors of one shape and pass as
many micro-batches. The rows are cut contiguously: what the ranks hold beyond the B pairs are the last rows of the last
ranks, and of all ranks' rows in rank order the pairs are the first B. These surplus rows hold no pair and count
nowhere.

What a training's batches held: bad samples by reason and damaged shards, with their limits, and all that it
consumed.

A few bad ones are expected, many stop the training. At the end the pairs of all ranks' batches are what its steps took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from diht_k8s.api.errors import DataError
from diht_k8s.runtime.bad_shards import LOST, BadShards, Damage, damage_summary
from diht_k8s.runtime.commit import Count, require_equal
from diht_k8s.stages.train.collectives import gather_objects
from diht_k8s.stages.train.data.normalisation import CLIPS, Normalisation, normalised

# Shape legend: B batch, C channels (3), H height, W width of images and of features, T tokens, K stored classes, E
# width of a teacher's embeddings.


@dataclass(frozen=True)
class HeadTargets:
    """Soft targets of one concept head."""

    ids_BK: Tensor
    probabilities_BK: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor]) -> HeadTargets:
        """With each tensor changed."""
        return HeadTargets(change(self.ids_BK), change(self.probabilities_BK))


@dataclass(frozen=True)
class BatchTargets:
    """Soft targets of a batch."""

    objects: HeadTargets
    attributes: HeadTargets
    mask_B: Tensor
    """whether an image has labels."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> BatchTargets:
        """With each tensor changed."""
        return BatchTargets(self.objects.mapped(change), self.attributes.mapped(change), change(self.mask_B))


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch, in the batch's order; at its end there may be surplus rows, which hold no pair
    (`share`).
    """

    seen_B: Tensor
    """BxHxWxC augmented images, uint8 (a quarter of the memory until they are needed), or BxW stored features."""
    tokens_BT: Tensor
    caption_ids_B: Tensor
    """equal where captions are equal, int64."""
    targets: BatchTargets | None
    uids: list[str]
    """of the pairs, surplus rows have none."""
    bad: dict[str, int]
    """samples that could not be used, by reason; a grey image stands in for each."""
    damaged: dict[str, Damage] = field(default_factory=dict)
    """URI of a shard -> its damage, as far as this rank has found any."""
    lengths: list[int] | None = None
    """tokens of each caption, where the tokens lie on a device, which would have to be waited for."""
    teacher_B2E: Tensor | None = None
    """a CLIP-type teacher's embeddings of each image and its caption, fp16; zeros where it has none."""

    @property
    def images_BCHW(self) -> Tensor:  # noqa: N802  # the shape is part of the name
        """All images, normalised as CLIP's, fp32."""
        return self.images_of(slice(None))

    def images_of(
        self, part: slice, normalisation: Normalisation = CLIPS, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """What the image side takes of a micro-batch: normalised images, or stored features, fp32.

        Images take up to four times the memory of their pixels, so not all are made at once.
        """
        seen = self.seen_B[part]
        return seen.float() if seen.ndim == 2 else normalised(seen, dtype, of=normalisation)

    @property
    def caption_lengths(self) -> list[int]:
        """Tokens of each caption."""
        return (self.tokens_BT.argmax(dim=1) + 1).tolist() if self.lengths is None else self.lengths

    def tokens_of(self, part: slice, *, cut: bool) -> Tensor:
        """The tokens of a micro-batch; on a device up to its longest caption, if `cut` is set."""
        tokens_BT = self.tokens_BT[part]
        return tokens_BT if self.lengths is None or not cut else tokens_BT[:, : max(self.lengths[part])]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with each tensor changed."""
        return replace(
            self,
            seen_B=change(self.seen_B),
            tokens_BT=change(self.tokens_BT),
            caption_ids_B=change(self.caption_ids_B),
            targets=None if self.targets is None else self.targets.mapped(change),
            teacher_B2E=None if self.teacher_B2E is None else change(self.teacher_B2E),
        )

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which a GPU fetches while it computes."""
        return self.mapped(Tensor.pin_memory)

    def on(self, device: torch.device) -> Batch:
        """The same on a device once its queue gets there; the host does not wait for page-locked memory to go."""
        sent = self.mapped(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(sent, lengths=self.caption_lengths)

    def used_on(self, stream: torch.Stream) -> None:
        """Keep the device's memory from being used again before a stream has come this far."""
        self.mapped(lambda tensor: _recorded(tensor, stream))


def _recorded(tensor: Tensor, stream: torch.Stream) -> Tensor:
    tensor.record_stream(stream)  # pyright: ignore[reportArgumentType]  # the stub knows one of the two classes
    return tensor


def merged(parts: Sequence[Batch]) -> Batch:
    """The batch of the rows of some parts, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    bad: Counter[str] = Counter()
    for part in parts:
        bad.update(part.bad)
    return Batch(
        torch.cat([part.seen_B for part in parts]),
        torch.cat([part.tokens_BT for part in parts]),
        torch.cat([part.caption_ids_B for part in parts]),
        _merged_targets([part.targets for part in parts if part.targets is not None]),
        [uid for part in parts for uid in part.uids],
        dict(bad),
        {name: damage for part in parts for name, damage in part.damaged.items()},
        teacher_B2E=_joined([part.teacher_B2E for part in parts if part.teacher_B2E is not None]),
    )


def _joined(parts: Sequence[Tensor]) -> Tensor | None:
    return torch.cat(list(parts)) if parts else None


def _merged_targets(parts: Sequence[BatchTargets]) -> BatchTargets | None:
    if not parts:
        return None
    return BatchTargets(
        _merged_head([part.objects for part in parts]),
        _merged_head([part.attributes for part in parts]),
        torch.cat([part.mask_B for part in parts]),
    )


def _merged_head(parts: Sequence[HeadTargets]) -> HeadTargets:
    width = max(part.ids_BK.shape[1] for part in parts)
    return HeadTargets(
        torch.cat([_filled(part.ids_BK, width, -1) for part in parts]),
        torch.cat([_filled(part.probabilities_BK, width, 0) for part in parts]),
    )


def _filled(rows_BK: Tensor, width: int, value: int) -> Tensor:
    """Short rows, filled up as the loss knows it."""
    return (
        rows_BK if rows_BK.shape[1] == width else nn.functional.pad(rows_BK, (0, width - rows_BK.shape[1]), value=value)
    )


@dataclass(frozen=True)
class BatchShare:
    """One rank's rows."""

    batch_size: int
    """pairs of the global batch."""
    rank: int
    world: int
    """number of ranks."""

    @property
    def rows(self) -> int:
        """Rows that each rank holds, surplus ones included."""
        return -(-self.batch_size // self.world)

    @property
    def first(self) -> int:
        """Number of this rank's first row in the global batch."""
        return self.rank * self.rows

    @property
    def pairs(self) -> int:
        """Pairs of this rank; the last ranks may have fewer than others, or none."""
        return max(0, min(self.rows, self.batch_size - self.first))

    @property
    def surplus(self) -> int:
        """Rows of this rank that hold no pair."""
        return self.rows - self.pairs

    def part(self, number: int, parts: int) -> range:
        """The rows of one of several readers of this rank's pairs, as equal as they can be.

        Args:
            number: which reader.
            parts: number of readers.
        """
        begin, end = (self.pairs * place // parts for place in (number, number + 1))
        return range(self.first + begin, self.first + end)


MAX_BAD_FRACTION: Final = 0.01


class BadSamples:
    """Counts of one rank."""

    def __init__(self, limit: int | str, shards: int, known: Mapping[str, Damage]) -> None:
        """Begin.

        Args:
            limit: `data.maxBadShards`.
            shards: number of shards of the training.
            known: damaged shards that were found when they were counted.
        """
        self.counts: Counter[str] = Counter()
        self._bad_shards = BadShards(limit, shards)
        self._bad_shards.add_all(known)

    @property
    def unusable(self) -> int:
        """This rank's bad samples; those of damaged shards are left out, for `data.maxBadShards` limits them."""
        return self.counts.total() - self.counts[LOST]

    def add(self, batch: Batch) -> None:
        """Count the bad samples and damaged shards of this rank's part of a batch.

        Raises:
            DataError: more shards are damaged than the run allows.
        """
        self._bad_shards.add_all(batch.damaged)
        self.counts.update(batch.bad)

    def check(self, unusable: int, seen: int) -> None:
        """Stop where too many samples are bad: on all ranks at once, and alike for any number of them.

        Args:
            unusable: of all ranks.
            seen: samples of an epoch, or of all steps so far if they are more.

        Raises:
            DataError: they are too many.
        """
        if unusable > MAX_BAD_FRACTION * seen:
            raise DataError(
                f"more than {MAX_BAD_FRACTION:.0%} of the pairs cannot be used ({unusable:,} of {seen:,}; on this rank "
                f"{dict(self.counts)}): run the stage filter on this data"
            )

    def metrics(self, validation: Mapping[str, Damage]) -> dict[str, float]:
        """The number of damaged shards that this rank knows, for the progress; empty where there are none.

        Args:
            validation: damaged shards of the held-out pairs.
        """
        found = self._bad_shards.found.keys() | validation.keys()
        return {"bad_shards": len(found)} if found else {}

    def summary(self, validation: Mapping[str, Damage]) -> dict[str, list[dict[str, Any]]]:
        """The entry `damaged_shards` of the marker, over all ranks (a collective).

        Args:
            validation: damaged shards of the held-out pairs.
        """
        found = dict(validation)
        for theirs in gather_objects(self._bad_shards.found):
            found |= theirs
        return damage_summary(found)


REMEDY = "start again to resume from the last checkpoint"


@dataclass
class Consumption:
    """What the batches of an attempt held, as one rank sees it."""

    began: int
    """global position at which the attempt began."""
    rows: int = 0
    """with pairs, of this rank's batches."""

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.rows += len(batch.uids)

    def check(self, position: int, planned: int) -> None:
        """Compare at the end (a collective).

        Args:
            position: global position after the last step.
            planned: samples of the whole training: `train.samples`, rounded up to whole batches.

        Raises:
            DataError: batches had more or fewer rows than the steps, or the training ends elsewhere; on all ranks.
        """
        rows = sum(gather_objects(self.rows))
        steps = Count(position - self.began, "samples belong to the steps of this attempt")
        require_equal("train", REMEDY, steps, Count(rows, "rows had their batches"))
        require_equal("train", REMEDY, Count(planned, "samples were planned"), Count(position, "are done"))
