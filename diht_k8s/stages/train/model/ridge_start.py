"""A text tower that starts as a ridge regression from words to the features of a locked image tower
(`train.textStart`).

In: the regression (`token_ridge`). Out: the weights of a CLIP whose text embedding of a caption is the regression's
    prediction,
and whose image embedding is the whitened features. Pure. Ours, not the paper's.

Attention of the first layer is uniform (queries zero), its values and output projection are the identity, so at the end
token stands the mean of the words' normalised embeddings. An embedding is a word's row of the regression in a basis
whose vectors sum to zero, and two numbers +c and -c with which all embeddings have one length: LayerNorm then is one
factor for all words, and the normalisation of the embedding takes it away. All other branches end in zeros; the weights
before these stay as drawn, and so do the keys, so that everything can learn.

Shapes: V tokens that occur, D embedding, W width of the text tower.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from torch import Tensor

from diht_k8s.stages.train.model.token_ridge import Matrix, TokenRidge

WORDS_SHARE: Final = 0.5
"""Of an embedding's squared length, the part of the longest word's row; the rest are the two constants."""
EMBEDDING_DEVIATION: Final = 0.02
"""Of an embedding's numbers, as open_clip draws them."""


@torch.no_grad()
def start_as_ridge(clip: CLIP, start: TokenRidge) -> None:
    """Have a CLIP with its first weights give the regression's embeddings.

    Args:
        clip: with a linear projection behind its image tower, and a text tower at least D + 3 wide (`ridge_problem`).
        start: the regression.
    """
    text: Any = clip
    words, width = text.token_embedding.weight, text.token_embedding.embedding_dim
    basis_XD = _zero_sum_basis(width - 2, len(start.projection_DF))
    words.copy_(_embeddings(start.words_VD @ basis_XD.T, start.tokens_V, len(words)))
    text.positional_embedding.zero_()
    for number, block in enumerate(text.transformer.resblocks):
        _start_block(block, averages=number == 0)
    text.text_projection.zero_()
    text.text_projection[: width - 2].copy_(torch.from_numpy(basis_XD))
    projection = text.visual.head.proj
    scale = math.sqrt(projection.weight.square().mean() / (start.projection_DF**2).mean())  # numbers as large as drawn
    projection.weight.copy_(torch.from_numpy(start.projection_DF * scale))
    if start.bias_D is not None:
        projection.bias.copy_(torch.from_numpy(start.bias_D * scale))


def _zero_sum_basis(length: int, number: int) -> Matrix:
    """Orthonormal vectors that sum to zero: the cosines of the discrete cosine transform but the constant one."""
    places_X, waves_D = np.arange(length) + 0.5, np.arange(1, number + 1)
    return np.sqrt(2 / length) * np.cos(np.pi / length * np.outer(places_X, waves_D))


def _embeddings(rows_VX: Matrix, tokens_V: NDArray[np.int64], vocabulary: int) -> Tensor:
    """All tokens' embeddings, of one length: words with their rows, the others with the two constants alone."""
    width = rows_VX.shape[1] + 2
    squared = width * EMBEDDING_DEVIATION**2
    longest = max(float((rows_VX**2).sum(axis=1).max(initial=0)), 1e-24)
    rows_VX = rows_VX * math.sqrt(WORDS_SHARE * squared / longest)
    constants = np.full(vocabulary, math.sqrt(squared / 2))
    constants[tokens_V] = np.sqrt((squared - (rows_VX**2).sum(axis=1)) / 2)
    found = np.zeros((vocabulary, width), np.float32)
    found[tokens_V, : width - 2] = rows_VX
    found[:, width - 2], found[:, width - 1] = constants, -constants
    return torch.from_numpy(found)


def _start_block(block: Any, *, averages: bool) -> None:
    """A layer that adds the mean of the tokens before each and itself, or nothing."""
    width = block.attn.embed_dim
    if averages:
        query, _, value = block.attn.in_proj_weight.view(3, width, width)
        query.zero_()
        torch.nn.init.eye_(value)
        torch.nn.init.eye_(block.attn.out_proj.weight)
    else:
        block.attn.out_proj.weight.zero_()
    block.mlp.c_proj.weight.zero_()
    for bias in (block.attn.in_proj_bias, block.attn.out_proj.bias, block.mlp.c_proj.bias):
        bias.zero_()
