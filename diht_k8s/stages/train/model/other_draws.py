"""Refuses an image tower that draws random numbers which are not keyed by the row (see `row_draws`).

open_clip's own towers draw in their patch dropout alone. Some timm networks call torch's dropout outside of a module, or
within fused attention, whose kernels take no mask. Their draws would depend on the number of processes, and what
gradient caching computes twice would differ.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from typing import Any, Final

import torch
from open_clip.timm_model import TimmModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from diht_k8s.api.errors import UserError
from diht_k8s.stages.train.model.row_draws import Drawing, RowDraws, UnlikeRowsError, drawing_parts

PAIRS: Final = 1009
"""A prime, of which no number of windows or places is a multiple: what draws for anything but images is found. Without data they cost nothing."""


def refuse_other_draws(tower: nn.Module, draws: RowDraws) -> None:
    """Pass images without data through a copy of a timm tower, in training, whose modules that can draw by rows do so.

    Args:
        tower: as it is trained, or without memory for its weights (on torch's meta device).
        draws: of its modules.

    Raises:
        UserError: it draws in another way, the message names the module; or it takes no images of its size.
    """
    if not isinstance(tower, TimmModel):
        return
    # A pass changes no parameter, but buffers and what modules cache.
    shared = {id(parameter): parameter for parameter in tower.parameters()}
    copied = copy.deepcopy((tower, draws), shared)
    if next(tower.parameters()).is_meta:
        _pass(*copied, torch.device("meta"))
    else:
        with FakeTensorMode(allow_non_fake_inputs=True):
            _pass(*copied, torch.device("cpu"))


def _pass(tower: TimmModel, draws: RowDraws, device: torch.device) -> None:
    draws.begin_rows(0, PAIRS, device)
    size: Any = tower.image_size
    passes = _Passes(tower)
    try:
        with torch.no_grad(), _Refusal(passes):
            tower(torch.zeros(PAIRS, 3, *size, device=device))
    except UnlikeRowsError as error:
        raise UserError(
            f"the image tower drops parts of {passes.current} ({error}), so that a draw belongs to no image: {_ADVICE}"
        ) from error
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = str(error).rstrip(".") or type(error).__name__
        raise UserError(
            f"the image tower takes no images of {' x '.join(map(str, size))} pixels ({why}): check image_size and the network"
        ) from error
    for name, module in tower.named_modules():
        if drawing_parts(module) and passes.counts[name] > 1:
            raise UserError(
                f"the image tower passes {name} {passes.counts[name]} times for one image, so that it would drop the same parts each "
                f"time: {_ADVICE}"
            )
        if isinstance(module, Drawing) and module.calls:
            raise UserError(
                f"the image tower calls {name} from elsewhere than the module that holds it, so that its draws cannot be counted: {_ADVICE}"
            )


_ADVICE: Final = "choose another network, or one without dropout there (train.modelConfig)"


class _Passes:
    """Which modules of a tower pass."""

    def __init__(self, tower: nn.Module) -> None:
        self.counts: Counter[str] = Counter()
        """of each module's passes, by name."""
        self._entered: list[str] = []
        for name, module in tower.named_modules():
            module.register_forward_pre_hook(functools.partial(self._enter, name))
            module.register_forward_hook(self._leave)

    @property
    def current(self) -> str:
        """The innermost module that passes now."""
        return self._entered[-1] or "itself"

    def _enter(self, name: str, *_: object) -> None:
        self.counts[name] += 1
        self._entered.append(name)

    def _leave(self, *_: object) -> None:
        self._entered.pop()


class _Refusal(TorchDispatchMode):
    """Refuses operations that draw."""

    def __init__(self, passes: _Passes) -> None:
        super().__init__()
        self._passes = passes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, unless it draws."""
        # Fused attention has the tag, too; on a CPU torch takes it without dropout alone.
        if torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot_product" not in func._schema.name:
            raise UserError(
                f"the image tower draws random numbers in {self._passes.current} ({func}), outside of the modules that can "
                "draw them by the pair, so that the training would depend on the number of processes: choose a network "
                "without dropout there (train.modelConfig)"
            )
        return func(*args, **(kwargs or {}))
