"""Checkpoints: `step-N/` with the state of each parameter (fp32 weight and AdamW's moments), the cursor, digests, the marker last.

State is stored per parameter and not per rank, so a run goes on with another number of processes or another ZeRO stage. DeepSpeed's own
checkpoints are not used: its `latest` file can name one whose other parts are unfinished.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
)
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.recipe.shards.storage import Storage

MOMENTS = ("exp_avg", "exp_avg_sq")
CURSOR_VERSION = 1

logger = logging.getLogger(__name__)


class Cursor(BaseModel):
    """Where the training stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = CURSOR_VERSION
    step: int
    """optimiser steps done."""
    position: int
    """next position of the global order, that is samples seen."""
    streams: int
    """streams of the global order."""
    config_sha256: str
    """configuration of the stage."""
    seconds: float
    """time spent training, over all attempts."""
    bad: dict[str, int] = {}
    """unreadable pictures so far, by reason."""


@dataclass(frozen=True)
class Saved:
    """A committed, undamaged checkpoint."""

    uri: str
    cursor: Cursor
    state: dict[str, Tensor]
    """`PARAMETER` -> weight, `PARAMETER|exp_avg` -> moment, fp32; `adam_step`."""


def full_state(engine: Any, model: nn.Module) -> dict[str, Tensor]:
    """The whole state, one parameter at a time (a collective under ZeRO: every rank must call it)."""
    _link(engine)
    state: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if _is_zero(engine) and parameter.requires_grad:
            weight = safe_get_full_fp32_param(parameter)
            moments = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
        else:  # ZeRO 0, and frozen parameters: plain torch
            weight = parameter.data
            moments = engine.optimizer.state.get(parameter, {}) if not _is_zero(engine) else {}
        state[name] = _detached(weight)
        state |= {f"{name}|{key}": _detached(moments[key]) for key in MOMENTS if key in moments}
    for name, buffer in model.named_buffers():
        state[f"buffer|{name}"] = _detached(buffer)
    state["adam_step"] = torch.tensor(_adam_step(engine))
    return state


def load_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put the weights of a checkpoint into a model that no engine holds yet: every ZeRO stage then starts from them.

    Raises:
        DataError: the state belongs to another model; the first key that differs is named.
    """
    weights = {key.removeprefix("buffer|"): value for key, value in state.items() if _is_weight(key)}
    own = model.state_dict()
    odd = sorted(weights.keys() ^ {*own, *(name for name, _ in model.named_buffers())})
    if odd:
        raise DataError(f"the checkpoint is of another model: {odd[0]} is in one of them only")
    for name, value in weights.items():
        if name in own and own[name].shape != value.shape:
            raise DataError(
                f"the checkpoint is of another model: {name} is {list(value.shape)} there and {list(own[name].shape)} here"
            )
    model.load_state_dict({name: value for name, value in weights.items() if name in own})


def load_moments(engine: Any, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put AdamW's moments into a fresh engine of any world size and ZeRO stage."""
    step = float(state["adam_step"])
    if step == 0:
        return
    parameters = [(name, parameter) for name, parameter in _parameters(model) if f"{name}|{MOMENTS[0]}" in state]
    if not _is_zero(engine):
        for name, parameter in parameters:
            moments = {key: state[f"{name}|{key}"].to(parameter.device) for key in MOMENTS}
            engine.optimizer.state[parameter] = {"step": torch.tensor(step), **moments}
        return
    for flat in _flat_parameters(engine):
        engine.optimizer.optimizer.state[flat] = {
            "step": torch.tensor(step),
            **{key: torch.zeros_like(flat) for key in MOMENTS},
        }
    _link(engine)
    for name, parameter in parameters:
        for key in MOMENTS:
            safe_set_full_optimizer_state(parameter, state[f"{name}|{key}"].to(engine.device), key)


def write(storage: Storage, folder: str, cursor: Cursor, state: dict[str, Tensor], *, keep: int) -> None:
    """Write a checkpoint, marker last, then remove all but the newest `keep`."""
    target = join(folder, f"step-{cursor.step:09d}")
    data = save({key: value.contiguous() for key, value in state.items()})
    storage.write_bytes(join(target, "state.safetensors"), data)
    marker = {
        "cursor": cursor.model_dump(),
        "files": {"state.safetensors": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
    }
    storage.write_bytes(join(target, "COMMITTED.json"), json.dumps(marker, indent=1).encode())
    for old in _steps(storage, folder)[:-keep]:
        storage.remove(join(folder, old))


def newest(storage: Storage, folder: str, config_sha256: str) -> Saved | None:
    """The newest committed and undamaged checkpoint of this configuration; damaged ones are reported and skipped."""
    for name in reversed(_steps(storage, folder)):
        uri = join(folder, name)
        if not storage.exists(join(uri, "COMMITTED.json")):
            continue
        try:
            saved = _read(storage, uri)
        except DataError as error:
            logger.warning("%s; an older checkpoint is used", error)
            continue
        if saved.cursor.config_sha256 == config_sha256:
            return saved
    return None


def _read(storage: Storage, uri: str) -> Saved:
    try:
        marker = json.loads(storage.read_bytes(join(uri, "COMMITTED.json")))
        cursor = Cursor.model_validate(marker["cursor"])
        expected = marker["files"]["state.safetensors"]
    except (ValueError, KeyError, ValidationError) as error:
        raise DataError(f"the checkpoint {uri} has a damaged marker") from error
    data = storage.read_bytes(join(uri, "state.safetensors"))
    if len(data) != expected["size"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise DataError(f"the checkpoint {uri} is damaged: its digest does not match")
    return Saved(uri, cursor, load(data))


def _steps(storage: Storage, folder: str) -> list[str]:
    return [name for name in storage.folders(folder) if name.startswith("step-")]


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _detached(tensor: Any) -> Tensor:
    return tensor.detach().float().cpu().clone() if tensor.is_floating_point() else tensor.detach().cpu().clone()


def _is_weight(key: str) -> bool:
    return key != "adam_step" and ("|" not in key or key.startswith("buffer|"))


def _is_zero(engine: Any) -> bool:
    return engine.zero_optimization_stage() > 0


def _flat_parameters(engine: Any) -> list[Tensor]:
    """The flat fp32 partitions that the inner optimiser of ZeRO steps."""
    zero = engine.optimizer
    return (
        zero.fp32_partitioned_groups_flat
        if engine.zero_optimization_stage() == 3
        else zero.single_partition_of_fp32_groups
    )


def _link(engine: Any) -> None:
    """Make DeepSpeed see the optimiser state of all parameter groups: by itself it links them after the first group's first step only."""
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _adam_step(engine: Any) -> float:
    optimizer = engine.optimizer.optimizer if _is_zero(engine) else engine.optimizer
    return max((float(state["step"]) for state in optimizer.state.values() if "step" in state), default=0.0)
