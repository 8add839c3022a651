"""Random draws within the student (dropout, stochastic depth, patch dropout), keyed by the row of the global batch.

torch draws them from one generator a process, in the order of the calls: another number of processes or another
micro-batch is then another training. Here a pair's draw is a function of the training's seed, the step, the pair's row in
the global batch and the place in the model alone. Some of timm's networks compute biases of positions for all images
alike, and drop parts of them: that draw is one for the whole batch. This is ours; the paper does not say how it draws.
"""

from __future__ import annotations

from typing import Any, Final, cast

import open_clip.transformer
import timm.layers
import torch
from timm.models.swin_transformer_v2_cr import WindowMultiHeadAttention
from torch import Tensor, nn

from diht_k8s.stages.train.data.rng import generator
from diht_k8s.stages.train.model.philox import MASK, philox4x32

# B pairs of a micro-batch, P places of the model that draw, N samples that pass through a module at once (a multiple of
# B, those of a pair side by side), L tokens, W width.

WORDS: Final = 2**32
ALL_ROWS: Final = MASK
"""In place of a row, for what is drawn for all images alike."""


class UnlikeRowsError(ValueError):
    """A module that draws by rows has seen samples that belong to no row."""


class RowDraws:
    """Random words for the rows of the current micro-batch."""

    def __init__(self, seed: int) -> None:
        """Of a training.

        Args:
            seed: of the training.
        """
        self.places = 0
        """modules that draw."""
        self.has_alike = False
        """whether one of them draws for all images alike."""
        self._key = [int(word) for word in generator(seed, "dropout").integers(WORDS, size=2)]
        self._step = 0
        self._words_PB: list[Tensor] = []
        self._words_P1: list[Tensor] = []
        self._zero_1 = torch.zeros(1, dtype=torch.int64)

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
            self._words_PB = self._words_of(torch.arange(first, first + number, device=device))
            self._zero_1 = torch.zeros(1, dtype=torch.int64, device=device)
        if self.has_alike:
            self._words_P1 = self._words_of(torch.full((1,), ALL_ROWS, device=device))

    def _words_of(self, rows_B: Tensor) -> list[Tensor]:
        places_P1 = torch.arange(self.places, device=rows_B.device)[:, None]
        counter = (rows_B, self._step & MASK, self._step >> 32, places_P1)
        return [cast("Tensor", words_PB) for words_PB in philox4x32(counter, self._key)]

    def words(self, place: int, call: int, samples: int, each: int) -> Tensor:
        """Uniform 32-bit words, samples x each, as int64.

        Args:
            place: of the module that draws.
            call: number of the call of the module in this forward pass, from 0.
            samples: that pass through the module.
            each: words for one sample.

        Raises:
            UnlikeRowsError: the samples are no multiple of the pairs.
        """
        assert len(self._words_PB) > 0, "rows have begun"  # as a number: the compiler would have a list be a tensor
        first_B, second_B, *ready = (words_PB[place] for words_PB in self._words_PB)
        pairs = len(first_B)
        if samples % pairs:
            raise UnlikeRowsError(f"{samples} samples where {pairs} images pass")
        number = samples // pairs * each
        if number == 1 and call < len(ready):
            return ready[call][:, None]
        return self._more(first_B, second_B, call, number).reshape(samples, each)

    def words_alike(self, place: int, call: int, number: int) -> Tensor:
        """Uniform 32-bit words as int64, the same for all rows of the batch, so in every micro-batch and process.

        Args:
            place: of the module that draws.
            call: number of the call of the module in this forward pass, from 0.
            number: of the words.
        """
        assert len(self._words_P1) > 0, "rows have begun"
        first_1, second_1, *_ = (words_P1[place] for words_P1 in self._words_P1)
        return self._more(first_1, second_1, call, number)[0]

    def _more(self, first_B: Tensor, second_B: Tensor, call: int, number: int) -> Tensor:
        """As many words for each pair of key words, B x number."""
        # The zero is read from memory. Without it torch's compiler takes a multiple of a count for an index and computes it in 32
        # bits, silently (2.13, pytorch/pytorch#175966).
        counters_C = torch.arange(-(-number // 4), device=first_B.device) + self._zero_1
        drawn = philox4x32((counters_C, call, 0, 0), (first_B[:, None], second_B[:, None]))
        return torch.stack(cast("tuple[Tensor, ...]", drawn), dim=-1).flatten(1)[:, :number]


class Drawing(nn.Module):
    """A module that draws in training."""

    def __init__(self, draws: RowDraws) -> None:
        super().__init__()
        self._draws, self._place, self.calls = draws, draws.places, 0
        draws.places += 1

    def _call(self) -> int:
        call = self.calls
        self.calls = call + 1
        return call

    def _words(self, samples: int, each: int) -> Tensor:
        return self._draws.words(self._place, self._call(), samples, each)

    def _kept(self, x: Tensor, each: int, drop: float) -> Tensor:
        """Whether to keep each sample, or each element of it, of shape N x 1... or as `x`."""
        shape = x.shape if each > 1 else (len(x), *[1] * (x.ndim - 1))
        return (self._words(len(x), each) < round((1 - drop) * WORDS)).reshape(shape)


class RowDropout(Drawing):
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


class AlikeDropout(RowDropout):
    """`torch.nn.Dropout` of what is computed for all images alike."""

    def __init__(self, of: nn.Dropout, draws: RowDraws) -> None:
        """As `of` drops."""
        super().__init__(of, draws)
        draws.has_alike = True

    def _kept(self, x: Tensor, each: int, drop: float) -> Tensor:
        """Whether to keep each element of `x`."""
        words = self._draws.words_alike(self._place, self._call(), x.numel())
        return (words < round((1 - drop) * WORDS)).reshape(x.shape)


class RowDropPath(Drawing):
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


class RowPatchDropout(Drawing):
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


ALIKE_MODULES: Final[tuple[tuple[type[nn.Module], str], ...]] = (
    (timm.layers.RelPosMlp, "mlp"),
    (WindowMultiHeadAttention, "meta_mlp"),
)
"""What has biases of positions computed, alike for all images -> the part of it that does so: vit_relpos and rmlp, swinv2_cr."""


def draw_by_rows(model: nn.Module, draws: RowDraws) -> None:
    """Have the modules of a model that drop anything draw by rows; those with rate 0 and all weights' names stay."""
    alike = {part for module in model.modules() for part in _alike_parts(module)}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            rate, made = ROW_MODULES.get(type(child), ("", nn.Module))
            if rate and getattr(child, rate):
                kind: type[Any] = AlikeDropout if parent in alike and made is RowDropout else made
                setattr(parent, name, kind(child, draws).train(child.training))
    for parent in model.modules():
        if called := drawing_parts(parent):
            # After each pass, which torch's compiler wants to leave no trace, and which activation checkpointing may end early.
            parent.register_forward_hook(_Recount(called), always_call=True)


def _alike_parts(module: nn.Module) -> list[nn.Module]:
    """The parts of a module that compute for all images alike."""
    return [module.get_submodule(part) for kind, part in ALIKE_MODULES if isinstance(module, kind)]


def drawing_parts(parent: nn.Module) -> list[Drawing]:
    """The drawing modules that the forward pass of a module calls itself; lists of modules have none."""
    if isinstance(parent, nn.ModuleList | nn.ModuleDict):
        return []
    found: list[Drawing] = []
    for child in parent.children():
        if isinstance(child, Drawing):
            found.append(child)
        elif isinstance(child, nn.ModuleList | nn.ModuleDict):
            found += [module for module in child.children() if isinstance(module, Drawing)]
    return found


class _Recount:
    """Has each pass of a module, activation checkpointing's second one too, count the calls of others from 0.

    A module that passes twice would so have them draw the same twice: `other_draws` refuses it.
    """

    def __init__(self, called: list[Drawing]) -> None:
        self._called = called

    def __call__(self, *_: Any) -> None:
        for module in self._called:
            module.calls = 0
