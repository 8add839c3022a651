"""Checkpoints: `step-N/` with the state of each parameter (fp32 weight and AdamW's moments), the cursor, digests, the marker last.

State is stored per parameter, so a run goes on with another number of processes or another ZeRO stage; each rank writes the parameters
that it owns. DeepSpeed's own checkpoints are not used: its `latest` file can name one whose other parts are unfinished.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
)
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save
from torch import Tensor, nn

from diht_k8s.api.errors import DataError
from diht_k8s.api.layout import join
from diht_k8s.recipe.shards.storage import Storage

MOMENTS = ("exp_avg", "exp_avg_sq")
MARKER = "COMMITTED.json"
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


class Part(BaseModel):
    """A file of a checkpoint."""

    model_config = ConfigDict(frozen=True)

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Saved:
    """A committed, undamaged checkpoint."""

    uri: str
    cursor: Cursor
    state: dict[str, Tensor]
    """`PARAMETER` -> weight, `PARAMETER|exp_avg` -> moment, fp32; `adam_step`."""


def state_of(
    engine: Any, model: nn.Module, *, rank: int = 0, ranks: int = 1, moments: bool = True
) -> dict[str, Tensor]:
    """The part of the state that one of `ranks` owners keeps, one parameter at a time (a collective under ZeRO: every rank must call it).

    Args:
        engine: DeepSpeed's.
        model: the student inside it.
        rank: which part; buffers belong to part 0. A rank outside of `ranks` keeps nothing.
        ranks: number of parts of about equal size.
        moments: whether AdamW's moments are wanted too.
    """
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
    """Which rank writes which parameter: the one that has least so far."""
    sizes, owners = [0] * ranks, {}
    for name, parameter in model.named_parameters():
        owner = sizes.index(min(sizes))
        sizes[owner] += getattr(parameter, "ds_numel", parameter.numel())
        owners[name] = owner
    return owners


def _parameter_state(engine: Any, parameter: nn.Parameter, *, moments: bool) -> dict[str, Any]:
    keys = MOMENTS if moments and parameter.requires_grad else ()
    if _is_zero(engine) and parameter.requires_grad:
        found = {key: safe_get_full_optimizer_state(parameter, key) for key in keys}
        weight = safe_get_full_fp32_param(parameter)
    else:  # ZeRO 0, and frozen parameters: plain torch
        found = engine.optimizer.state.get(parameter, {}) if not _is_zero(engine) else {}
        weight = _whole(parameter)
    return {"weight": weight, **{key: found[key] for key in keys if key in found}}


def _whole(parameter: nn.Parameter) -> Tensor:
    """A parameter that the optimiser does not hold; ZeRO 3 cuts those, too."""
    if not hasattr(parameter, "ds_id"):
        return parameter.data
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameter):
        return parameter.data.clone()


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


def write_part(storage: Storage, folder: str, cursor: Cursor, part: Mapping[str, Tensor], *, rank: int) -> Part:
    """Write one rank's part of a checkpoint; the checkpoint counts from `commit` on."""
    name = f"state-{rank:05d}.safetensors"
    data = save({key: value.contiguous() for key, value in part.items()})
    storage.write_bytes(join(_target(folder, cursor), name), data)
    return Part(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def commit(storage: Storage, folder: str, cursor: Cursor, parts: Sequence[Part], *, keep: int) -> None:
    """Write the marker over the parts of all ranks, then remove all but the newest `keep` committed checkpoints.

    What lies behind this step was written by an attempt that this one replaces, and goes too.
    """
    marker = {"cursor": cursor.model_dump(), "parts": [part.model_dump() for part in parts]}
    storage.write_bytes(join(_target(folder, cursor), MARKER), json.dumps(marker, indent=1).encode())
    steps = _steps(storage, folder)
    done = [name for name in steps if name <= _name(cursor) and storage.exists(join(folder, name, MARKER))]
    for name in set(steps) - set(done[-keep:]):
        storage.remove(join(folder, name))


def _target(folder: str, cursor: Cursor) -> str:
    return join(folder, _name(cursor))


def _name(cursor: Cursor) -> str:
    return f"step-{cursor.step:09d}"


def newest(storage: Storage, folder: str, config_sha256: str) -> Saved | None:
    """The newest committed and undamaged checkpoint of this configuration; damaged ones are reported and skipped."""
    for name in reversed(_steps(storage, folder)):
        uri = join(folder, name)
        if not storage.exists(join(uri, MARKER)):
            continue
        try:
            cursor, parts = _read_marker(storage, uri)
            if cursor.config_sha256 == config_sha256:
                return Saved(uri, cursor, _read_parts(storage, uri, parts))
        except DataError as error:
            logger.warning("%s; an older checkpoint is used", error)
    return None


def _read_marker(storage: Storage, uri: str) -> tuple[Cursor, list[Part]]:
    try:
        marker = json.loads(storage.read_bytes(join(uri, MARKER)))
        return Cursor.model_validate(marker["cursor"]), [Part.model_validate(part) for part in marker["parts"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the checkpoint {uri} has a damaged marker") from error


def _read_parts(storage: Storage, uri: str, parts: Sequence[Part]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for part in parts:
        place = join(uri, part.name)
        if not storage.exists(place):
            raise DataError(f"the checkpoint {uri} is damaged: {part.name} is missing")
        data = storage.read_bytes(place)
        if len(data) != part.size or hashlib.sha256(data).hexdigest() != part.sha256:
            raise DataError(f"the checkpoint {uri} is damaged: the digest of {part.name} does not match")
        state |= load(data)
    return state


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
