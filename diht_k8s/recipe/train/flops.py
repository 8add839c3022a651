"""FLOPs of a training step, counted by torch's FlopCounterMode on tensors without data; MFU.

A multiplication and an addition are two operations. Products are counted (layers, attention, loss), forward and
backward; norms, activations and the optimizer are not, as is the custom. The first layer has no gradient for the pixels,
so an image tower counts a little below the customary three forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diht_k8s.api.train import Train
from diht_k8s.recipe.train.loss.hn_nce import HnNceSettings
from diht_k8s.recipe.train.loss.losses import hn_nce_loss_and_statistics
from diht_k8s.recipe.train.model.student import Student, model_configuration

LOSS_PAIRS = 16
"""Pairs of the batch on which the loss is counted; its operations grow with their square."""


class PassFlops(NamedTuple):
    """Operations of a module for one sample."""

    forward: int
    both: int
    """forward and backward."""


class CountedStudent:
    """A student on the meta device, whose operations are counted."""

    def __init__(self, config: dict[str, Any], *, locked: bool = False, stored: bool = False, **heads: Any) -> None:
        """Make the model.

        Args:
            config: an open_clip model configuration.
            locked: whether the image tower does not learn.
            stored: whether no image passes through it, since its features are stored.
            heads: `num_objects`, `num_attributes` and `heads_input` of the `Student`.

        Raises:
            UserError: open_clip refuses the model.
        """
        with torch.device("meta"):
            self.model = Student(config, **heads)
        if locked:
            self.model.lock_image_tower()
        self._stored = stored

    def image_tower(self) -> PassFlops:
        """Of one image, counted on two: BatchNorm trains on no single value a channel."""
        images = torch.empty(2, 3, self.model.image_size, self.model.image_size, device="meta")
        if self._stored:
            assert self.model.locked is not None
            images = self.model.locked(images)
        counted = _counted(lambda: self.model.encode_image(images))
        return PassFlops(counted.forward // 2, counted.both // 2)

    def text_tower(self, length: int) -> PassFlops:
        """Of one caption of some tokens."""
        tokens = torch.zeros(1, length, dtype=torch.long, device="meta")
        return _counted(lambda: self.model.text_features(tokens))

    def heads(self) -> PassFlops:
        """Of one image's features through both concept heads."""
        heads = [head for head in (self.model.object_head, self.model.attribute_head) if head is not None]
        counts = [_of_head(head) for head in heads]
        return PassFlops(sum(each.forward for each in counts), sum(each.both for each in counts))


def _of_head(head: nn.Linear) -> PassFlops:
    features = torch.empty(1, head.in_features, device="meta", requires_grad=True)
    return _counted(lambda: head(features))


def _of_loss(train: Train, width: int) -> PassFlops:
    """Of the contrastive loss, for a pair and each pair of the global batch; the backward pass computes the logits again."""
    image, text = (torch.empty(LOSS_PAIRS, width, device="meta", requires_grad=True) for _ in range(2))
    scale = torch.empty((), device="meta", requires_grad=True)
    settings = HnNceSettings.of(train.loss)
    counted = _counted(lambda: hn_nce_loss_and_statistics(image, text, scale, settings, None)[0])
    return PassFlops(*(flops // LOSS_PAIRS**2 for flops in counted))


def _addmm(_sum: torch.Size, left: torch.Size, right: torch.Size, **_rest: Any) -> int:
    """Operations of `addmm_`, which is missing in the counter's table, unlike `addmm`."""
    return 2 * left[0] * left[1] * right[1]


def _counted(call: Callable[[], Tensor]) -> PassFlops:
    # The plain attention kernel: the counter does not know the fused one of CPUs. Both do the same products.
    with (
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm}) as counter,
        nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    ):
        made = call()
        forward = counter.get_total_flops()
        if made.requires_grad:  # a frozen tower has no backward pass
            made.sum().backward()
    return PassFlops(forward, counter.get_total_flops())


@dataclass(frozen=True)
class StepFlops:
    """Operations of one pair in a training step."""

    parts: dict[str, int]
    """forward and backward, by part."""
    recomputed: int
    """forward passes that run once more: logits of the loss, activation checkpointing, gradient caching."""

    @property
    def model(self) -> int:
        """Operations that the training needs; recomputation does not count, as is the custom for MFU."""
        return sum(self.parts.values())

    @property
    def executed(self) -> int:
        """Operations that the card computes."""
        return self.model + self.recomputed


def step_flops(train: Train, *, num_objects: int, num_attributes: int, in_parts: bool) -> StepFlops:
    """Count the operations of a pair in a training step.

    Args:
        train: the settings; the loss compares each pair with those of the global batch.
        num_objects: classes of the object head; 0: no head.
        num_attributes: classes of the attribute head; 0: no head.
        in_parts: whether a rank's batch runs by gradient caching.

    Raises:
        UserError: open_clip refuses the model.
    """
    config = model_configuration(train)
    heads = {
        "num_objects": num_objects,
        "num_attributes": num_attributes,
        "heads_input": train.distillation.heads_input,
    }
    student = CountedStudent(config, locked=train.lock_image_tower, stored=train.features == "Stored", **heads)
    length = student.model.clip.context_length
    image, text, heads = student.image_tower(), student.text_tower(length), student.heads()
    loss = PassFlops(*(flops * train.batch_size for flops in _of_loss(train, config["embed_dim"])))
    parts = {
        "image tower": image.both,
        "text tower": text.both,
        "loss": loss.both - loss.forward,
        "heads": heads.both,
    }
    recomputed = loss.forward
    if in_parts:
        recomputed += image.forward + text.forward + heads.forward
    if train.activation_checkpointing:
        student.model.set_grad_checkpointing()
        recomputed += student.image_tower().both - image.both
        recomputed += student.text_tower(length).both - text.both
    return StepFlops(parts, recomputed)


class MfuMeter:
    """Model FLOPs utilisation (MFU): operations of the towers, forward and backward, over the device's peak.

    Recomputed activations do not count, as is the custom.
    """

    def __init__(self, config: dict[str, Any], peak: float, *, locked: bool = False, stored: bool = False) -> None:
        """Count the operations of an image.

        Args:
            config: the model's configuration; it is built once more without memory.
            peak: of one device, in operations a second.
            locked: whether the image tower does not learn, so that it has no backward pass.
            stored: whether its features are stored, so that it has no forward pass either.
        """
        self._peak, self._student = peak, CountedStudent(config, locked=locked, stored=stored)
        self._student.model.eval()  # all patches of an image, whatever a training drops
        self._image = self._student.image_tower().both
        self._text: dict[int, int] = {}
        """of a caption by its length."""

    def operations(self, lengths: Sequence[int]) -> float:
        """Forward and backward of a batch whose texts, of so many tokens, are cut to its longest caption."""
        length = max(lengths)
        if length not in self._text:
            self._text[length] = self._student.text_tower(length).both
        return float(len(lengths) * (self._image + self._text[length]))

    def percent(self, operations: float, seconds: float) -> float:
        """Share of the peak."""
        return 100.0 * operations / (seconds * self._peak)
