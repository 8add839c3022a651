"""HN-NCE on a card: the loss, gradients and statistics of `hn_nce` by `hn_nce_kernels`, a pass at a time instead of a
tile.

In, out and the exchange between ranks are those of `hn_nce.HnNce`. A logit lives in the registers of one program: the
first pass writes sums of rows and columns, the second one recomputes the logits once for the image side and once for
the text side. A step takes 11 to 13 kernels and O(N (D + B / 128)) memory. Sums have a fixed order, so results are the
same each time.
"""

from __future__ import annotations

# Parameters that are constexpr take plain numbers.
# pyright: reportArgumentType=false
import math
from typing import Any

import torch
import torch.distributed as dist
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.tools.tensor_descriptor import TensorDescriptor

from diht_k8s.stages.train.collectives import gather_rows, group_size, reduce_, scatter_row_sums
from diht_k8s.stages.train.loss import hn_nce_kernels as kernels
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings, filled_up, pairs_of_ranks
from diht_k8s.stages.train.loss.losses import VECTOR, LossBlocks, LossPlan

# Shape legend: B rows of this rank, P pairs among them, N pairs of all ranks, D feature width, S the width in multiples
# of 8, 2 the high and the low half of each feature.


@torch.compiler.disable  # torch.compile would trace into Triton's launcher, and fails there
def fused_hn_nce(
    image_BD: Tensor,
    text_BD: Tensor,
    scale: Tensor,
    caption_ids_B: Tensor | None,
    settings: HnNceSettings,
    plan: LossPlan,
) -> tuple[Tensor, Tensor]:
    """(loss, statistics) of features on any card of this process, the current one or not."""
    with torch.cuda.device_of(image_BD):  # Triton launches on the current card
        return FusedHnNce.apply(image_BD, text_BD, scale, caption_ids_B, settings, plan)  # type: ignore[return-value]


class FusedHnNce(torch.autograd.Function):
    """(image_BD, text_BD, scale, caption_ids_B or None, settings, plan) -> (loss, statistics), as `hn_nce.HnNce`; fp32
    at most.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image_BD: Tensor,
        text_BD: Tensor,
        scale: Tensor,
        caption_ids_B: Tensor | None,
        settings: HnNceSettings,
        plan: LossPlan,
    ) -> tuple[Tensor, Tensor]:
        """Run the first pass; keep features and O(N) vectors for the second."""
        ctx.settings, ctx.plan = settings, plan
        ctx.dtypes = (image_BD.dtype, text_BD.dtype, scale.dtype, scale.shape)
        image_PD, text_ND, ids_N, ctx.first = pairs_of_ranks(image_BD, text_BD, caption_ids_B, settings)
        ids_N = None if ids_N is None else ids_N.contiguous()
        ctx.rows, ctx.shape = image_BD.shape[0], (image_PD.shape[0], *text_ND.shape)
        images_2PS, texts_2NS = _halves(image_PD), _halves(text_ND)
        scale = scale.to(image_BD.device, torch.float32).reshape(())
        means, *terms = _first_pass(images_2PS, texts_2NS, scale, ids_N, ctx)
        ctx.save_for_backward(images_2PS, texts_2NS, scale, ids_N, *terms)
        loss, statistics = means[0], means[1:]
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)  # no zeros for the statistics
        return loss, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the second pass for each side that wants it; the text side's gradient is summed over the ranks that used
        it.
        """
        image_dtype, text_dtype, scale_dtype, scale_shape = ctx.dtypes
        needs_image, needs_text, needs_scale = ctx.needs_input_grad[:3]
        image, text, of_scale = None, None, None
        if needs_image or not needs_text:
            image, of_scale = _second_pass(ctx, loss_gradient, of_images=True, of_scale=needs_scale)
            image = filled_up(image, ctx.rows).to(image_dtype)
        if needs_text:
            text, of_scale_by_texts = _second_pass(
                ctx, loss_gradient, of_images=False, of_scale=needs_scale and of_scale is None
            )
            text = filled_up(text, ctx.rows * group_size(ctx.settings.group))
            text = scatter_row_sums(text, ctx.settings.group).to(text_dtype)
            of_scale = of_scale_by_texts if of_scale is None else of_scale
        if of_scale is not None:
            of_scale = of_scale.to(scale_dtype).reshape(scale_shape)
        return image, text, of_scale, None, None, None


def _halves(feature_RD: Tensor) -> Tensor:
    """The high and the low halves, [2, R, S]; of no rows zeros of one row, which no kernel counts."""
    rows, width = feature_RD.shape
    stride = math.ceil(width / 8) * 8  # 16 bytes, as descriptors want
    if not rows:
        return torch.zeros(2, 1, stride, dtype=torch.float16, device=feature_RD.device)
    halves_2RS = torch.empty(2, rows, stride, dtype=torch.float16, device=feature_RD.device)
    kernels.split[_grid(rows * stride)](feature_RD.contiguous(), halves_2RS, rows, width, stride, VECTOR)
    return halves_2RS


def _grid(numbers: int) -> tuple[int]:
    return (max(1, math.ceil(numbers / VECTOR)),)


def _blocks_of(halves_2RS: Tensor, rows: int, plan: LossPlan, blocks: LossBlocks) -> Tensor | TensorDescriptor:
    """How a kernel gets at the halves, `rows` at a time."""
    if not plan.described:
        return halves_2RS
    return TensorDescriptor.from_tensor(halves_2RS, [1, rows, blocks.depth])


def _first_pass(
    images_2PS: Tensor, texts_2NS: Tensor, scale: Tensor, ids_N: Tensor | None, ctx: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(means over all pairs, terms of this rank's rows, terms of all columns, the most of each block of rows, of
    columns).
    """
    settings, plan, (images, texts, _) = ctx.settings, ctx.plan, ctx.shape
    blocks, beta, group, new = plan.first, settings.beta, settings.group, scale.new_empty
    constants = {"WEIGHTED": beta > 0, "MASKED": ids_N is not None}
    row_blocks, shares = blocks.row_blocks(images), blocks.shares(images, texts, plan.processors)
    row_sums, column_parts, pairs_B2 = new(shares, 4, images), new(row_blocks, 3, texts), new(ctx.rows, 2)
    kernels.first_pass[(row_blocks, shares)](
        _blocks_of(images_2PS, blocks.rows, plan, blocks),
        _blocks_of(texts_2NS, blocks.columns, plan, blocks),
        scale,
        ids_N,
        row_sums,
        column_parts,
        pairs_B2,
        ctx.first,
        images,
        texts,
        shares,
        beta,
        STRIDE=images_2PS.shape[2],
        **constants,
        **_sizes(blocks, plan),
    )

    column_sums = new(1, 3, texts)
    reduce_(torch.amax(column_parts[:, 0], 0, out=column_sums[0, 0]), dist.ReduceOp.MAX, group)
    kernels.rebase[_grid(texts)](column_parts, column_sums, texts, row_blocks, beta, VECTOR)
    reduce_(column_sums[0, 1:], dist.ReduceOp.SUM, group)

    log_alpha = math.log(settings.alpha) if settings.alpha else -math.inf
    factors = (1 + beta, beta) if settings.weights_have_gradient else (1.0, 0.0)
    row_terms, column_terms = new(kernels.NUM_TERMS, images), new(kernels.NUM_TERMS, texts)
    row_most, column_most = new(_grid(images)), new(_grid(texts))
    kernels.terms[_grid(images)](
        row_sums,
        pairs_B2,
        row_terms,
        row_most,
        images,
        shares,
        texts,
        beta,
        log_alpha,
        *factors,
        **constants,
        OF_ROWS=True,
        BLOCK=VECTOR,
    )
    kernels.terms[_grid(texts)](
        column_sums,
        gather_rows(pairs_B2, group),
        column_terms,
        column_most,
        texts,
        1,
        texts,
        beta,
        log_alpha,
        *factors,
        **constants,
        OF_ROWS=False,
        BLOCK=VECTOR,
    )
    means = new(4)
    kernels.means[(1,)](row_terms, column_terms, means, ctx.first, images, texts, VECTOR)
    return reduce_(means, dist.ReduceOp.SUM, group), row_terms, column_terms, row_most, column_most


def _sizes(blocks: LossBlocks, plan: LossPlan) -> dict[str, Any]:
    return {
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "DEPTH": blocks.depth,
        "DESCRIBED": plan.described,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def _second_pass(ctx: Any, loss_gradient: Tensor, *, of_images: bool, of_scale: bool) -> tuple[Tensor, Tensor | None]:
    """The gradient of one side's features, and that of the scale if it is asked for."""
    images_2PS, texts_2NS, scale, ids_N, row_terms, column_terms, row_most, column_most = ctx.saved_tensors
    settings, plan, (images, texts, width) = ctx.settings, ctx.plan, ctx.shape
    blocks, beta = plan.second, settings.beta
    sides = [(images_2PS, row_terms, row_most, ctx.first, images), (texts_2NS, column_terms, column_most, 0, texts)]
    (rows_2RS, row_terms, _, first_row, rows), (columns_2CS, column_terms, most, first_column, columns) = (
        sides if of_images else sides[::-1]
    )
    parts, chunks = blocks.parts(width)
    row_blocks, shares = blocks.row_blocks(rows), blocks.shares(rows, columns, plan.processors, parts)
    gradients = scale.new_empty(shares, rows, width)
    scale_gradients = scale.new_empty(row_blocks, shares) if of_scale else None
    # 1 / (2 N) for the mean, times the ranks for the average that will be taken over them.
    mean = group_size(settings.group) / (2 * texts)
    kernels.second_pass[(row_blocks, shares, parts)](
        _blocks_of(rows_2RS, blocks.rows, plan, blocks),
        _blocks_of(columns_2CS, blocks.columns, plan, blocks),
        scale,
        ids_N,
        row_terms,
        column_terms,
        most,
        loss_gradient,
        gradients,
        scale_gradients,
        first_row,
        first_column,
        rows,
        columns,
        shares,
        beta,
        mean,
        len(most),
        WIDTH=width,
        STRIDE=rows_2RS.shape[2],
        WEIGHTED=settings.weights_have_gradient,
        MASKED=ids_N is not None,
        OF_SCALE=of_scale,
        CHUNKS=chunks,
        MOST=triton.next_power_of_2(len(most)),
        **_sizes(blocks, plan),
    )
    return gradients.sum(0) if shares > 1 else gradients[0], None if scale_gradients is None else scale_gradients.sum()
