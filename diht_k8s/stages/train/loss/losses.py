"""The losses of the DiHT recipe (arXiv 2301.02280): HN-NCE (contrastive) and concept distillation (concept heads).

In: features or logits of this rank's batch. Out: scalars whose gradients, averaged over the ranks as DDP and DeepSpeed
do, are those of the global batch. The closed-form core of the contrastive loss is in `hn_nce`, and for cards in
`hn_nce_fused`; here are its checks, the public signatures, and `plan_for`: the block sizes and grids of the fused
kernels by kind of card, which need no Triton. A program of the first pass owns some image rows and a share of the
captions. A program of the second pass owns some rows of one side, all or a share of the other side, and a part of the
width, whose gradient it holds in registers.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from math import ceil
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from diht_k8s.stages.train.collectives import gather_rows, group_size, reduce_, require_equal_shapes
from diht_k8s.stages.train.compiler import missing_compiler
from diht_k8s.stages.train.loss.hn_nce import HnNce, HnNceSettings, pairs_of_caption

__all__ = [
    "HnNceStatistics",
    "clamped_logit_scale",
    "duplicate_share",
    "hn_nce_loss",
    "hn_nce_loss_and_statistics",
    "soft_label_loss",
]

# Shape legend: B rows of this rank, D feature width, C concepts of a vocabulary, K stored soft labels per image.

MAX_LOGIT_SCALE = 100.0
"""CLIP's bound on the inverse temperature."""


class HnNceStatistics(NamedTuple):
    """How hard the global batch's negatives are; 0-d tensors without gradient, equal on all ranks."""

    image_to_text_top1: Tensor
    """Share of images whose own caption scores above every negative."""
    text_to_image_top1: Tensor
    """Share of captions whose own image scores above every negative."""
    hardest_weight: Tensor
    """Weight of the hardest negative, mean over pairs and directions: 1 = all alike, n - 1 = it alone counts."""


def hn_nce_loss(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor | float,
    *,
    alpha: float = 1.0,
    beta: float = 0.25,
    differentiate_weights: bool = True,
    chunk_size: int = 256,
    group: dist.ProcessGroup | None = None,
    caption_ids_B: Tensor | None = None,
    num_pairs: int | None = None,
) -> Tensor:
    """Hard-negative noise-contrastive loss (DiHT, section 3.3), exact, in log space, without the batch x batch matrix.

    The mean over pairs and both directions, so that alpha = 1 and beta = 0 give CLIP's loss; the paper sums the
    directions.

    Args:
        image_features_BD: this rank's image features, L2-normalised; bf16, fp16, fp32 (computed in fp32) or fp64. Row i
            pairs with row i of the texts. The fused kernels count on unit length: they make the loss NaN where a number
            reaches 256, and lose digits of features that are shorter than about 1e-2.
        text_features_BD: this rank's text features, same shape.
        logit_scale: inverse temperature, not its logarithm; a scalar. See `clamped_logit_scale`.
        alpha: weight of the positive in the denominator, 0 to 1 (0: decoupled).
        beta: concentration on hard negatives, >= 0, on scaled logits. 0.25 is the paper's for noisy web data as far as
            we know.
        differentiate_weights: whether the gradient flows through the weights, which the paper leaves open (our choice:
            yes).
        chunk_size: image rows held against all texts at a time; changes memory and speed, not the result. The fused
            kernels of cards have blocks of their own.
        group: the ranks that share the global batch; None: the batch as given is global.
        caption_ids_B: integers that are equal where captions are; pairs with another pair's caption are then no
            negatives of it, and a pair without any negative adds 0 (our choice: the paper does not mask).
        num_pairs: pairs of the global batch, the first of all ranks' rows in rank order; the rows after them are
            surplus: no anchors, no negatives, gradient 0. None: each row holds a pair.

    Returns:
        The 0-d loss of the global batch, equal on all ranks, in fp32 (fp64 for fp64 features). Once differentiable.

    Raises:
        ValueError: shapes or settings out of range, batches that differ between ranks, or fewer than two pairs in the
            global batch.
    """
    settings = HnNceSettings(
        alpha=alpha,
        beta=beta,
        differentiate_weights=differentiate_weights,
        chunk_size=chunk_size,
        group=group,
        num_pairs=num_pairs,
    )
    return _hn_nce(image_features_BD, text_features_BD, logit_scale, settings, caption_ids_B)[0]


def hn_nce_loss_and_statistics(
    image_features_BD: Tensor,
    text_features_BD: Tensor,
    logit_scale: Tensor | float,
    settings: HnNceSettings,
    caption_ids_B: Tensor | None = None,
) -> tuple[Tensor, HnNceStatistics]:
    """`hn_nce_loss` with what its first pass knows about the negatives at no further cost."""
    loss, statistics = _hn_nce(image_features_BD, text_features_BD, logit_scale, settings, caption_ids_B)
    return loss, HnNceStatistics(*statistics.unbind())


def _hn_nce(
    image_BD: Tensor, text_BD: Tensor, scale: Tensor | float, settings: HnNceSettings, ids_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    _check_settings(settings)
    scale = torch.as_tensor(scale, dtype=None if isinstance(scale, Tensor) else torch.float64, device=image_BD.device)
    _check_features(image_BD, text_BD, scale, ids_B)
    require_equal_shapes(image_BD, settings.group)
    num_rows = image_BD.shape[0] * group_size(settings.group)
    num_pairs = num_rows if settings.num_pairs is None else settings.num_pairs
    if num_pairs > num_rows:
        raise ValueError(f"num_pairs is {num_pairs}: the ranks hold {num_rows} rows")
    if num_pairs < 2:
        raise ValueError(f"the global batch has {num_pairs} pair(s): a contrastive loss needs at least 2")
    plan = fused_plan(image_BD, text_BD)
    if plan is not None:
        from diht_k8s.stages.train.loss.hn_nce_fused import fused_hn_nce  # imports Triton

        return fused_hn_nce(image_BD, text_BD, scale, ids_B, settings, plan)  # pyright: ignore[reportCallIssue]
    return HnNce.apply(image_BD, text_BD, scale, ids_B, settings)  # type: ignore[return-value]  # apply is untyped


def fused_plan(image_BD: Tensor, text_BD: Tensor) -> LossPlan | None:
    """The plan of the fused kernels for features on a card; None where the tiles in plain torch serve: without a card
    that has them, in fp64, or without what Triton needs.
    """
    if not image_BD.is_cuda or torch.version.cuda is None or torch.float64 in (image_BD.dtype, text_BD.dtype):
        return None
    return _plan_of_card(image_BD.device)


@functools.cache
def _plan_of_card(device: torch.device) -> LossPlan | None:
    if missing_compiler("cuda") is not None:
        return None
    card = torch.cuda.get_device_properties(device)
    return plan_for((card.major, card.minor), card.multi_processor_count)


def _check_settings(settings: HnNceSettings) -> None:
    if not 0 <= settings.alpha <= 1:
        raise ValueError(f"alpha is {settings.alpha}: it must be between 0 and 1")
    if not 0 <= settings.beta < math.inf:
        raise ValueError(f"beta is {settings.beta}: it must be a finite number >= 0")
    if settings.chunk_size < 1:
        raise ValueError(f"chunk_size is {settings.chunk_size}: it must be at least 1")


def _check_features(image_BD: Tensor, text_BD: Tensor, scale: Tensor, ids_B: Tensor | None) -> None:
    shapes = f"image features {tuple(image_BD.shape)}, text features {tuple(text_BD.shape)}"
    if image_BD.dim() != 2 or image_BD.shape != text_BD.shape:
        raise ValueError(f"{shapes}: both must be (pairs, width), row i of one with row i of the other")
    if not (image_BD.is_floating_point() and text_BD.is_floating_point()):
        raise ValueError(f"features are {image_BD.dtype} and {text_BD.dtype}: both must be floating point")
    if scale.numel() != 1:
        raise ValueError(f"logit_scale has shape {tuple(scale.shape)}: it must be one number")
    if ids_B is not None and ids_B.shape != image_BD.shape[:1]:
        raise ValueError(
            f"caption_ids_B has shape {tuple(ids_B.shape)}: it must be ({image_BD.shape[0]},), one per pair"
        )


def duplicate_share(
    caption_ids_B: Tensor, group: dist.ProcessGroup | None = None, num_pairs: int | None = None
) -> Tensor:
    """Share of the global batch's pairs with a repeated caption: false negatives, which hard-negative weights raise.

    Args:
        caption_ids_B: integers that are equal where captions are.
        group: the ranks that share the global batch; None: the batch as given is global.
        num_pairs: pairs of the global batch, as in `hn_nce_loss`.

    Returns:
        A 0-d fp32 tensor, equal on all ranks.
    """
    return (pairs_of_caption(gather_rows(caption_ids_B, group)[:num_pairs]) > 1).float().mean()


class _RecoverableClamp(torch.autograd.Function):
    """Clamp; outside the range only a gradient that leads back inside passes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.range = (low, high)
        return value.clamp(low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (value,) = ctx.saved_tensors
        low, high = ctx.range
        outwards = ((value >= high) & (gradient < 0)) | (
            (value <= low) & (gradient > 0)
        )  # descent moves against the gradient
        return gradient.masked_fill(outwards, 0.0), None, None


def clamped_logit_scale(log_scale: Tensor, max_scale: float = MAX_LOGIT_SCALE) -> Tensor:
    """CLIP's learnable inverse temperature: exp of a parameter held in [0, log max_scale].

    open_clip overwrites the parameter after each step; under ZeRO the optimizer's own copy would bring the old value
    back. So the bound is part of the forward pass instead, and at the bound the gradient that leads inside still
    passes, so that the parameter never sticks.

    Args:
        log_scale: the parameter, a scalar; CLIP starts at log(1 / 0.07).
        max_scale: largest inverse temperature.

    Returns:
        The inverse temperature, in [1, max_scale].
    """
    clamped: Tensor = _RecoverableClamp.apply(log_scale, 0.0, math.log(max_scale))  # type: ignore[assignment]  # apply is untyped
    return clamped.exp()


def soft_label_loss(
    logits_BC: Tensor,
    ids_BK: Tensor,
    probabilities_BK: Tensor,
    mask_B: Tensor,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Concept distillation: cross-entropy against the teacher's stored top-k (DiHT, section 3.2), no dense targets.

    Per image: -sum_k p_k (logit_k - logsumexp(logits)), in fp32 (fp64 for fp64 logits). The mean is over the labelled
    images of all ranks, so that a rank with few of them does not over-weight them.

    Teachers that may say nothing (`label.minProbability`, ours) give rows of any sum: one above 1 is divided by it (a
    softmax has no more to give), one below 1 counts less, and an image of which the head says nothing is as one without
    labels.

    Args:
        logits_BC: the student head's outputs; any floating dtype.
        ids_BK: concept numbers of the stored labels; entries below 0 fill up short rows and count as probability 0.
        probabilities_BK: the teacher's probabilities of these; the paper's rows sum to 1.
        mask_B: true where an image has labels; other rows, such as surplus ones, add nothing, whatever their ids and
            probabilities hold.
        group: the ranks that share the global batch; None: the batch as given is global.

    Returns:
        A 0-d tensor: this rank's sum x ranks / labelled images of all ranks. Its mean over ranks is the global loss,
        and averaged gradients are the global gradient. 0 if no rank has labels.
    """
    if (
        ids_BK.shape != probabilities_BK.shape
        or ids_BK.shape[:1] != logits_BC.shape[:1]
        or mask_B.shape != logits_BC.shape[:1]
    ):
        raise ValueError(
            f"logits {tuple(logits_BC.shape)}, ids {tuple(ids_BK.shape)}, probabilities "
            f"{tuple(probabilities_BK.shape)}, "
            f"mask {tuple(mask_B.shape)}: they must be (B, C), (B, K), (B, K) and (B,)"
        )
    mask_B = mask_B.bool()
    logits_BC = logits_BC if logits_BC.dtype is torch.float64 else logits_BC.float()
    used_BK = mask_B[:, None] & (ids_BK >= 0)
    probabilities_BK = torch.where(used_BK, probabilities_BK.to(logits_BC.dtype), 0.0)
    ids_BK = torch.where(used_BK, ids_BK, 0).long()  # unlabelled rows may hold anything
    mass_B = probabilities_BK.sum(1)
    probabilities_BK = probabilities_BK / mass_B.clamp_min(1.0)[:, None]
    chosen_BK = logits_BC.gather(1, ids_BK)
    loss_B = (probabilities_BK * (logits_BC.logsumexp(1, keepdim=True) - chosen_BK)).sum(1)
    num_labelled = reduce_((mask_B & (mass_B > 0)).sum(dtype=torch.float32), dist.ReduceOp.SUM, group)
    return loss_B.sum() * group_size(group) / num_labelled.clamp_min(1.0)


VECTOR: Final = 1024
"""Numbers of a program of the kernels without products."""

# Shape legend: P pairs of this rank, N pairs of all ranks, D feature width.


@dataclass(frozen=True, slots=True)
class LossBlocks:
    """Sizes of one pass; powers of two, as Triton wants them."""

    rows: int
    """that a program owns."""
    columns: int
    """of the other side that it compares them with at a time."""
    depth: int
    """features that it loads of both at a time."""
    warps: int
    stages: int
    """blocks that are loaded ahead, the one in use included."""
    chunks: int = 0
    """of `depth` features, of which a program of the second pass holds the gradient at most."""

    def row_blocks(self, rows: int) -> int:
        """Programs along the rows; one where there are none, which writes the sums of nothing."""
        return max(1, ceil(rows / self.rows))

    def parts(self, width: int) -> tuple[int, int]:
        """(programs that share the gradient's width, chunks of each); each of them computes the logits again."""
        chunks = ceil(width / self.depth)
        parts = ceil(chunks / self.chunks)
        return parts, ceil(chunks / parts)

    def shares(self, rows: int, columns: int, processors: int, parts: int = 1) -> int:
        """Programs that share the columns of a row block, so that all processors of the card have one."""
        return max(1, min(processors // (self.row_blocks(rows) * parts), ceil(columns / self.columns)))


@dataclass(frozen=True, slots=True)
class LossPlan:
    """What the kernels of a card need to know of it."""

    first: LossBlocks
    second: LossBlocks
    processors: int
    """streaming multiprocessors."""
    described: bool
    """whether blocks are loaded by the tensor memory accelerator, from descriptors."""


def plan_for(capability: tuple[int, int], processors: int) -> LossPlan | None:
    """The plan for a card; None where the kernels do not run.

    The sizes fit each card's shared memory and registers, as compiled by Triton 3.7 (`benchmarks/loss_precision.py`);
    their speed was not measured.

    Args:
        capability: compute capability, (major, minor).
        processors: streaming multiprocessors.
    """
    if capability < (8, 0):
        return None
    if capability[0] == 9:  # H100, H200: 227 KiB
        return LossPlan(
            LossBlocks(128, 128, 64, 8, 3), LossBlocks(64, 64, 128, 8, 2, chunks=4), processors, described=True
        )
    if capability[0] == 10:  # B200: 227 KiB, and sums lie in 512 columns of tensor memory
        return LossPlan(
            LossBlocks(128, 128, 64, 8, 2), LossBlocks(64, 64, 128, 8, 2, chunks=2), processors, described=True
        )
    return LossPlan(
        LossBlocks(128, 128, 32, 8, 3), LossBlocks(64, 32, 64, 8, 2, chunks=4), processors, described=False
    )  # 99 KiB
