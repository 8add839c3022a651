"""The training state per parameter: fp32 weight and AdamW's moments, read from DeepSpeed's engine and loaded into it.

Stored per parameter and not per rank, so that a run resumes with another number of processes or another ZeRO stage. An
exponential moving average (EMA, `train.ema`) is sharded as ZeRO shards the fp32 weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from diht_k8s.api.errors import DataError
from diht_k8s.stages.train.checkpoint.checkpoint import is_weight
from diht_k8s.stages.train.deepspeed_engine import DeepSpeedEngine

MOMENTS = ("exp_avg", "exp_avg_sq")


def state_of(
    engine: DeepSpeedEngine,
    model: nn.Module,
    *,
    rank: int = 0,
    ranks: int = 1,
    moments: bool = True,
) -> dict[str, Tensor]:
    """The part of the state that one of `ranks` owners keeps (a collective under ZeRO: every rank must call it).

    Args:
        engine: DeepSpeed's.
        model: the student inside it.
        rank: which part; buffers belong to part 0. A rank outside of `ranks` keeps nothing.
        ranks: number of parts of about equal size.
        moments: whether AdamW's moments are wanted too; there are none before the first step that was made.
    """
    moments = moments and _adam_step(engine) > 0
    if moments:
        _link(engine)
    owners = _owners(model, ranks)
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        found = _parameter_state(engine, parameter, moments=moments)
        if owners[name] == rank:
            state |= {name if key == "weight" else f"{name}|{key}": _detached(value) for key, value in found.items()}
    if rank == 0:
        state |= {f"buffer|{name}": _detached(buffer) for name, buffer in model.named_buffers()}
        state["adam_step"] = torch.tensor(_adam_step(engine))
    return state


def _owners(model: nn.Module, ranks: int) -> dict[str, int]:
    """The rank that writes each parameter: always the least loaded one."""
    sizes, owners = [0] * ranks, {}
    for name, parameter in model.named_parameters():
        owner = sizes.index(min(sizes))
        sizes[owner] += getattr(parameter, "ds_numel", parameter.numel())
        owners[name] = owner
    return owners


def _parameter_state(engine: DeepSpeedEngine, parameter: nn.Parameter, *, moments: bool) -> dict[str, Any]:
    keys = MOMENTS if moments and parameter.requires_grad else ()
    if is_zero(engine) and parameter.requires_grad:
        found = {key: safe_get_full_optimizer_state(parameter, key) for key in keys}
        weight = safe_get_full_fp32_param(parameter)
    else:  # ZeRO 0, and frozen parameters: plain torch
        found = engine.optimizer.state.get(parameter, {}) if not is_zero(engine) else {}
        weight = _whole(parameter)
    return {"weight": weight, **{key: found[key] for key in keys if key in found}}


def _whole(parameter: nn.Parameter) -> Tensor:
    """A parameter that the optimiser does not hold; ZeRO 3 partitions those as well."""
    if not hasattr(parameter, "ds_id"):
        return parameter.data
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameter):
        return parameter.data.clone()


@torch.no_grad()
def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the weights of a checkpoint into a model that no engine holds yet: every ZeRO stage then starts from them.

    Raises:
        DataError: the state belongs to another model; the first key that differs is named.
    """
    weights = {key: key.removeprefix("buffer|") for key in state if is_weight(key)}
    own = model.state_dict()
    odd = sorted(set(weights.values()) ^ {*own, *(name for name, _ in model.named_buffers())})
    if odd:
        raise DataError(f"the checkpoint is of another model: {odd[0]} is in one of them only")
    for key, name in weights.items():
        if name not in own:
            continue
        value = state[key]
        if own[name].shape != value.shape:
            raise DataError(
                f"the checkpoint is of another model: {name} is {list(value.shape)} there and "
                f"{list(own[name].shape)} here"
            )
        own[name].copy_(value)


def load_moments(engine: DeepSpeedEngine, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put AdamW's moments into a fresh engine of any world size and ZeRO stage, one at a time."""
    step = float(state["adam_step"])
    if step == 0:
        return
    parameters = dict(_parameters(model))
    moments = [(key, *key.rpartition("|")[::2]) for key in state]
    moments = [(key, parameters[name], kind) for key, name, kind in moments if kind in MOMENTS and name in parameters]
    if not is_zero(engine):
        for key, parameter, kind in moments:
            kept = engine.optimizer.state[parameter]
            kept.setdefault("step", _step_of(engine.optimizer, parameter, step))
            kept[kind] = state[key].to(parameter.device)
        return
    adamw = engine.optimizer.optimizer
    for flat in _flat_parameters(engine):
        adamw.state[flat] = {
            "step": _step_of(adamw, flat, step),
            **{key: torch.zeros_like(flat) for key in MOMENTS},
        }
    _link(engine)
    for key, parameter, kind in moments:
        put(engine, parameter, state[key], kind)


def _step_of(adamw: torch.optim.Optimizer, parameter: Tensor, step: float) -> Tensor:
    """AdamW's step count where AdamW itself puts it: beside the parameter for fused and capturable kernels, else on the
    CPU.
    """
    beside = adamw.defaults["fused"] or adamw.defaults["capturable"]
    return torch.tensor(step, dtype=torch.float32, device=parameter.device if beside else "cpu")


def put(engine: DeepSpeedEngine, parameter: nn.Parameter, value: Tensor, moment: str | None = None) -> None:
    """Write a parameter's whole fp32 weight or moment where ZeRO keeps it; each rank calls with the same value.

    Under ZeRO 3 the ranks hold equal parts and the last ones are filled up, which DeepSpeed's own accessor for whole
    values forgets: it fails for every parameter that the number of ranks does not divide.
    """
    value = value.to(engine.device)
    if engine.zero_optimization_stage() < 3:
        if moment is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, moment)
        return
    partition: Any = parameter
    size = partition.ds_tensor.numel()
    own = value.new_zeros(size)
    part = value.flatten()[dist.get_rank() * size :][:size]
    own[: part.numel()] = part
    if moment is None:
        safe_set_local_fp32_param(parameter, own)
    else:
        safe_set_local_optimizer_state(parameter, own, moment)


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _detached(tensor: Any) -> Tensor:
    return tensor.detach().float().cpu().clone() if tensor.is_floating_point() else tensor.detach().cpu().clone()


def is_zero(engine: DeepSpeedEngine) -> bool:
    """Whether DeepSpeed partitions at least the optimiser's state."""
    return engine.zero_optimization_stage() > 0


def _flat_parameters(engine: DeepSpeedEngine) -> list[Tensor]:
    """The flat fp32 partitions that the inner optimiser of ZeRO steps."""
    zero = engine.optimizer
    return (
        zero.fp32_partitioned_groups_flat
        if engine.zero_optimization_stage() == 3
        else zero.single_partition_of_fp32_groups
    )


def master_weights(engine: DeepSpeedEngine, model: nn.Module) -> list[Tensor]:
    """This rank's fp32 weights that the optimiser steps: flat shards under ZeRO, else the parameters themselves."""
    return list(_flat_parameters(engine)) if is_zero(engine) else [parameter for _, parameter in _parameters(model)]


def _link(engine: DeepSpeedEngine) -> None:
    """Link the optimiser state of all parameter groups: DeepSpeed links only after the first group's first step."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _adam_step(engine: DeepSpeedEngine) -> float:
    optimizer = engine.optimizer.optimizer if is_zero(engine) else engine.optimizer
    return max((float(state["step"]) for state in optimizer.state.values() if "step" in state), default=0.0)


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
