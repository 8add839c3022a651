"""Embedding distillation: the student's image-text similarities follow a CLIP-type teacher's, over the global batch.

In: a rank's image and text features, the logit scale, the teacher's embeddings of the same pairs. Out: the loss of the
global batch and its gradients. With z the student's scaled logits and t the teacher's, one row of each an image against
all captions (MobileCLIP's dataset reinforcement, arXiv 2311.17049; TinyCLIP's affinity mimicking, arXiv 2309.12314):

    loss_i = KL(softmax_j t_ij || softmax_j z_ij) = sum_j p_ij (t_ij - z_ij) - LSE_j t_ij + LSE_j z_ij

and the same over columns, each caption against all images; the mean over pairs and both directions. As in `hn_nce`,
tiles of a few image rows complete their rows and add to the columns, the backward pass recomputes them, and only the
text side travels, so memory is O(B (chunk + D)) instead of O(B^2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from diht_k8s.stages.train.collectives import (
    gather_rows,
    group_rank,
    group_size,
    reduce_,
    require_equal_shapes,
    scatter_row_sums,
)
from diht_k8s.stages.train.loss.hn_nce import CHUNK_SIZE

NOTHING: Final = -1.0e30
"""Logit of both models where the teacher has no embedding: its exponential is 0, and differences stay finite."""

# Shape legend: B pairs of this rank, N pairs of all ranks, T image rows of one tile, D and E widths of student and
# teacher.


def embedding_loss(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor,
    teacher_B2E: Tensor,
    *,
    temperature: float,
    chunk_size: int = CHUNK_SIZE,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """How far the student's similarities of images and captions are from the teacher's; 0 where they are equal.

    Pairs of which the teacher has no image embedding (zeros) take no part, in no row and in no column; so do surplus
    rows.

    Args:
        image_features_BD: this rank's image features, L2-normalised; bf16, fp16, fp32 (computed in fp32) or fp64.
        text_features_BD: this rank's text features, same shape.
        logit_scale: the student's inverse temperature, a scalar tensor.
        teacher_B2E: the teacher's image and text embedding of each pair, both L2-normalised, any floating dtype.
        temperature: of the teacher's similarities, > 0.
        chunk_size: image rows held against all texts at a time; changes memory and speed, not the result.
        group: the ranks that share the global batch; None: the batch as given is global.

    Returns:
        The 0-d loss of the global batch, equal on all ranks, in fp32 (fp64 for fp64 features); 0 if no pair takes part.
        Gradients carry a factor of the number of ranks, so that their average is the global gradient. Once
        differentiable.

    Raises:
        ValueError: shapes or settings out of range, or batches that differ between ranks.
    """
    shapes = (
        f"image features {tuple(image_features_BD.shape)}, text features {tuple(text_features_BD.shape)}, "
        f"teacher {tuple(teacher_B2E.shape)}"
    )
    if image_features_BD.dim() != 2 or image_features_BD.shape != text_features_BD.shape:
        raise ValueError(f"{shapes}: features must be (pairs, width), row i of one with row i of the other")
    if teacher_B2E.dim() != 3 or teacher_B2E.shape[:2] != (image_features_BD.shape[0], 2):
        raise ValueError(
            f"{shapes}: the teacher's must be (pairs, 2, width), an image and a text embedding of each pair"
        )
    if not temperature > 0 or chunk_size < 1:
        raise ValueError(f"temperature is {temperature}, chunk_size {chunk_size}: they must be above 0 and at least 1")
    require_equal_shapes(image_features_BD, group)
    settings = _Settings(temperature, chunk_size, group)
    return _EmbeddingDistillation.apply(image_features_BD, text_features_BD, logit_scale, teacher_B2E, settings)  # type: ignore[return-value]  # apply is untyped


class _Settings(NamedTuple):
    temperature: float
    chunk_size: int
    group: dist.ProcessGroup | None


class _Sums(NamedTuple):
    """Sums over a row or column, relative to the largest logits so that none overflows."""

    student_peak: Tensor
    teacher_peak: Tensor
    student: Tensor
    """Sum of e^{z - peak}."""
    teacher: Tensor
    """Sum of e^{t - peak}."""
    gap: Tensor
    """Sum of e^{t - peak} (t - z)."""

    def loss(self) -> Tensor:
        """KL of each row or column."""
        return self.gap / self.teacher - self.log_teacher() + self.log_student()

    def log_student(self) -> Tensor:
        """LSE of z."""
        return self.student_peak + self.student.log()

    def log_teacher(self) -> Tensor:
        """LSE of t."""
        return self.teacher_peak + self.teacher.log()


class _Normalisers(NamedTuple):
    """Logarithms by which e^z and e^t become probabilities; infinite, for probabilities of 0, where a pair takes no
    part.
    """

    student: Tensor
    teacher: Tensor


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Logits of both models, a few image rows at a time, `NOTHING` where a pair takes no part."""

    image_BD: Tensor
    text_ND: Tensor
    scale: Tensor
    teacher_image_BE: Tensor
    teacher_text_NE: Tensor
    used_N: Tensor
    first: int
    """number of this rank's first pair."""
    settings: _Settings

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (rows, student_TN, teacher_TN); both are overwritten by the next tile."""
        step = min(self.settings.chunk_size, self.image_BD.shape[0])
        student_buffer, teacher_buffer = (self.text_ND.new_empty(step, self.text_ND.shape[0]) for _ in range(2))
        for start in range(0, self.image_BD.shape[0], step):
            image_TD = self.image_BD[start : start + step]
            rows = slice(start, start + image_TD.shape[0])
            teacher_TE = self.teacher_image_BE[rows] / self.settings.temperature
            # Given `out`, mm is also left alone by autocast, which would round the logits to 8 bits.
            student_TN = torch.mm(image_TD * self.scale, self.text_ND.T, out=student_buffer[: image_TD.shape[0]])
            teacher_TN = torch.mm(teacher_TE, self.teacher_text_NE.T, out=teacher_buffer[: image_TD.shape[0]])
            unused_TN = ~(self.used_B[rows, None] & self.used_N)
            yield rows, student_TN.masked_fill_(unused_TN, NOTHING), teacher_TN.masked_fill_(unused_TN, NOTHING)

    @property
    def used_B(self) -> Tensor:  # noqa: N802  # the shape is part of the name
        """Which of this rank's pairs take part."""
        return self.used_N[self.own]

    @property
    def own(self) -> slice:
        """This rank's pairs."""
        return slice(self.first, self.first + self.image_BD.shape[0])


def _sums_of_tile(student_TN: Tensor, teacher_TN: Tensor, dim: int) -> _Sums:
    student_peak, teacher_peak = student_TN.amax(dim), teacher_TN.amax(dim)
    likely_TN = (teacher_TN - teacher_peak.unsqueeze(dim)).exp_()
    student = (student_TN - student_peak.unsqueeze(dim)).exp_().sum(dim)
    gap = ((teacher_TN - student_TN).mul_(likely_TN)).sum(dim)
    return _Sums(student_peak, teacher_peak, student, likely_TN.sum(dim), gap)


def _rebase(sums: _Sums, student_peak: Tensor, teacher_peak: Tensor) -> _Sums:
    student, teacher = (sums.student_peak - student_peak).exp(), (sums.teacher_peak - teacher_peak).exp()
    return _Sums(student_peak, teacher_peak, sums.student * student, sums.teacher * teacher, sums.gap * teacher)


def _merge(left: _Sums, right: _Sums) -> _Sums:
    peaks = [torch.maximum(ours, theirs) for ours, theirs in zip(left[:2], right[:2], strict=True)]
    left, right = _rebase(left, *peaks), _rebase(right, *peaks)
    return _Sums(*peaks, *(ours + theirs for ours, theirs in zip(left[2:], right[2:], strict=True)))


def _merge_ranks(sums: _Sums, group: dist.ProcessGroup | None) -> _Sums:
    peaks = reduce_(torch.stack(sums[:2]), dist.ReduceOp.MAX, group)
    return _Sums(*peaks, *reduce_(torch.stack(_rebase(sums, *peaks)[2:]), dist.ReduceOp.SUM, group))


def _sums_of_rows_and_columns(tiles: _Tiles) -> tuple[_Sums, _Sums]:
    """One pass over the tiles: the sums of this rank's rows, its share of all columns' sums."""
    rows: list[_Sums] = []
    columns: _Sums | None = None
    for _, student_TN, teacher_TN in tiles:
        rows.append(_sums_of_tile(student_TN, teacher_TN, 1))
        of_tile = _sums_of_tile(student_TN, teacher_TN, 0)
        columns = of_tile if columns is None else _merge(columns, of_tile)
    assert columns is not None, "a rank has pairs"
    return _Sums(*(torch.cat(parts) for parts in zip(*rows, strict=True))), columns


def _normalisers(sums: _Sums, used: Tensor) -> _Normalisers:
    return _Normalisers(*(torch.where(used, log, torch.inf) for log in (sums.log_student(), sums.log_teacher())))


def _gradients(
    tiles: _Tiles, rows: _Normalisers, columns: _Normalisers, needs_text: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Second pass: gradients of the summed losses for the scaled features (image side, text side) and for the scale.

    By a logit it is what the student finds likely less what the teacher does, in its row and in its column.
    """
    image_gradient_BD = torch.empty_like(tiles.image_BD)
    text_gradient_ND = torch.zeros_like(tiles.text_ND) if needs_text else None
    scale_gradient = torch.zeros_like(tiles.scale)
    for part, student_TN, teacher_TN in tiles:
        gradient_TN = (student_TN - rows.student[part, None]).exp_()
        gradient_TN += (student_TN - columns.student).exp_()
        gradient_TN -= (teacher_TN - rows.teacher[part, None]).exp_()
        gradient_TN -= (teacher_TN - columns.teacher).exp_()
        image_TD, image_gradient_TD = tiles.image_BD[part], image_gradient_BD[part]
        torch.mm(gradient_TN, tiles.text_ND, out=image_gradient_TD)
        scale_gradient += torch.sum(image_gradient_TD * image_TD)  # = sum of gradient x cosine
        if text_gradient_ND is not None:
            text_gradient_ND.addmm_(gradient_TN.T, image_TD)
    return image_gradient_BD, text_gradient_ND, scale_gradient


class _EmbeddingDistillation(torch.autograd.Function):
    """(image_BD, text_BD, scale, teacher_B2E, settings) -> loss."""

    @staticmethod
    def forward(
        ctx: Any, image_BD: Tensor, text_BD: Tensor, scale: Tensor, teacher_B2E: Tensor, settings: _Settings
    ) -> Tensor:
        """Run the first pass and keep features and O(N) vectors for the second."""
        ctx.settings, ctx.dtypes = settings, (image_BD.dtype, text_BD.dtype, scale.dtype, scale.shape)
        dtype = torch.float64 if torch.float64 in (image_BD.dtype, text_BD.dtype) else torch.float32
        group, first = settings.group, group_rank(settings.group) * image_BD.shape[0]
        sides = (image_BD.to(dtype), gather_rows(text_BD, group).to(dtype), scale.to(dtype).reshape(()))
        theirs = (teacher_B2E[:, 0].to(dtype), gather_rows(teacher_B2E[:, 1], group).to(dtype))
        used_N = gather_rows((teacher_B2E[:, 0] != 0).any(dim=1).to(torch.uint8), group).bool()
        tiles = _Tiles(*sides, *theirs, used_N, first, settings)
        rows, columns = _sums_of_rows_and_columns(tiles)
        columns = _merge_ranks(columns, group)
        own_columns, used_B = _Sums(*(part[tiles.own] for part in columns)), tiles.used_B
        losses_B = torch.where(used_B, rows.loss() + own_columns.loss(), 0.0)
        pairs = used_N.sum().clamp_min(1).to(dtype)
        row_logs, column_logs = _normalisers(rows, used_B), _normalisers(columns, used_N)
        ctx.save_for_backward(*sides, *theirs, used_N, pairs, *row_logs, *column_logs)
        return reduce_(losses_B.sum(), dist.ReduceOp.SUM, group) / (2 * pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the second pass; the text side's gradient is summed over the ranks that used it."""
        image_BD, text_ND, scale, theirs_BE, theirs_NE, used_N, pairs, *logs = ctx.saved_tensors
        settings, (image_dtype, text_dtype, scale_dtype, scale_shape) = ctx.settings, ctx.dtypes
        first = group_rank(settings.group) * image_BD.shape[0]
        tiles = _Tiles(image_BD, text_ND, scale, theirs_BE, theirs_NE, used_N, first, settings)
        rows, columns = _Normalisers(*logs[:2]), _Normalisers(*logs[2:])
        image, text, of_scale = _gradients(tiles, rows, columns, ctx.needs_input_grad[1])
        # The mean, times the ranks for the average that will be taken over them.
        mean = loss_gradient.to(pairs.dtype) * group_size(settings.group) / (2 * pairs)
        image.mul_(mean * tiles.scale)
        if text is not None:
            text = scatter_row_sums(text.mul_(mean * tiles.scale), settings.group).to(text_dtype)
        return image.to(image_dtype), text, (of_scale * mean).to(scale_dtype).reshape(scale_shape), None, None
