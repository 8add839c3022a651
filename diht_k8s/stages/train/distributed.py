"""Devices and process groups of a rank: its accelerator, the group for gradients and features, the one for control.

The rank sets its device before the first collective, and NCCL's group is bound to it (`device_id`): NCCL refuses
tensors of another device, and everything that names no device (object collectives, barriers, pinned memory) uses the
current one. Gradients and features travel over the world's group (NCCL, on CPUs gloo). Objects, requests and barriers
travel over a gloo group beside it, so that they never touch the device or wait for its queue.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
import torch.utils.deterministic
from torch.distributed import distributed_c10d

BACKENDS: Final = {"cpu": "gloo", "cuda": "nccl"}
"""Backend of the world's group by device type."""

CONTROL_TIMEOUT_S: Final = 1800

_control: dist.ProcessGroup | None = None


def device_type() -> str:
    """Type of the device that this machine trains on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def this_device() -> torch.device:
    """This rank's GPU (LOCAL_RANK), or the CPU."""
    kind = device_type()
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")))


def set_this_device() -> torch.device:
    """Make this rank's device the current one of the calling thread; torch begins each thread with device 0."""
    device = this_device()
    if device.type != "cpu":
        torch.get_device_module(device).set_device(device)
    return device


def choose_algorithms(mode: str) -> None:
    """Take deterministic algorithms or the fastest ones, as `train.deterministic` says.

    Auto takes deterministic ones on CPUs, where a training that was killed and resumed is then equal to the bit. On
    GPUs they cost time, and the collectives' order of summation stays free anyway.
    """
    on = mode == "Enabled" or (mode == "Auto" and device_type() == "cpu")
    if on and device_type() == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(on, warn_only=True)
    # Filling memory only helps to find kernel bugs and costs a tenth of a step. torch adds the property at run time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]


def init_process_groups(timeout_s: int = 600) -> None:
    """Set this rank's device and initialise the process groups (a collective), also for DeepSpeed.

    Args:
        timeout_s: of a collective, in every group. Over the control group it is at least half an hour: there ranks also
            wait for the upload of a checkpoint.
    """
    global _control
    # Not at the top: the losses are imported without DeepSpeed, which takes seconds.
    import deepspeed
    import deepspeed.ops

    device = set_this_device()
    backend = BACKENDS[device.type]
    if not dist.is_initialized():
        timeout = timedelta(seconds=timeout_s)
        # Groups that others make without a time-out take these: DeepSpeed's clones of the world, device meshes.
        distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout
        dist.init_process_group(backend, timeout=timeout, device_id=None if device.type == "cpu" else device)
        group = (
            None
            if device.type == "cpu"
            else dist.new_group(backend="gloo", timeout=timedelta(seconds=max(timeout_s, CONTROL_TIMEOUT_S)))
        )
        assert not isinstance(group, int), "every rank belongs to the group"
        _control = group
    # Needs a compiler at start-up and only speeds up CPU collectives inside one host.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def control_group() -> dist.ProcessGroup | None:
    """The group for objects and control, whose tensors lie on the CPU; None: the world's, which then is gloo too."""
    return _control


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether another rank was lost: NCCL raises torch's own errors, gloo names itself in the text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
