"""BatchNorm over the global batch on CPUs: the curve of a ResNet then does not depend on the number of processes.

It stays because torch has it for accelerators only (`torch.nn.SyncBatchNorm`), and without it a ResNet could not be
trained on CPUs by several processes with the same curve. The normalisation and the local sums are torch's own
kernels; between them each layer exchanges two numbers a channel, forward and backward. Every rank must hold equally
many pairs and no surplus rows, which would enter the statistics: other divisions of a batch are refused.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diht_k8s.api.errors import UserError
from diht_k8s.api.gangs import unequal_parts
from diht_k8s.api.train import Train

# B samples of this rank, C channels, H and W places.


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, mean_C: Tensor, var_C: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C, mean_C, var_C)
        ctx.eps = eps
        return nn.functional.batch_norm(x_BCHW, mean_C, var_C, weight_C, bias_C, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BCHW: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_BCHW, weight_C, mean_C, var_C = ctx.saved_tensors
        direct_BCHW, weight_gradient_C, bias_gradient_C = torch.ops.aten.native_batch_norm_backward(
            gradient_BCHW, x_BCHW, weight_C, mean_C, var_C, None, None, False, ctx.eps, [True, True, True]
        )
        # Terms of the batch's mean and variance:
        # d loss / d x = w / s (g - mean(g) - x' mean(g x')), x' normalised, s deviation.
        count = x_BCHW.numel() // x_BCHW.shape[1] * dist.get_world_size()
        sums_2C = torch.stack([bias_gradient_C, weight_gradient_C])
        dist.all_reduce(sums_2C)
        inverse_C = (var_C + ctx.eps).rsqrt()
        slope_C = -weight_C * inverse_C.square() * sums_2C[1] / count
        offset_C = -weight_C * inverse_C * sums_2C[0] / count - slope_C * mean_C
        direct_BCHW += _affine(x_BCHW, slope_C, offset_C)
        return direct_BCHW, weight_gradient_C, bias_gradient_C, None, None, None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all ranks; its state is BatchNorm2d's."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise BxCxHxW; keeps the running statistics of the global batch."""
        if not self.training:
            return super().forward(input)
        mean_C, var_C = torch.batch_norm_update_stats(input.detach(), None, None, 0.0)
        moments_2C = torch.stack([mean_C.double(), var_C.double() + mean_C.double().square()])
        dist.all_reduce(moments_2C)
        moments_2C /= dist.get_world_size()
        mean_C, var_C = moments_2C[0], (moments_2C[1] - moments_2C[0].square()).clamp_min(0)
        self._remember(mean_C, var_C, input.numel() // input.shape[1] * dist.get_world_size())
        mean_C, var_C = mean_C.to(self.weight.dtype), var_C.to(self.weight.dtype)
        return _Normalise.apply(input, self.weight, self.bias, mean_C, var_C, self.eps)  # type: ignore[return-value]  # apply is untyped

    def _remember(self, mean_C: Tensor, var_C: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var_C * count / (count - 1)).to(self.running_var.dtype), self.momentum)


def require_equal_parts(train: Train, world: int) -> None:
    """Refuse to train a model with batch statistics where ranks or micro-batches would hold unequally many pairs.

    Args:
        train: the settings.
        world: number of ranks.

    Raises:
        UserError: they do not divide the batch.
    """
    if (problem := unequal_parts(train, world)) is not None:
        raise UserError(problem.message)


def convert_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with each BatchNorm over the global batch; parameters and buffers stay the same objects."""
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d and child.affine and child.track_running_stats:
                setattr(module, name, _converted(child))
    return model


def _converted(norm: nn.BatchNorm2d) -> GlobalBatchNorm2d:
    new = GlobalBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var, new.num_batches_tracked = (
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
    )
    return new.train(norm.training)


def _affine(x_BCHW: Tensor, slope_C: Tensor, offset_C: Tensor) -> Tensor:
    """Slope x + offset for each channel, by the kernel that is fast for it in every precision and memory order."""
    zero_C = torch.zeros_like(slope_C)
    return nn.functional.batch_norm(x_BCHW, zero_C, zero_C + 1, slope_C, offset_C, eps=0.0)
