"""Never below the start (`train.interpolate`): the exported weights are the best of some between start and end.

In: the model's weights at the start and at the end, held-out pairs. Out: the weights that find most of these pairs, and
what each share of the way finds. Weight-space ensembles (WiSE-FT, arXiv 2109.01903) whose share held-out pairs choose;
not the paper's.

Shapes: N pairs, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from diht_k8s.report.per_image import Difference, paired_differences
from diht_k8s.stages.train.checkpoint.tensors import load_weights
from diht_k8s.stages.train.model.student import Student
from diht_k8s.stages.train.validation import HeldOutValidation

START: Final = "|start"
"""Ends the key of a weight of the start in a checkpoint."""
TOWERS: Final = "clip."
"""Begins the names of their weights."""
FOUND: Final = 5
"""Rank of the last place where a pair counts as found."""
ROWS: Final = 1024
"""Of the similarities, at once."""


@dataclass(frozen=True)
class Interpolation:
    """Weights between start and end."""

    state: dict[str, Tensor]
    """of the student; the concept heads are those of the end."""
    share: float
    """of the way from start to end."""
    recalls: dict[float, float]
    """R@5 in percent, mean of both directions, by share."""
    gain: Difference | None
    """of R@5 over the start, paired over the pairs that chose the share; None where the start was not tried."""

    def summary(self) -> dict[str, Any]:
        """For the training's summary; the gain in points."""
        recalls = {f"{share:g}": value for share, value in self.recalls.items()}
        found = {"share": self.share, "recall_at_5": recalls}
        if self.gain is None:
            return found
        value, low, high = (round(100 * part, 1) for part in (self.gain.value, self.gain.low, self.gain.high))
        return found | {"gain": {"value": value, "interval": [low, high]}}


def start_state(model: Student) -> dict[str, Tensor]:
    """The start, as checkpoints keep it: a copy of the towers' weights."""
    return {
        f"{name}{START}": value.detach().clone()
        for name, value in model.state_dict().items()
        if name.startswith(TOWERS)
    }


def best_between(
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    shares: Sequence[float],
    model: Student,
    held_out: HeldOutValidation,
    device: torch.device,
) -> Interpolation:
    """Find the share of the way whose weights find most held-out pairs; of equals the one nearest to the end.

    Args:
        start: see `start_state`; what it lacks, such as a locked tower, stays as it is in the end.
        end: weights and buffers under a checkpoint's names.
        shares: to be tried, 0 the start and 1 the end.
        model: takes the weights; without concept heads.
        held_out: the pairs.
        device: of the computation.

    Raises:
        DataError: the held-out shards have no pair, or too many of them are damaged.
    """
    model = model.to(device).eval()
    names = {key: name for key in end if (name := key.removeprefix("buffer|")).startswith(TOWERS)}
    moved = any(
        not torch.equal(start[f"{name}{START}"], end[key]) for key, name in names.items() if _moves(start, name)
    )
    found, hits, image_ND = dict[float, dict[str, Tensor]](), dict[float, Tensor](), None
    for share in shares:
        found[share] = {key: _between(start, end[key], name, share) for key, name in names.items()}
        load_weights(model, {names[key]: value for key, value in found[share].items()})
        if image_ND is None or moved:
            image_ND = held_out.image_embeddings(model, device)
        text_ND, captions = held_out.text_embeddings(model, device)
        hits[share] = hits_of(image_ND, text_ND, captions)
    recalls = {share: round(100 * hits_N.mean().item(), 2) for share, hits_N in hits.items()}
    best = max(shares, key=lambda share: (recalls[share], share))
    gain = _gain(hits[0], hits[best]) if 0 in hits else None
    return Interpolation({**end, **found[best]}, best, recalls, gain)


def _gain(start_N: Tensor, best_N: Tensor) -> Difference:
    first_11N, second_11N = (hits_N.numpy()[None, None] for hits_N in (start_N, best_N))
    weights_1N = np.ones((1, len(start_N)))
    return paired_differences(first_11N, second_11N, weights_1N, np.random.default_rng(0))[0]


def _moves(start: Mapping[str, Tensor], name: str) -> bool:
    """Whether a weight or statistic of the image side may differ between start and end."""
    return name.startswith(f"{TOWERS}visual.") and f"{name}{START}" in start


def _between(start: Mapping[str, Tensor], end: Tensor, name: str, share: float) -> Tensor:
    first = start.get(f"{name}{START}")
    return end if first is None or not end.is_floating_point() else torch.lerp(first.to(end), end, share)


def hits_of(image_ND: Tensor, text_ND: Tensor, captions: Sequence[str]) -> Tensor:
    """[N] whether each image finds its caption within the first `FOUND` of all, and the caption its image: 0, 0.5 or 1;
    images of one caption answer it equally. The mean is R@5, averaged over both directions.

    Args:
        image_ND: unit embeddings of the images.
        text_ND: of their captions.
        captions: the same as text.
    """
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    caption_N = torch.tensor([numbers[caption] for caption in captions])
    return (_finds(image_ND, text_ND, caption_N) + _finds(text_ND, image_ND, caption_N)) / 2


def _finds(query_ND: Tensor, other_ND: Tensor, caption_N: Tensor) -> Tensor:
    first = [(rows @ other_ND.T).topk(min(FOUND, len(other_ND))).indices.cpu() for rows in query_ND.split(ROWS)]
    return (caption_N[torch.cat(first)] == caption_N[:, None]).any(dim=1).double()
