"""The teacher's own classes as concepts: ImageNet's names joined to the vocabulary by words, its classifier calibrated
on captions.

In: the counted vocabulary, the teacher's classifier, features and captions of the training images. Out: a longer
vocabulary, and rows of the object head for what is new in it. Ours, not the paper's: a small set has too few captions
to train a head for "wheelbarrow", which the teacher knows.

A class that a caption concept names already is left to the trained head. The others keep the teacher's weights: a
class' logit is standardised over the training images, since drawings shift all logits, and p = sigmoid(scale x logit +
offset) with one scale and one offset for all classes, fitted on whether captions name them. So they say something where
captions bear them out, and nothing elsewhere.

Shapes: N training images, J own classes, D features, M heads, C trained classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diht_k8s.api.errors import UserError
from diht_k8s.stages.label.heads import Head, TrainingImages
from diht_k8s.stages.label.targets import Targets
from diht_k8s.stages.label.vocabulary import Concepts, TeacherClass

IMAGENET_CLASSES: Final = 1000
MAX_ENTRIES: Final = 20_000_000
"""Scale and offset are fitted on the first images, up to this many logits: they are two numbers."""
STEPS: Final = 50
"""of L-BFGS, many more than it needs for two numbers."""


def imagenet_names() -> list[list[str]]:
    """The names of each of ImageNet-1k's classes in lower case, the usual one first (timm's list, from WordNet)."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    described = [info.index_to_description(number) for number in range(IMAGENET_CLASSES)]
    return [[name.strip().lower() for name in text.split(",")] for text in described]


def imagenet_definitions() -> list[str]:
    """What each of ImageNet-1k's classes is, in some words (timm's list, from WordNet)."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    described = [info.index_to_description(number, detailed=True) for number in range(IMAGENET_CLASSES)]
    return [text.partition(": ")[2] for text in described]


def class_captions(classifier: tuple[Tensor, Tensor] | None) -> tuple[list[str], NDArray[np.float64]] | None:
    """Each of the teacher's classes as a caption of all its names, then as its definition, and the weights of both
    [2000, D]; None where it has other classes or none.
    """
    if classifier is None or len(classifier[0]) != IMAGENET_CLASSES:
        return None
    captions = [", ".join(synonyms) for synonyms in imagenet_names()] + imagenet_definitions()
    return captions, np.concatenate([classifier[0].double().numpy()] * 2)


def join_classes(concepts: Concepts, counts: Mapping[str, int], names: Sequence[Sequence[str]]) -> Concepts:
    """The concepts, and behind them the classes of which they have no name.

    Args:
        concepts: the classes that captions gave.
        counts: in how many captions each name occurs.
        names: those of each class of the teacher, the usual one first.
    """
    taken, added = set(concepts.names), list[TeacherClass]()
    for number, synonyms in enumerate(names):
        if taken.isdisjoint(synonyms):
            added.append(TeacherClass(number, tuple(synonyms)))
            taken.update(synonyms)
    return Concepts(
        (*concepts.names, *(each.names[0] for each in added)),
        (*concepts.counts, *(sum(counts.get(name, 0) for name in each.names) for each in added)),
        tuple(added),
    )


def with_own_classes(
    head: Head, images: TrainingImages, targets: Targets, classifier: tuple[Tensor, Tensor] | None, concepts: Concepts
) -> Head:
    """A trained head, longer by the teacher's own classes.

    Args:
        head: trained on the concepts that captions gave.
        images: features of the training images.
        targets: of all concepts.
        classifier: the teacher's weights [1000, D] and biases [1000].
        concepts: all of them.

    Raises:
        UserError: the teacher's weights have no classifier of ImageNet's classes.
    """
    if classifier is None or len(classifier[1]) != IMAGENET_CLASSES:
        raise UserError(
            f"label.teacher.ownClasses: the teacher's weights have no classifier of ImageNet's {IMAGENET_CLASSES} "
            "classes: "
            "unset it, or give weights with one"
        )
    numbers = [each.number for each in concepts.teacher_classes]
    weight_JD, bias_J = (tensor[numbers].float() for tensor in classifier)
    count = max(1, min(len(images.features_ND), MAX_ENTRIES // max(1, len(numbers))))
    logits_NJ = functional.linear(images.features_ND[:count].float(), weight_JD, bias_J)
    mean_J, deviation_J = logits_NJ.mean(dim=0), logits_NJ.std(dim=0, correction=0).clamp(min=1e-6)
    present_NJ = targets.soft(np.arange(count))[:, len(concepts) - len(numbers) :] > 0
    scale, offset = _calibrated((logits_NJ - mean_J) / deviation_J, present_NJ.float())
    weight_JD = weight_JD * (scale / deviation_J)[:, None]
    bias_J = (bias_J - mean_J) * scale / deviation_J + offset
    heads = len(head.weight_MCD)
    return replace(
        head,
        weight_MCD=torch.cat([head.weight_MCD, weight_JD.expand(heads, -1, -1)], dim=1),
        bias_MC=torch.cat([head.bias_MC, bias_J.expand(heads, -1)], dim=1),
    )


def _calibrated(logits_NJ: Tensor, present_NJ: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the offset with the least binary cross-entropy; where no caption names a class, all become
    unlikely.
    """
    rate = ((present_NJ.sum() + 0.5) / (present_NJ.numel() + 1)).clamp(max=1 - 1e-6)
    values = torch.stack([torch.ones(()), rate.logit()]).requires_grad_()
    optimizer = torch.optim.LBFGS([values], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(values[0] * logits_NJ + values[1], present_NJ)
        (loss * len(present_NJ.T)).backward()
        return loss.detach() * len(present_NJ.T)

    if present_NJ.any():
        optimizer.step(closure)
    scale, offset = values.detach()
    return scale.clamp(min=0), offset
