"""Concept heads of the teacher: linear classifiers fitted on frozen features with soft targets, one per fold and one on
all images.

In: features, targets and folds of the training images. Out: weights that apply to raw features. Pure but for progress.
The paper (section 3.2) trains two linear classifiers with a soft-target cross-entropy; optimiser, schedule,
standardisation and folds are our choice, and so are heads of sigmoids, which may find no concept likely, and the
temperature. The fold heads and the head on all images are fitted together: one batch passes through all of them, and
each head ignores the images of its own fold. A head's fold is also its held-out slice, which decides when to stop.

Shapes: N training images, B of a batch, D features, C classes, M heads (K folds, then the one on all images; 1 without
cross-fitting).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from diht_k8s.api.label import Heads as HeadsConfig
from diht_k8s.data.feature_files import hash64
from diht_k8s.stages.label.targets import Targets, epoch_order, repeat_factors

Kind = Literal["Softmax", "Sigmoid"]
PATIENCE_EPOCHS = 3
"""Training stops when the held-out loss has not fallen for this many epochs; the best epoch's weights are kept."""
CHUNK = 4096
"""Images per step of an evaluation."""
TEMPERATURES = tuple(2 ** (step / 10) for step in range(-20, 21))
"""What a calibration chooses from: a quarter to four, 7 % apart."""
CALIBRATION_ENTRIES = 50_000_000
"""The temperature is chosen on the first held-out images, up to this many probabilities."""
HELD_OUT_PART = 20
"""Without cross-fitting one image in this many is held out."""


@dataclass(frozen=True)
class TrainingImages:
    """What the heads are trained on."""

    features_ND: Tensor
    """fp16."""
    fold_N: Tensor
    """int64, 0 to K - 1; without cross-fitting 0 for the held-out slice and 1 for the rest."""
    folds: int
    """K; 1 means no cross-fitting."""


@dataclass(frozen=True)
class Head:
    """A trained head, all folds of it."""

    weight_MCD: Tensor
    bias_MC: Tensor
    history: tuple[dict[str, float], ...] = ()
    """per epoch: loss and held_out_loss."""
    best_epoch: int = 0
    kind: Kind = "Softmax"
    temperature: float = 1.0
    """by which weights and biases have been divided."""

    def probabilities(self, features_BD: Tensor, fold_B: Tensor) -> Tensor:
        """Softmax or sigmoids of each image by the head that never saw its fold (float32)."""
        heads = len(self.weight_MCD)
        head_B = fold_B if heads > 1 else torch.zeros_like(fold_B)
        probabilities_BC = torch.empty(len(features_BD), self.weight_MCD.shape[1])
        for head in head_B.unique().tolist():
            rows = (head_B == head).nonzero().flatten()
            probabilities_BC[rows] = self._probabilities(head, features_BD[rows])
        return probabilities_BC

    def all_data_probabilities(self, features_BD: Tensor) -> Tensor:
        """Those of the head on all images: for comparison, it has seen the captions that it is compared with."""
        return self._probabilities(len(self.weight_MCD) - 1, features_BD)

    def _probabilities(self, head: int, features_BD: Tensor) -> Tensor:
        weight_CD, bias_C = self.weight_MCD[head], self.bias_MC[head]
        features_BD = features_BD.to(weight_CD.device, weight_CD.dtype)
        logits_BC = functional.linear(features_BD, weight_CD, bias_C)
        return (logits_BC.sigmoid() if self.kind == "Sigmoid" else logits_BC.softmax(dim=1)).cpu()


def folds_of(group_hash_N: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each pair: equal for pairs of one group or image, the same whoever computes it."""
    mixed_N = group_hash_N ^ hash64(f"fold {seed}")
    return mixed_N.remainder(folds) if folds > 1 else mixed_N.remainder(HELD_OUT_PART).clamp(max=1)


def image_loss(logits_BC: Tensor, target_BC: Tensor, kind: Kind) -> Tensor:
    """The loss of each image, (B,).

    Args:
        logits_BC: of one head.
        target_BC: 1/m on present classes.
        kind: Softmax: cross-entropy against these targets (the paper's); Sigmoid: the sum over classes of the binary
            cross-entropies against whether the class is present.
    """
    if kind == "Softmax":
        return functional.cross_entropy(logits_BC, target_BC, reduction="none")
    present_BC = (target_BC > 0).to(logits_BC.dtype)
    return functional.binary_cross_entropy_with_logits(logits_BC, present_BC, reduction="none").sum(dim=1)


def soft_target_loss(logits_BMC: Tensor, target_BC: Tensor, fold_B: Tensor, kind: Kind = "Softmax") -> Tensor:
    """The loss of several heads that each leave out one fold.

    Args:
        logits_BMC: M heads' logits.
        target_BC: 1/m on present classes.
        fold_B: each image's fold.
        kind: of the heads, see `image_loss`.

    Returns:
        (M,) mean loss of each head over the images that it may see: those of other folds than its own.
    """
    batch, heads, _ = logits_BMC.shape
    target_BMC = target_BC[:, None].expand_as(logits_BMC)
    loss_BM = image_loss(logits_BMC.flatten(0, 1), target_BMC.flatten(0, 1), kind)
    seen_BM = fold_B[:, None] != torch.arange(heads, device=fold_B.device)
    return (loss_BM.view(batch, heads) * seen_BM).sum(dim=0) / seen_BM.sum(dim=0).clamp(min=1)


State = dict[str, Any]
"""What a training needs to resume after an epoch: plain values and tensors, so that reading it runs no code."""
OnEpoch = Callable[[int, dict[str, float], Callable[[], State]], None]
"""Called with the number of finished epochs, the last one's figures and a function that returns the state; may raise
to stop.
"""


def fit_head(
    images: TrainingImages,
    targets: Targets,
    config: HeadsConfig,
    seed: int,
    device: torch.device,
    on_epoch: OnEpoch,
    state: State | None = None,
) -> Head:
    """Fit one concept head (objects or attributes) in all folds.

    Args:
        images: features and folds.
        targets: concepts of the same images; a softmax leaves out those without any, to sigmoids they show what is
            absent.
        config: kind, epochs, learning rate, batch size, calibration.
        seed: of the order of images.
        device: where the training runs.
        on_epoch: called after each epoch; may raise to stop.
        state: of an interrupted training of the same head: the result is the same to the bit.

    Returns:
        Weights of the epoch with the least held-out loss, applicable to raw features.
    """
    fit = _Fit(images, targets, config, seed, device)
    if state is not None:
        fit.restore(state)
    while not fit.is_over():
        fit.epoch()
        on_epoch(len(fit.history), fit.history[-1], fit.state)
    return fit.head()


class _Fit:
    """Weights, optimiser, schedule and best epoch of one head in all folds, on standardised features."""

    def __init__(
        self, images: TrainingImages, targets: Targets, config: HeadsConfig, seed: int, device: torch.device
    ) -> None:
        self.images, self.targets, self.config, self.device = images, targets, config, device
        # up-sampling would teach sigmoids a frequency that the images do not have
        self.factor_N = repeat_factors(targets) if config.kind == "Softmax" else np.ones(len(targets.present))
        self.rng = np.random.default_rng(seed)
        heads = images.folds + 1 if images.folds > 1 else 1
        self.mean_D, self.scale_D = _standardisation(images.features_ND)
        bias_C = _frequency_logits(targets, config.kind)
        dimension = images.features_ND.shape[1]
        self.weight_MCD = torch.zeros(heads, targets.classes, dimension, device=device, requires_grad=True)
        self.bias_MC = bias_C.repeat(heads, 1).to(device).requires_grad_()
        self.optimizer = torch.optim.AdamW(
            [{"params": [self.weight_MCD]}, {"params": [self.bias_MC], "weight_decay": 0.0}],
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=True,
        )
        steps = config.epochs * max(1, math.ceil(self.factor_N.sum() / config.batch_size))
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)
        self.history: list[dict[str, float]] = []
        self.best, self.best_loss, self.best_epoch = self._weights(), math.inf, 0

    def is_over(self) -> bool:
        """Whether all epochs are done, or the held-out loss has not fallen for a while."""
        done = len(self.history)
        return done >= self.config.epochs or done - self.best_epoch >= PATIENCE_EPOCHS

    def epoch(self) -> None:
        """One pass over the up-sampled images, and the loss on the images that a head may not see."""
        order = epoch_order(self.factor_N, self.rng)
        total = sum(self._step(rows_B) * len(rows_B) for rows_B in _batches(order, self.config.batch_size))
        loss = total / max(1, len(order))
        held_out = self._held_out_loss()
        self.history.append({"loss": loss, "held_out_loss": loss if held_out is None else held_out})
        if self.history[-1]["held_out_loss"] < self.best_loss:
            self.best, self.best_loss = self._weights(), self.history[-1]["held_out_loss"]
            self.best_epoch = len(self.history)

    def _step(self, rows_B: npt.NDArray[np.int64]) -> float:
        """Learn from one batch; the mean loss over heads."""
        loss_M = soft_target_loss(*self._forward(rows_B), self.config.kind)
        self.optimizer.zero_grad()
        loss_M.sum().backward()  # heads share no weight: the sum trains each as if it were alone
        self.optimizer.step()
        self.schedule.step()
        return float(loss_M.detach().mean())

    @torch.no_grad()
    def _held_out_loss(self) -> float | None:
        """Mean loss over the held-out images, each by the head that may not see it, without up-sampling; None without
        any.
        """
        rows = self._held_out_rows()
        if not len(rows):
            return None
        weights = (self.weight_MCD, self.bias_MC)
        sums = [self._held_out_sums(chunk, weights, (1.0,))[0] for chunk in _batches(rows, CHUNK)]
        return float(sum(sums)) / len(rows)

    def _held_out_rows(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero((self.factor_N > 0) & (self.images.fold_N < self.images.folds).numpy())

    def _held_out_sums(
        self, rows_B: npt.NDArray[np.int64], weights: tuple[Tensor, Tensor], temperatures: Sequence[float]
    ) -> npt.NDArray[np.float64]:
        """The summed loss of some images at each temperature, each image by the head that may not see it."""
        fold_B = self.images.fold_N[torch.from_numpy(rows_B)]
        totals = np.zeros(len(temperatures))
        for fold in fold_B.unique().tolist():
            rows = rows_B[(fold_B == fold).numpy()]
            logits_BC = functional.linear(self._standardised(rows), weights[0][fold], weights[1][fold])
            target_BC = self.targets.soft(rows).to(self.device)
            totals += [float(image_loss(logits_BC / each, target_BC, self.config.kind).sum()) for each in temperatures]
        return totals

    @torch.no_grad()
    def _temperature(self) -> float:
        """The one of `TEMPERATURES` with the least held-out loss under the best weights; 1 if nothing is held out."""
        rows = self._held_out_rows()[: max(1, CALIBRATION_ENTRIES // self.targets.classes)]
        if not len(rows):
            return 1.0
        sums = [self._held_out_sums(chunk, self.best, TEMPERATURES) for chunk in _batches(rows, CHUNK)]
        return TEMPERATURES[int(np.sum(sums, axis=0).argmin())]

    def _standardised(self, rows_B: npt.NDArray[np.int64]) -> Tensor:
        features_BD = self.images.features_ND[torch.from_numpy(rows_B)].float()
        return ((features_BD - self.mean_D) * self.scale_D).to(self.device)

    def _forward(self, rows_B: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        features_BD = self._standardised(rows_B)
        heads, classes, _ = self.weight_MCD.shape
        logits_BMC = functional.linear(features_BD, self.weight_MCD.flatten(0, 1), self.bias_MC.flatten())
        target_BC = self.targets.soft(rows_B).to(self.device)
        fold_B = self.images.fold_N[torch.from_numpy(rows_B)].to(self.device)
        return logits_BMC.view(-1, heads, classes), target_BC, fold_B

    def _weights(self) -> tuple[Tensor, Tensor]:
        """A copy of the weights as they are now."""
        return self.weight_MCD.detach().clone(), self.bias_MC.detach().clone()

    def state(self) -> State:
        """What `restore` needs."""
        return {
            "weights": self._weights(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),  # its integers have 128 bits
            "history": self.history,
            "best": (self.best, self.best_loss, self.best_epoch),
        }

    def restore(self, state: State) -> None:
        """Resume after the epoch of a state."""
        with torch.no_grad():
            self.weight_MCD.copy_(state["weights"][0])
            self.bias_MC.copy_(state["weights"][1])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.history = list(state["history"])
        (weight_MCD, bias_MC), self.best_loss, self.best_epoch = state["best"]
        self.best = weight_MCD.to(self.device), bias_MC.to(self.device)  # they were read on the CPU

    def head(self) -> Head:
        """The best epoch's weights, with the standardisation and the temperature folded in."""
        temperature = self._temperature() if self.config.calibrate else 1.0
        weight_MCD, bias_MC = (tensor.cpu() / temperature for tensor in self.best)
        weight_MCD = weight_MCD * self.scale_D
        bias_MC = bias_MC - weight_MCD @ self.mean_D
        return Head(weight_MCD, bias_MC, tuple(self.history), self.best_epoch, self.config.kind, temperature)


def _frequency_logits(targets: Targets, kind: Kind) -> Tensor:
    """Biases that make a head without weights the frequency baseline, (C,)."""
    counts_C = targets.counts()
    mentions, images = max(1, int(counts_C.sum())), max(1, len(targets.present))
    if kind == "Softmax":
        return torch.from_numpy(counts_C / mentions).clamp(min=0.1 / mentions).log().float()
    share_C = torch.from_numpy(counts_C / images).clamp(min=0.1 / images, max=1 - 0.1 / images)
    return share_C.logit().float()


def _standardisation(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of each feature; features that never change get scale 0."""
    count, dimension = features_ND.shape
    sum_D, square_D = torch.zeros(dimension, dtype=torch.float64), torch.zeros(dimension, dtype=torch.float64)
    for start in range(0, count, CHUNK):
        chunk = features_ND[start : start + CHUNK].double()
        sum_D += chunk.sum(dim=0)
        square_D += chunk.square().sum(dim=0)
    mean_D = sum_D / max(1, count)
    deviation_D = (square_D / max(1, count) - mean_D.square()).clamp(min=0).sqrt()
    scale_D = torch.where(deviation_D > 1e-6, 1 / deviation_D, torch.zeros_like(deviation_D))
    return mean_D.float(), scale_D.float()


def _batches(rows: npt.NDArray[np.int64], size: int) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
