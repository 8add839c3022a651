"""DeepSpeed's configuration for a training, and the part of its untyped engine that is used, as a protocol.

Pure apart from marks on the model's parameters.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.share import BatchShare
from diht_k8s.stages.train.gradient_reduction import bucket_elements
from diht_k8s.stages.train.model.student import Features, Student
from diht_k8s.stages.train.precision import DTYPES


class DeepSpeedEngine(Protocol):
    """`deepspeed.DeepSpeedEngine` around a `Student`."""

    optimizer: Any
    """torch's AdamW at ZeRO 0; from stage 1 on ZeRO's wrapper, an untyped class for each stage."""
    device: torch.device

    def __call__(self, images: Tensor, tokens_BT: Tensor, max_logit_scale: float) -> Features:
        """The student's forward pass."""
        ...

    def zero_optimization_stage(self) -> int:
        """The ZeRO stage, 0 to 3."""
        ...

    def backward(self, loss: Tensor) -> object:
        """The backward pass; reduces gradients over the ranks."""
        ...

    def step(self) -> object:
        """Clip, step the optimiser and clear the gradients at an accumulation boundary."""
        ...

    def zero_grad(self) -> object:
        """Clear the gradients."""
        ...

    def get_global_grad_norm(self) -> Any:
        """The gradient norm of the last step before clipping; None before the first one."""
        ...

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> object:
        """Whether the next `step` steps the optimiser."""
        ...

    def train(self) -> object:
        """Set training mode."""
        ...

    def eval(self) -> object:
        """Set evaluation mode."""
        ...


def deepspeed_settings(train: Train, *, micro_batch: int, world: int, parameters: int) -> dict[str, Any]:
    """The configuration.

    Args:
        train: of the run document.
        micro_batch: rows that one process passes through the model at once, at most.
        world: number of processes.
        parameters: of the model, in all.
    """
    bucket = bucket_elements(parameters)
    parts = -(-BatchShare(train.batch_size, 0, world).rows // micro_batch)
    settings: dict[str, Any] = {
        # DeepSpeed wants whole micro-batches of all ranks: what surplus rows and a shorter last part lack is counted in.
        "train_batch_size": micro_batch * parts * world,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": parts,
        # At ZeRO 0 it would wait for the device twice, and take the norm that the engine has: there the engine clips.
        "gradient_clipping": train.optimizer.gradient_clip_norm if train.zero_stage > 0 else 0.0,
        "zero_optimization": {
            "stage": train.zero_stage,
            "stage3_param_persistence_threshold": 0,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            # A second bucket fills while the first one is summed; a single process has nothing to wait for.
            "overlap_comm": world > 1,
            **_offloading(train),
        },
        "communication_data_type": train.gradient_reduction,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it would synchronise the device twice a step
        "wall_clock_breakdown": False,
    }
    if train.precision == "bf16":
        # Autocast keeps fp32 weights and norms, so checkpoints hold one precision.
        # fp16 has its own (see `Student`): DeepSpeed would clip before it unscales, with a scale for each rank.
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        if train.zero_stage < 3 or train.gradient_reduction == "fp32":
            settings["torch_autocast"]["lower_precision_safe_modules"] = []
    return settings


def reduce_alike(model: Student, train: Train) -> None:
    """Have the ZeRO stages sum all gradients in `train.gradientReduction`.

    DeepSpeed 0.19: ZeRO 0 takes `communication_data_type`; from stage 1 on, once any engine of the process has had
    autocast, each parameter's `comm_dtype` counts instead (runtime/base_optimizer.py, runtime/torch_autocast.py). Stage 3
    also gathers weights in it, so there DeepSpeed sets it, and only for layers that autocast computes in bf16 anyway.
    """
    if train.zero_stage < 3:
        for parameter in model.parameters():
            parameter.comm_dtype = DTYPES[train.gradient_reduction]  # pyright: ignore[reportAttributeAccessIssue]


def _offloading(train: Train) -> dict[str, Any]:
    """DeepSpeed's settings for `train.offload`; the run document's rules require the ZeRO stage."""
    if train.offload == "None":
        return {}
    place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    moved = {"offload_optimizer": place}
    return {**moved, "offload_param": place} if train.offload == "Parameters" else moved
