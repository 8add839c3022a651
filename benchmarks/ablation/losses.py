"""Contrastive losses that only the ablation uses, by autograd.

Shapes: B pairs of a batch, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wrong_normaliser_loss(
    image_BD: Tensor, text_BD: Tensor, scale: Tensor, beta: float, caption_ids_B: Tensor
) -> Tensor:
    """HN-NCE as several public codes have it: image i's weights are divided by the normaliser of image j.

    They sum the weights of each row without keeping the dimension, so that the division runs along the wrong one. The other direction is
    right. Computed in log space, so that nothing else differs.
    """
    logits_BB, negative_BB = _logits(image_BD, text_BD, scale, caption_ids_B)
    tilted_BB = (beta * logits_BB).masked_fill(~negative_BB, -math.inf)
    log_count_B = negative_BB.sum(dim=1).clamp(min=1).to(logits_BB.dtype).log()
    positive_B = logits_BB.diagonal()
    losses = []
    for normaliser_BB in (tilted_BB.logsumexp(1)[None, :], tilted_BB.logsumexp(0)[None, :]):
        log_weight_BB = log_count_B[None, :] + tilted_BB - normaliser_BB
        log_mass_BB = (log_weight_BB + logits_BB).masked_fill(~negative_BB, -math.inf)
        dim = 1 if not losses else 0
        log_mass_B = log_mass_BB.logsumexp(dim)
        losses.append((torch.logaddexp(positive_B, log_mass_B) - positive_B).mean())
    return (losses[0] + losses[1]) / 2


def smoothed_loss(image_BD: Tensor, text_BD: Tensor, scale: Tensor, smoothing: float, caption_ids_B: Tensor) -> Tensor:
    """CLIP's loss with targets of 1 - smoothing on the pair and the rest spread over its negatives."""
    logits_BB, negative_BB = _logits(image_BD, text_BD, scale, caption_ids_B)
    pair_BB = torch.eye(len(logits_BB), dtype=torch.bool)
    logits_BB = logits_BB.masked_fill(~(negative_BB | pair_BB), -math.inf)
    losses = []
    for side_BB in (logits_BB, logits_BB.T):
        log_share_BB = side_BB.log_softmax(1)
        spread_B = torch.where(negative_BB, log_share_BB, 0.0).sum(1) / negative_BB.sum(1).clamp(min=1)
        losses.append(-((1 - smoothing) * log_share_BB.diagonal() + smoothing * spread_B).mean())
    return (losses[0] + losses[1]) / 2


def _logits(image_BD: Tensor, text_BD: Tensor, scale: Tensor, caption_ids_B: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled logits, and which pairs are negatives of each other: those with another caption."""
    return scale * image_BD @ text_BD.T, caption_ids_B[:, None] != caption_ids_B[None, :]
