"""The start of a training's text tower as a ridge regression on its own pairs (`train.textStart: Ridge`).

In: stored features and captions of the first pairs of the training's order, which all processes read as they read
    batches; the
class names of a tower that brings its classifier. Out: the student's weights in rank 0, which solves: DeepSpeed hands
its weights to the others when it takes the model.
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
from open_clip.tokenizer import SimpleTokenizer

from diht_k8s.api.label import Teacher
from diht_k8s.api.train import InitFrom, Train
from diht_k8s.data.shards.storage import Storage
from diht_k8s.stages.label.teacher import load_teacher
from diht_k8s.stages.label.teacher_classes import class_captions
from diht_k8s.stages.label.teacher_weights import packaged_weights
from diht_k8s.stages.train.data.loader import Loader
from diht_k8s.stages.train.distributed import control_group
from diht_k8s.stages.train.model.ridge_start import start_as_ridge
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.model.token_ridge import ClassCaptions, fit_ridge, require_fewer_dimensions

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
