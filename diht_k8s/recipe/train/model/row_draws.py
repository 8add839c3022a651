"""Random draws within the student (dropout, stochastic depth, patch dropout), keyed by the row of the global batch.

torch draws them from one generator a process, in the order of the calls: another number of processes or another
micro-batch is then another training. Here a pair's draw is a function of the training's seed, the step, the pair's row in
the global batch and the place in the model alone. This is ours; the paper does not say how it draws.
"""

from __future__ import annotations

from typing import Any, Final, cast

import open_clip.transformer
import timm.layers
import torch
from torch import Tensor, nn

from diht_k8s.api.errors import UserError
from diht_k8s.recipe.train.data.rng import generator
from diht_k8s.recipe.train.model.philox import MASK, philox4x32

# B pairs of a micro-batch, P places of the model that draw, N samples that pass through a module at once (a multiple of
# B, those of a pair side by side), L tokens, W width.

WORDS: Final = 2**32


class RowDraws:
    """Random words for the rows of the current micro-batch."""

    def __init__(self, seed: int) -> None:
        """Of a training.

        Args:
            seed: of the training.
        """
        self.places = 0
        """modules that draw."""
        self._key = [int(word) for word in generator(seed, "dropout").integers(WORDS, size=2)]
        self._step = 0
        self._words_PB: list[Tensor] = []

    def begin_step(self, step: int) -> None:
        """Draw for a step, from 0, from now on."""
        self._step = step

    def begin_rows(self, first: int, number: int, device: torch.device) -> None:
        """Draw for a micro-batch from now on, until its backward pass has ended.

        Args:
            first: row of its first pair in the global batch.
            number: of its pairs.
            device: on which the model is.
        """
        if self.places:  # all places at once: a launch of a kernel for each would cost more than what they compute
            rows_B = torch.arange(first, first + number, device=device)
            places_P1 = torch.arange(self.places, device=device)[:, None]
            counter = (rows_B, self._step & MASK, self._step >> 32, places_P1)
            self._words_PB = [cast("Tensor", words_PB) for words_PB in philox4x32(counter, self._key)]

    def words(self, place: int, call: int, samples: int, each: int) -> Tensor:
        """Uniform 32-bit words, samples x each, as int64.

        Args:
            place: of the module that draws.
            call: number of the call of the module in this forward pass, from 0.
            samples: that pass through the module.
            each: words for one sample.

        Raises:
            UserError: the samples are no multiple of the pairs.
        """
        assert len(self._words_PB) > 0, "rows have begun"  # as a number: the compiler would have a list be a tensor
        first_B, second_B, *ready = (words_PB[place] for words_PB in self._words_PB)
        pairs = len(first_B)
        if samples % pairs:
            raise UserError(
                f"the image tower drops parts of {samples} samples where {pairs} images pass through it, so that a draw "
                "belongs to no image: choose another network, or one without dropout (train.modelConfig)"
            )
        number = samples // pairs * each
        if number == 1 and call < len(ready):
            return ready[call][:, None]
        counters_C = torch.arange(-(-number // 4), device=first_B.device)
        drawn = philox4x32((counters_C, call, 0, 0), (first_B[:, None], second_B[:, None]))
        return torch.stack(cast("tuple[Tensor, ...]", drawn), dim=-1).flatten(1)[:, :number].reshape(samples, each)


class _Drawing(nn.Module):
    """A module that draws in training."""

    def __init__(self, draws: RowDraws) -> None:
        super().__init__()
        self._draws, self._place, self.calls = draws, draws.places, 0
        draws.places += 1

    def _words(self, samples: int, each: int) -> Tensor:
        call = self.calls
        self.calls = call + 1
        return self._draws.words(self._place, call, samples, each)

    def _kept(self, x: Tensor, each: int, drop: float) -> Tensor:
        """Whether to keep each sample, or each element of it, of shape N x 1... or as `x`."""
        shape = x.shape if each > 1 else (len(x), *[1] * (x.ndim - 1))
        return (self._words(len(x), each) < round((1 - drop) * WORDS)).reshape(shape)


class RowDropout(_Drawing):
    """`torch.nn.Dropout`."""

    def __init__(self, of: nn.Dropout, draws: RowDraws) -> None:
        """As `of` drops."""
        super().__init__(draws)
        self.p = of.p

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements of Nx..., and scale the others up."""
        if not self.training:
            return x
        scale = 1 / (1 - self.p) if self.p < 1 else 1.0
        return torch.where(self._kept(x, x[0].numel(), self.p), x * scale, 0.0)


class RowDropPath(_Drawing):
    """timm's `DropPath` (stochastic depth)."""

    def __init__(self, of: timm.layers.DropPath, draws: RowDraws) -> None:
        """As `of` drops."""
        super().__init__(draws)
        self.drop_prob, self.scale_by_keep = of.drop_prob, of.scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        """Zero samples of Nx..., and scale the others up."""
        if not self.training:
            return x
        scale = 1 / (1 - self.drop_prob) if self.scale_by_keep and self.drop_prob < 1 else 1.0
        return x * (self._kept(x, 1, self.drop_prob).to(x.dtype) * scale)


class RowPatchDropout(_Drawing):
    """open_clip's and timm's `PatchDropout` (FLIP, arXiv 2212.00794)."""

    def __init__(self, of: Any, draws: RowDraws) -> None:
        """As `of` drops."""
        super().__init__(draws)
        self.prob: float = of.prob
        self._prefix = int(getattr(of, "num_prefix_tokens", 0) or getattr(of, "exclude_first_token", False))
        self._ordered = bool(getattr(of, "ordered", False))
        self._with_indices = isinstance(of, timm.layers.PatchDropoutWithIndices)

    def forward(self, x_NLW: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """Keep some patches of NxLx... tokens, and all tokens before them; their indices too where `of` gives them."""
        if not self.training:
            return (x_NLW, None) if self._with_indices else x_NLW
        prefix, patches = x_NLW[:, : self._prefix], x_NLW[:, self._prefix :]
        samples, number = patches.shape[:2]
        # The patch's number makes keys differ: then all devices sort them alike.
        keys = self._words(samples, number) * number + torch.arange(number, device=x_NLW.device)
        kept = keys.topk(max(1, int(number * (1 - self.prob))), dim=1).indices
        if self._ordered:
            kept = kept.sort(dim=1).values
        index = kept.reshape(*kept.shape, *[1] * (patches.ndim - 2)).expand(-1, -1, *patches.shape[2:])
        x_NLW = torch.cat([prefix, patches.gather(1, index)], dim=1)
        return (x_NLW, kept) if self._with_indices else x_NLW


ROW_MODULES: Final[dict[type[nn.Module], tuple[str, type[Any]]]] = {
    nn.Dropout: ("p", RowDropout),
    timm.layers.DropPath: ("drop_prob", RowDropPath),
    open_clip.transformer.PatchDropout: ("prob", RowPatchDropout),
    timm.layers.PatchDropout: ("prob", RowPatchDropout),
    timm.layers.PatchDropoutWithIndices: ("prob", RowPatchDropout),
}
"""What draws in open_clip's and timm's towers -> the attribute with its rate, and what draws by rows in its place."""


def draw_by_rows(model: nn.Module, draws: RowDraws) -> None:
    """Have the modules of a model that drop anything draw by rows; those with rate 0 and all weights' names stay."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            rate, made = ROW_MODULES.get(type(child), ("", nn.Module))
            if rate and getattr(child, rate):
                setattr(parent, name, made(child, draws).train(child.training))
    for parent in model.modules():
        if called := _called_by(parent):
            # After each pass, which torch's compiler wants to leave no trace, and which activation checkpointing may end early.
            parent.register_forward_hook(_Recount(called), always_call=True)


def _called_by(parent: nn.Module) -> list[_Drawing]:
    """The drawing modules that the forward pass of a module calls itself; lists of modules have none."""
    if isinstance(parent, nn.ModuleList | nn.ModuleDict):
        return []
    found: list[_Drawing] = []
    for child in parent.children():
        if isinstance(child, _Drawing):
            found.append(child)
        elif isinstance(child, nn.ModuleList | nn.ModuleDict):
            found += [module for module in child.children() if isinstance(module, _Drawing)]
    return found


class _Recount:
    """Has each pass of a module, activation checkpointing's second one too, count the calls of others from 0."""

    def __init__(self, called: list[_Drawing]) -> None:
        self._called = called

    def __call__(self, *_: Any) -> None:
        for module in self._called:
            module.calls = 0
