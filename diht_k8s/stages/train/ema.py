"""Exponential moving average (EMA) of the weights (`train.ema`), sharded as ZeRO shards the fp32 weights.

The decay rises with the steps, min(decay, (1 + t) / (10 + t)), so that the random start soon fades (our choice; the
paper has no average). Buffers and frozen weights are not averaged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from diht_k8s.stages.train.checkpoint.state import is_zero, master_weights, put
from diht_k8s.stages.train.deepspeed_engine import DeepSpeedEngine


class Ema:
    """The EMA of one rank's share of the weights."""

    def __init__(
        self, engine: DeepSpeedEngine, model: nn.Module, decay: float, state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Begin with the engine's weights, or with those of a checkpoint (a collective).

        Args:
            engine: DeepSpeed's.
            model: the student inside it.
            decay: of the average, below 1.
            state: a checkpoint's, with `PARAMETER|ema` beside each weight.
        """
        self._engine, self._decay = engine, decay
        self._shards = [weights.detach().clone() for weights in master_weights(engine, model)]
        self._model = model
        if state is not None and any(key.endswith("|ema") for key in state):
            self._load(state)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step; `step` counts from 1."""
        weight = 1.0 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._shards, [w.detach() for w in master_weights(self._engine, self._model)], weight)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the engine's fp32 weights be the average for a while: what reads the weights then reads it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for shard, weights in zip(self._shards, master_weights(self._engine, self._model), strict=True):
            kept = weights.detach().clone()
            weights.data.copy_(shard)
            shard.copy_(kept)

    @torch.no_grad()
    def _load(self, state: Mapping[str, Tensor]) -> None:
        """Write the average where the weights are, so that DeepSpeed partitions it, and swap the two."""
        parameters = {f"{name}|ema": each for name, each in self._model.named_parameters() if each.requires_grad}
        for key in [key for key in state if key in parameters]:
            parameter = parameters[key]
            if is_zero(self._engine):
                put(self._engine, parameter, state[key])
            else:
                parameter.data.copy_(state[key])
        self._swap()
