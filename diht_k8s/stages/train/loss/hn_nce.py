"""HN-NCE, the hard-negative noise-contrastive loss: exact value and gradients without the batch x batch matrix.

In: a rank's image and text features and the logit scale. Out: the loss of the global batch, its gradients, three
statistics. The weighted sum of the negatives collapses to two log-sum-exps per row (DiHT, arXiv 2301.02280, section
3.3, in log space), with z the scaled logits:

    log N_i = log(n_i) + LSE_j((1 + beta) z_ij) - LSE_j(beta z_ij)        j over the n_i negatives of pair i
    loss_i  = log(alpha e^{z_ii} + N_i) - z_ii

Both directions come from one pass over tiles of a few image rows against all texts: a tile completes its rows and adds
to the columns. The backward pass recomputes each tile and applies the closed form of d loss / d z. Memory is O(B (chunk
+ D)) instead of O(B^2), and across ranks only the text side travels: gathered once, its gradient reduce-scattered.

Ranks hold rows of one number, so where they do not divide the batch the last rows of the last ranks hold no pair. Their
mask is one number, that of the pairs: rows from there on are cut off before the first pass, and get a gradient of 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from diht_k8s.api.train import Loss
from diht_k8s.stages.train.collectives import gather_rows, group_rank, group_size, reduce_, scatter_row_sums

CHUNK_SIZE: Final = 256
"""Image rows that a training compares with all captions at a time."""

# Shape legend: B rows of this rank, P pairs among them, N pairs of all ranks, T image rows of one tile, D feature
# width.


@dataclass(frozen=True, kw_only=True, slots=True)
class HnNceSettings:
    """What shapes the loss; the defaults and ranges are those of `losses.hn_nce_loss`."""

    alpha: float
    """Weight of the positive in the denominator, 0 to 1; 0 decouples it from the negatives."""
    beta: float
    """Concentration of the weights on hard negatives, >= 0; 0 weighs all alike."""
    differentiate_weights: bool
    """Whether the gradient flows through the weights too."""
    chunk_size: int
    """Image rows per tile."""
    group: dist.ProcessGroup | None
    """The ranks that share the batch; None: this process holds all of it."""
    num_pairs: int | None = None
    """Pairs of the global batch, the first of all ranks' rows in rank order; those after them are surplus, which are
    neither anchors nor negatives. None: each row holds a pair."""

    @staticmethod
    def of(loss: Loss, group: dist.ProcessGroup | None = None, num_pairs: int | None = None) -> HnNceSettings:
        """Those of a run document (`train.loss`)."""
        return HnNceSettings(
            alpha=loss.alpha,
            beta=loss.beta,
            differentiate_weights=loss.differentiate_weights,
            chunk_size=CHUNK_SIZE,
            group=group,
            num_pairs=num_pairs,
        )

    @property
    def weights_have_gradient(self) -> bool:
        """Whether the gradient has the term of the weights; at beta = 0 they are constant."""
        return self.differentiate_weights and self.beta > 0


class NegativeSums(NamedTuple):
    """Sums over the negatives of each row or column, relative to the largest logit so that none overflows."""

    peak: Tensor
    """The largest logit; the smallest finite number where nothing was seen yet, which keeps differences free of NaN."""
    hard: Tensor
    """Sum of e^{(1 + beta) (z - peak)}."""
    weight: Tensor
    """Sum of e^{beta (z - peak)}; zeros where beta = 0, when the weights are known without it."""


class PairTerms(NamedTuple):
    """Per pair and direction: the loss and what its gradient needs."""

    loss: Tensor
    log_hard: Tensor
    """d loss / d z_ij gains e^{(1 + beta) z_ij + log_hard}."""
    log_weight: Tensor
    """d loss / d z_ij loses e^{beta z_ij + log_weight}."""
    negative_share: Tensor
    """N_i / (alpha e^{z_ii} + N_i) = - d loss / d z_ii."""


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The scaled logits, a few image rows at a time, positives and masked pairs at -inf; tiles share one buffer."""

    image_PD: Tensor
    text_ND: Tensor
    scale: Tensor
    first_column: int
    chunk_size: int
    caption_ids_N: Tensor | None

    @property
    def own(self) -> slice:
        """This rank's columns."""
        return slice(self.first_column, self.first_column + self.image_PD.shape[0])

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield (rows, logits_TN, positive_T); the logits are overwritten by the next tile."""
        buffer_TN = self.scratch()
        for start in range(0, self.image_PD.shape[0], self.chunk_size):
            image_TD = self.image_PD[start : start + self.chunk_size]
            rows = slice(start, start + image_TD.shape[0])
            # Given `out`, mm is also left alone by autocast, which would round the logits to 8 bits.
            logits_TN = torch.mm(image_TD * self.scale, self.text_ND.T, out=buffer_TN[: image_TD.shape[0]])
            diagonal_T = logits_TN.diagonal(self.first_column + start)
            positive_T = diagonal_T.clone()
            diagonal_T.fill_(-math.inf)
            if self.caption_ids_N is not None:
                own_T = self.caption_ids_N[self.first_column + start :][: image_TD.shape[0]]
                logits_TN.masked_fill_(own_T[:, None] == self.caption_ids_N[None, :], -math.inf)
            yield rows, logits_TN, positive_T

    def scratch(self) -> Tensor:
        """An uninitialised buffer for the largest tile."""
        return self.text_ND.new_empty(min(self.chunk_size, self.image_PD.shape[0]), self.text_ND.shape[0])


def _sums_of_tile(logits_TN: Tensor, beta: float, dim: int, scratch_TN: Tensor) -> NegativeSums:
    peak = logits_TN.amax(dim).clamp_min_(torch.finfo(logits_TN.dtype).min)

    def total(power: float) -> Tensor:
        # Finite even where there are no negatives: infinity less infinity would be NaN.
        offset = (-power * peak).clamp_max_(torch.finfo(peak.dtype).max)
        return torch.add(offset.unsqueeze(dim), logits_TN, alpha=power, out=scratch_TN).exp_().sum(dim)

    return NegativeSums(peak, total(1 + beta), total(beta) if beta else torch.zeros_like(peak))


def _rebase(sums: NegativeSums, peak: Tensor, beta: float) -> NegativeSums:
    drop = sums.peak - peak
    return NegativeSums(peak, sums.hard * ((1 + beta) * drop).exp(), sums.weight * (beta * drop).exp())


def _merge(left: NegativeSums, right: NegativeSums, beta: float) -> NegativeSums:
    peak = torch.maximum(left.peak, right.peak)
    left, right = _rebase(left, peak, beta), _rebase(right, peak, beta)
    return NegativeSums(peak, left.hard + right.hard, left.weight + right.weight)


def _merge_ranks(sums: NegativeSums, beta: float, group: dist.ProcessGroup | None) -> NegativeSums:
    sums = _rebase(sums, reduce_(sums.peak.clone(), dist.ReduceOp.MAX, group), beta)
    hard, weight = reduce_(torch.stack([sums.hard, sums.weight]), dist.ReduceOp.SUM, group)
    return NegativeSums(sums.peak, hard, weight)


def _sums_of_rows_and_columns(tiles: _Tiles, beta: float) -> tuple[NegativeSums, NegativeSums, Tensor]:
    """One pass over the tiles: the sums of this rank's rows, its share of all columns' sums, its positives."""
    scratch_TN = tiles.scratch()
    empty_N = tiles.text_ND.new_zeros(tiles.text_ND.shape[0])
    columns = NegativeSums(torch.full_like(empty_N, torch.finfo(empty_N.dtype).min), empty_N, empty_N)
    none = tiles.text_ND.new_empty(0)
    rows, positives = [NegativeSums(none, none, none)], [none]  # of a rank without pairs
    for _, logits_TN, positive_T in tiles:
        tile_scratch_TN = scratch_TN[: logits_TN.shape[0]]
        rows.append(_sums_of_tile(logits_TN, beta, 1, tile_scratch_TN))
        columns = _merge(columns, _sums_of_tile(logits_TN, beta, 0, tile_scratch_TN), beta)
        positives.append(positive_T)
    return NegativeSums(*(torch.cat(parts) for parts in zip(*rows, strict=True))), columns, torch.cat(positives)


def _terms(sums: NegativeSums, positive: Tensor, num_negatives: Tensor, settings: HnNceSettings) -> PairTerms:
    """Close the sums of rows or columns into losses and gradient coefficients.

    A pair without negatives (all others carry its caption) has loss and gradient 0.
    """
    beta, log_alpha = settings.beta, math.log(settings.alpha) if settings.alpha else -math.inf
    some = num_negatives > 0
    peak, hard = torch.where(some, sums.peak, 0.0), torch.where(some, sums.hard, 1.0)
    weight = torch.where(some, sums.weight, 1.0) if beta else torch.ones_like(hard)
    log_mass = peak + hard.log() - weight.log()
    if beta:
        log_mass = log_mass + num_negatives.clamp_min(1).log()
    margin = log_mass - positive
    loss = torch.logaddexp(margin, torch.full_like(margin, log_alpha))
    share = torch.where(some, torch.sigmoid(margin - log_alpha), 0.0)
    hard_factor, weight_factor = (1 + beta, beta) if settings.weights_have_gradient else (1.0, 0.0)
    return PairTerms(
        loss=torch.where(some, loss, 0.0),
        log_hard=(hard_factor * share / hard).log() - (1 + beta) * peak,
        log_weight=(weight_factor * share / weight).log() - beta * peak,
        negative_share=share,
    )


def _count_negatives(caption_ids_N: Tensor | None, like_N: Tensor) -> Tensor:
    """How many pairs of the global batch may serve pair i as negatives: all others, less those of the same caption."""
    if caption_ids_N is None:
        return torch.full_like(like_N, like_N.shape[0] - 1)
    return like_N.shape[0] - pairs_of_caption(caption_ids_N).to(like_N.dtype)


def pairs_of_caption(caption_ids_N: Tensor) -> Tensor:
    """How many pairs of the global batch have each pair's caption, itself counted; [N], integers.

    By places in the sorted captions: `unique` would have the host wait for the device, to know how many there are.
    """
    sorted_N = caption_ids_N.sort().values
    after_N, before_N = (torch.searchsorted(sorted_N, caption_ids_N, right=right) for right in (True, False))
    return after_N - before_N


def _statistics(
    rows: NegativeSums, columns: NegativeSums, positive: Tensor, num_negatives: Tensor, beta: float
) -> Tensor:
    """Means over pairs (top-1 image to text, top-1 text to image, weight of the hardest negative):
    `losses.HnNceStatistics`.
    """
    hardest = [num_negatives / sums.weight if beta else torch.ones_like(positive) for sums in (rows, columns)]
    hardest_weight = torch.stack(hardest).nan_to_num_(nan=0.0).mean()
    tops = [(positive > sums.peak).to(positive.dtype).mean() for sums in (rows, columns)]
    return torch.stack([*tops, hardest_weight])


def _tile_gradient(
    logits_TN: Tensor,
    rows: PairTerms,
    columns: PairTerms,
    diagonal: int,
    settings: HnNceSettings,
    buffers: tuple[Tensor, Tensor],
) -> Tensor:
    """The gradient of the summed losses of both directions with respect to one tile's logits, in the first buffer."""
    beta = settings.beta
    gradient_TN, scratch_TN = (buffer[: logits_TN.shape[0]] for buffer in buffers)
    torch.add(rows.log_hard[:, None], logits_TN, alpha=1 + beta, out=gradient_TN).exp_()
    gradient_TN += torch.add(columns.log_hard, logits_TN, alpha=1 + beta, out=scratch_TN).exp_()
    if settings.weights_have_gradient:
        gradient_TN -= torch.add(rows.log_weight[:, None], logits_TN, alpha=beta, out=scratch_TN).exp_()
        gradient_TN -= torch.add(columns.log_weight, logits_TN, alpha=beta, out=scratch_TN).exp_()
    own_columns = slice(diagonal, diagonal + logits_TN.shape[0])
    gradient_TN.diagonal(diagonal).copy_(-rows.negative_share - columns.negative_share[own_columns])
    return gradient_TN


def _gradients(
    tiles: _Tiles, row_terms: PairTerms, column_terms: PairTerms, settings: HnNceSettings, needs_text: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Second pass: gradients of the summed losses for the scaled features (image side, text side) and for the scale."""
    buffers = (tiles.scratch(), tiles.scratch())
    image_gradient_PD = torch.empty_like(tiles.image_PD)
    text_gradient_ND = torch.zeros_like(tiles.text_ND) if needs_text else None
    scale_gradient = torch.zeros_like(tiles.scale)
    for rows, logits_TN, _ in tiles:
        terms = PairTerms(*(term[rows] for term in row_terms))
        diagonal = tiles.first_column + rows.start
        gradient_TN = _tile_gradient(logits_TN, terms, column_terms, diagonal, settings, buffers)
        image_TD, image_gradient_TD = tiles.image_PD[rows], image_gradient_PD[rows]
        torch.mm(gradient_TN, tiles.text_ND, out=image_gradient_TD)
        scale_gradient += torch.sum(
            image_gradient_TD * image_TD
        )  # = sum of gradient x cosine: no third pass over the tile
        if text_gradient_ND is not None:
            text_gradient_ND.addmm_(gradient_TN.T, image_TD)
    return image_gradient_PD, text_gradient_ND, scale_gradient


class HnNce(torch.autograd.Function):
    """(image_BD, text_BD, scale, caption_ids_B or None, settings) -> (loss, statistics).

    The loss is that of the global batch, on every rank. Each rank's gradients carry a factor of the number of ranks, so
    that the average over ranks that DDP and DeepSpeed take is the global gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image_BD: Tensor,
        text_BD: Tensor,
        scale: Tensor,
        caption_ids_B: Tensor | None,
        settings: HnNceSettings,
    ) -> tuple[Tensor, Tensor]:
        """Run the first pass and keep features and O(N) vectors for the second."""
        ctx.settings, ctx.dtypes = settings, (image_BD.dtype, text_BD.dtype, scale.dtype, scale.shape)
        dtype = torch.float64 if torch.float64 in (image_BD.dtype, text_BD.dtype) else torch.float32
        ctx.rows = image_BD.shape[0]
        image_PD, text_ND, ids_N, ctx.first = pairs_of_ranks(image_BD, text_BD, caption_ids_B, settings)
        image_PD, text_ND, scale = image_PD.to(dtype), text_ND.to(dtype), scale.to(dtype).reshape(())
        tiles = _Tiles(image_PD, text_ND, scale, ctx.first, settings.chunk_size, ids_N)
        loss, statistics, row_terms, column_terms = _first_pass(tiles, ctx.rows, settings)
        ctx.save_for_backward(tiles.image_PD, text_ND, tiles.scale, ids_N, *row_terms, *column_terms)
        ctx.mark_non_differentiable(statistics)
        return loss, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the second pass; the text side's gradient is summed over the ranks that used it."""
        image_PD, text_ND, scale, ids_N, *terms = ctx.saved_tensors
        settings, (image_dtype, text_dtype, scale_dtype, scale_shape) = ctx.settings, ctx.dtypes
        row_terms, column_terms = PairTerms(*terms[: len(terms) // 2]), PairTerms(*terms[len(terms) // 2 :])
        tiles = _Tiles(image_PD, text_ND, scale, ctx.first, settings.chunk_size, ids_N)
        image, text, of_scale = _gradients(tiles, row_terms, column_terms, settings, ctx.needs_input_grad[1])
        # 1 / (2 N) for the mean, times the ranks for the average that will be taken over them.
        ranks = group_size(settings.group)
        mean = loss_gradient.to(scale.dtype) / (2 * (text_ND.shape[0] / ranks))
        image = filled_up(image.mul_(mean * scale), ctx.rows)
        if text is not None:
            text = filled_up(text.mul_(mean * scale), ctx.rows * ranks)
            text = scatter_row_sums(text, settings.group).to(text_dtype)
        return image.to(image_dtype), text, (of_scale * mean).to(scale_dtype).reshape(scale_shape), None, None


def pairs_of_ranks(
    image_BD: Tensor, text_BD: Tensor, caption_ids_B: Tensor | None, settings: HnNceSettings
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """This rank's images of pairs, the texts and caption ids of all ranks' pairs, and the number of this rank's first
    pair.
    """
    first = group_rank(settings.group) * image_BD.shape[0]
    text_ND = gather_rows(text_BD, settings.group)[: settings.num_pairs]
    ids_N = None if caption_ids_B is None else gather_rows(caption_ids_B, settings.group)[: settings.num_pairs]
    return image_BD[: max(0, text_ND.shape[0] - first)], text_ND, ids_N, first


def filled_up(pairs: Tensor, rows: int) -> Tensor:
    """The rows of pairs with zeros for the surplus ones behind them; (pairs, ...) to (rows, ...)."""
    surplus = rows - pairs.shape[0]
    return torch.cat([pairs, pairs.new_zeros(surplus, *pairs.shape[1:])]) if surplus else pairs


def _first_pass(tiles: _Tiles, num_rows: int, settings: HnNceSettings) -> tuple[Tensor, Tensor, PairTerms, PairTerms]:
    """(loss, statistics, terms of this rank's rows, terms of all columns); `num_rows` of each rank, surplus ones
    included.
    """
    rows, columns, positive_P = _sums_of_rows_and_columns(tiles, settings.beta)
    columns = _merge_ranks(columns, settings.beta, settings.group)
    positive_N = gather_rows(filled_up(positive_P, num_rows), settings.group)[: settings.num_pairs]
    num_negatives_N, own = _count_negatives(tiles.caption_ids_N, positive_N), tiles.own
    row_terms = _terms(rows, positive_P, num_negatives_N[own], settings)
    column_terms = _terms(columns, positive_N, num_negatives_N, settings)

    own_columns = NegativeSums(*(part[own] for part in columns))
    statistics = _statistics(rows, own_columns, positive_P, num_negatives_N[own], settings.beta)
    loss = (row_terms.loss.mean() + column_terms.loss[own].mean()) / 2
    means = _weighted(torch.cat([loss[None], statistics]), positive_P.shape[0], positive_N.shape[0], settings.group)
    means = reduce_(means, dist.ReduceOp.SUM, settings.group) / group_size(settings.group)
    return means[0], means[1:], row_terms, column_terms


def _weighted(means: Tensor, pairs: int, num_pairs: int, group: dist.ProcessGroup | None) -> Tensor:
    """A rank's means over its pairs, to be averaged over ranks with unequally many of all `num_pairs`."""
    if not pairs:
        return torch.zeros_like(means)  # the means of nothing are NaN
    return means * (pairs * group_size(group) / num_pairs)
