"""Which caption of a pair an epoch sees (`train.captions: Drawn`).

The draw depends on (seed, epoch, uid) alone, so it is the same on any worker and after any restart, as the crop is.
"""

from __future__ import annotations

from itertools import accumulate

from diht_k8s.recipe.shards.samples import Sample
from diht_k8s.recipe.shards.several_captions import written_captions
from diht_k8s.recipe.train.data.rng import generator


def drawn_caption(sample: Sample, *, seed: int, epoch: int) -> str:
    """One of the pair's captions, drawn by their weights; its own caption if it has no others.

    Args:
        sample: the pair.
        seed: of the run.
        epoch: from 0.
    """
    captions = written_captions(sample.meta) if sample.problem is None else []
    if not captions:
        return sample.caption
    if len(captions) == 1:
        return captions[0][0]
    sums = list(accumulate(weight for _, weight in captions))
    place = generator(seed, "caption", epoch, sample.uid).random() * sums[-1]
    return next((text for (text, _), end in zip(captions, sums, strict=True) if place < end), captions[-1][0])
