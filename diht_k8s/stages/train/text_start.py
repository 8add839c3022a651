"""Before the first step, from a training's first pairs: the start of its text tower (`train.textStart: Ridge`) and the
teacher of its texts (`train.distillation.regression`).

In: stored features and captions of the first pairs of the training's order, which all processes read as they read
batches; the classes of a tower that brings its classifier; the table of words. Out: the student's weights in rank 0,
which solves the ridge regression (`token_ridge`), and DeepSpeed broadcasts them when it takes the model; the teacher in
each rank, which solves the kernel regression (`kernel_regression`) again on a resume. The text embedding of a caption
is then the ridge regression's prediction, and the image embedding the whitened features. Ours, not the paper's.

Attention of the first layer is uniform (queries zero), its values and output projection are the identity, so at the end
token stands the mean of the words' normalised embeddings. An embedding is a word's row of the regression in a basis
whose vectors sum to zero, and two numbers +c and -c with which all embeddings have one length: LayerNorm then is one
factor for all words, and the normalisation of the embedding takes it away. All other branches end in zeros; the weights
before these stay as drawn, and so do the keys, so that everything can learn.

Shapes: N pairs, T tokens, F features, J classes, V tokens that occur, E numbers of a word's vector, D embedding,
W width of the text tower.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
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
from diht_k8s.models.word_vectors import token_vectors
from diht_k8s.stages.label.teacher import load_teacher
from diht_k8s.stages.label.teacher_classes import class_captions
from diht_k8s.stages.label.teacher_weights import packaged_weights
from diht_k8s.stages.train.collectives import control_group, gather_objects
from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.data.loader import Loader
from diht_k8s.stages.train.model.caption_teacher import CaptionTeacher
from diht_k8s.stages.train.model.kernel_regression import MAX_CAPTIONS, fit_kernel_regression, with_classes
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.model.token_ridge import (
    ClassCaptions,
    Matrix,
    TokenRidge,
    fit_ridge,
    require_fewer_dimensions,
)

MAX_PAIRS: Final = 100_000
"""Pairs of the ridge regression, at most: their features take 250 MB with 1,280 numbers each."""


@dataclass(frozen=True)
class FirstPairs:
    """This rank's part of the first pairs, each once, and what else the regressions are fitted on."""

    tokens_NT: NDArray[np.int64]
    features_NF: NDArray[np.float16]
    positions_N: NDArray[np.int64]
    """in the training's order."""
    classes: ClassCaptions | None
    vectors_VE: NDArray[np.float32] | None
    """of `train.words`, zeros where a token has none."""


def first_pairs(
    storage: Storage,
    train: Train,
    model: Student,
    loader: Loader,
    pairs: int,
    share: BatchShare,
    stand_in_F: Tensor,
    *,
    resumes: bool,
    check: Callable[[], object],
) -> FirstPairs:
    """Read them. A pair whose image cannot be used is left out.

    Args:
        storage: reads the tower's classifier and the table of words.
        train: what is asked for.
        model: the student, which no engine holds yet.
        loader: of this rank's batches, with stored features.
        pairs: of an epoch.
        share: this rank's rows of a batch.
        stand_in_F: the features of an image that cannot be used.
        resumes: whether the text tower has its weights, so that the teacher alone needs pairs.
        check: called between batches; it may raise to stop.
    """
    pairs = min(pairs, MAX_CAPTIONS if resumes else MAX_PAIRS)
    tokens, features, positions = list[Tensor](), list[Tensor](), list[NDArray[np.int64]]()
    with contextlib.closing(loader.batches(0)) as read:
        for number in range(math.ceil(pairs / train.batch_size)):
            check()
            batch = next(read)
            position_B = number * train.batch_size + share.first + np.arange(len(batch.uids))  # no surplus rows
            features_BF = batch.seen_B[: len(batch.uids)].half()
            used_B = (features_BF != stand_in_F.half()).any(dim=1) & torch.from_numpy(position_B < pairs)
            tokens.append(batch.tokens_BT[: len(batch.uids)][used_B])
            features.append(features_BF[used_B])
            positions.append(position_B[used_B.numpy()])
    words = None if train.words is None else token_vectors(storage, train.words, SimpleTokenizer().encoder)
    visual: Any = model.clip.visual
    return FirstPairs(
        torch.cat(tokens).long().numpy(),
        torch.cat(features).numpy(),
        np.concatenate(positions),
        _classes(storage, train.init_from, model.clip.context_length, visual.head.proj.in_features),
        words,
    )


def _classes(storage: Storage, start: InitFrom | None, context_length: int, width: int) -> ClassCaptions | None:
    """Those of the tower that the training begins with; None where it brings none."""
    if start is None or not start.names_network:
        return None
    teacher = Teacher(model=start.uri)
    found = class_captions(load_teacher(teacher, storage, packaged_weights(start.uri), torch.device("cpu")).classifier)
    if found is None or found[1].shape[1] != width:
        return None
    return SimpleTokenizer(context_length=context_length)(found[0]).long().numpy(), found[1]


def start_text_tower(model: Student, first: FirstPairs, *, rank: int, world: int) -> None:
    """Have rank 0's student with its first weights begin as the ridge regression; all ranks have its projection then
    (a collective).

    Args:
        model: the student, which no engine holds yet.
        first: this rank's part of the first pairs.
        rank: of this process.
        world: number of processes.

    Raises:
        UserError: `embed_dim` is more than the tower's features.
    """
    visual: Any = model.clip.visual
    projection = visual.head.proj
    require_fewer_dimensions(projection.out_features, projection.in_features)
    found = fit_ridge(
        first.tokens_NT,
        first.features_NF,
        model.clip.vocab_size,
        projection.out_features,
        bias=projection.bias is not None,
        classes=first.classes,
        vectors=first.vectors_VE,
        summed=lambda part: _summed(part, world),
        solves=rank == 0,
    )
    if found is not None:
        start_as_ridge(model.clip, found)
        more = "" if first.classes is None else f" and {len(first.classes[0])} captions of classes"
        print(
            f"train: the text tower starts as a ridge regression from {len(found.tokens_V)} tokens, "
            f"on {found.pairs} pairs{more}",
            flush=True,
        )
    if world > 1:
        for parameter in projection.parameters():
            dist.broadcast(parameter.data, 0, group=control_group())


def caption_teacher(model: Student, first: FirstPairs, seed: int, share: BatchShare) -> CaptionTeacher:
    """The teacher of the texts, fitted on the embeddings that the student gives the first pairs' images (a collective).

    Args:
        model: the student, whose projection of the features stays as it is.
        first: this rank's part of the first pairs.
        seed: of the training's random draws.
        share: this rank's rows of a batch.
    """
    assert first.vectors_VE is not None, "the document's rules require it"
    used_N = first.positions_N < MAX_CAPTIONS
    mine = (first.positions_N[used_N], first.tokens_NT[used_N], first.features_NF[used_N])
    positions_N, captions_NT, features_NF = (np.concatenate(parts) for parts in zip(*gather_objects(mine), strict=True))
    order_N = np.argsort(positions_N)
    captions_NT, features_NF = captions_NT[order_N], features_NF[order_N].astype(np.float32)
    visual: Any = model.clip.visual
    with torch.no_grad():
        embeddings_ND = visual.head.proj(torch.from_numpy(features_NF)).numpy()
    projection_DF = visual.head.proj.weight.detach().double().numpy()
    tokens_NT, embeddings_ND = with_classes(captions_NT, embeddings_ND, features_NF, projection_DF, first.classes)
    regression = fit_kernel_regression(tokens_NT, embeddings_ND, first.vectors_VE, pairs=len(order_N))
    return CaptionTeacher(regression, captions_NT, seed, share)


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
