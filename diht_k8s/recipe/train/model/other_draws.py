"""Refuses an image tower that draws random numbers which are not keyed by the row (see `row_draws`).

open_clip's own towers draw in their patch dropout alone. Some timm networks call torch's dropout outside of a module, or
within fused attention, whose kernels take no mask. Their draws would depend on the number of processes, and what
gradient caching computes twice would differ.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, Final

import torch
from open_clip.timm_model import TimmModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.train.model.row_draws import RowDraws

PAIRS: Final = 1009
"""A prime, of which no number of windows or places is a multiple: what draws for anything but images is found. Without data they cost nothing."""


def refuse_other_draws(tower: nn.Module, draws: RowDraws) -> None:
    """Pass images without data through a copy of a timm tower, in training, whose modules that can draw by rows do so.

    Args:
        tower: as it is trained.
        draws: of its modules.

    Raises:
        UserError: it draws in another way; the message names the module.
    """
    if not isinstance(tower, TimmModel):
        return
    # A pass changes no parameter, but buffers and what modules cache.
    shared = {id(parameter): parameter for parameter in tower.parameters()}
    copied = copy.deepcopy((tower, draws), shared)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _pass(*copied)


def _pass(tower: TimmModel, draws: RowDraws) -> None:
    draws.begin_rows(0, PAIRS, torch.device("cpu"))
    entered: list[str] = []
    for name, module in tower.named_modules():
        module.register_forward_pre_hook(functools.partial(_enter, entered, name))
        module.register_forward_hook(functools.partial(_leave, entered))
    size: Any = tower.image_size
    with torch.no_grad(), _Refusal(entered):
        tower(torch.zeros(PAIRS, 3, *size))


def _enter(entered: list[str], name: str, *_: object) -> None:
    entered.append(name)


def _leave(entered: list[str], *_: object) -> None:
    entered.pop()


class _Refusal(TorchDispatchMode):
    """Refuses operations that draw."""

    def __init__(self, entered: Sequence[str]) -> None:
        super().__init__()
        self._entered = entered

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, unless it draws."""
        # Fused attention has the tag, too; on a CPU torch takes it without dropout alone.
        if torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot_product" not in func._schema.name:
            raise UserError(
                f"the image tower draws random numbers in {self._entered[-1] or 'itself'} ({func}), outside of the modules "
                "that can draw them by the pair, so that the training would depend on the number of processes: choose a "
                "network without dropout there (train.modelConfig)"
            )
        return func(*args, **(kwargs or {}))
