"""The start of a training's text tower as a ridge regression on its own pairs (`train.textStart: Ridge`).

In: stored features and captions of the first pairs of the training's order, which all processes read as they read
batches; the class names of a tower that brings its classifier. Out: the student's weights in rank 0, which solves
(`token_ridge`); DeepSpeed broadcasts them when it takes the model. The text embedding of a caption is then the
regression's prediction, and the image embedding the whitened features. Ours, not the paper's.

Attention of the first layer is uniform (queries zero), its values and output projection are the identity, so at the end
token stands the mean of the words' normalised embeddings. An embedding is a word's row of the regression in a basis
whose vectors sum to zero, and two numbers +c and -c with which all embeddings have one length: LayerNorm then is one
factor for all words, and the normalisation of the embedding takes it away. All other branches end in zeros; the weights
before these stay as drawn, and so do the keys, so that everything can learn.

Shapes: V tokens that occur, D embedding, W width of the text tower.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from diht_k8s.api.label import Teacher
from diht_k8s.api.train import InitFrom, Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label.teacher import load_teacher
from diht_k8s.stages.label.teacher_classes import class_captions
from diht_k8s.stages.label.teacher_weights import packaged_weights
from diht_k8s.stages.train.collectives import control_group
from diht_k8s.stages.train.data.loader import Loader
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.model.token_ridge import (
    ClassCaptions,
    Matrix,
    TokenRidge,
    fit_ridge,
    require_fewer_dimensions,
)

MAX_PAIRS: Final = 100_000
"""Pairs of the regression, at most: their features take 250 MB with 1,280 numbers each."""

# N pairs of this process, J classes, T tokens, F features, V tokens of the regression.


def start_text_tower(
    storage: Storage,
    train: Train,
    model: Student,
    loader: Loader,
    pairs: int,
    *,
    rank: int,
    world: int,
    check: Callable[[], object],
) -> None:
    """Have rank 0's student with its first weights begin as the regression (a collective).

    Args:
        storage: reads the tower's classifier.
        train: what is asked for.
        model: the student, which no engine holds yet.
        loader: of this rank's batches, with stored features.
        pairs: of an epoch.
        rank: of this process.
        world: number of processes.
        check: called between batches; it may raise to stop.

    Raises:
        UserError: `embed_dim` is more than the tower's features.
    """
    batches = math.ceil(min(pairs, MAX_PAIRS) / train.batch_size)
    tokens_NT, features_NF = _read(loader, batches, check)
    visual: Any = model.clip.visual
    projection, vocabulary = visual.head.proj, model.clip.vocab_size
    require_fewer_dimensions(projection.out_features, projection.in_features)
    classes = _class_names(storage, train.init_from, model.clip.context_length, projection.in_features)
    found = fit_ridge(
        tokens_NT,
        features_NF,
        vocabulary,
        projection.out_features,
        bias=projection.bias is not None,
        classes=classes,
        summed=lambda part: _summed(part, world),
        solves=rank == 0,
    )
    if found is not None:
        start_as_ridge(model.clip, found)
        more = "" if classes is None else f" and {len(classes[0])} class names"
        print(
            f"train: the text tower starts as a ridge regression from {len(found.tokens_V)} tokens, "
            f"on {found.pairs} pairs{more}",
            flush=True,
        )


def _read(loader: Loader, batches: int, check: Callable[[], object]) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Tokens NxT and features NxF of this rank's part of the first batches."""
    tokens, features = list[torch.Tensor](), list[torch.Tensor]()
    with contextlib.closing(loader.batches(0)) as read:
        for _ in range(batches):
            check()
            batch = next(read)
            pairs = len(batch.uids)  # behind them are surplus rows
            tokens.append(batch.tokens_BT[:pairs])
            features.append(batch.seen_B[:pairs])
    return torch.cat(tokens).long().numpy(), torch.cat(features).half().numpy()


def _class_names(storage: Storage, start: InitFrom | None, context_length: int, width: int) -> ClassCaptions | None:
    """Those of the tower that the training begins with; None where it brings none."""
    if start is None or not start.names_network:
        return None
    teacher = Teacher(model=start.uri)
    found = class_captions(load_teacher(teacher, storage, packaged_weights(start.uri), torch.device("cpu")).classifier)
    if found is None or found[1].shape[1] != width:
        return None
    return SimpleTokenizer(context_length=context_length)(found[0]).long().numpy(), found[1]


def _summed(mine: NDArray[Any], world: int) -> NDArray[Any]:
    """The sum over the processes (a collective)."""
    if world == 1:
        return mine
    total = torch.from_numpy(np.ascontiguousarray(mine))
    dist.all_reduce(total, group=control_group())
    return total.numpy()


WORDS_SHARE: Final = 0.5
"""Of an embedding's squared length, the part of the longest word's row; the rest are the two constants."""
EMBEDDING_DEVIATION: Final = 0.02
"""Of an embedding's numbers, as open_clip draws them."""


@torch.no_grad()
def start_as_ridge(clip: CLIP, start: TokenRidge) -> None:
    """Have a CLIP with its first weights give the regression's embeddings.

    Args:
        clip: with a linear projection behind its image tower, and a text tower at least D + 3 wide
            (`configurations.ridge_problem`).
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
