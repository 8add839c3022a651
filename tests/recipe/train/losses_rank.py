"""One rank of the loss tests: runs its rows of each case over gloo and saves what came out; the formula as printed.

Reads FOLDER/cases.pt (a list of (kind, global inputs, settings)), writes
FOLDER/rank-RANK.pt.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.loss.embedding_distillation import embedding_loss
from diht_k8s.stages.train.loss.hn_nce import HnNceSettings
from diht_k8s.stages.train.loss.losses import (
    duplicate_share,
    hn_nce_loss,
    hn_nce_loss_and_statistics,
    soft_label_loss,
)


def pairs(batch, width=8, dtype=torch.float64, noise=1.5):
    """Related image and text features of unit length."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, width, generator=generator, dtype=torch.float64)
    text = image + noise * torch.randn(batch, width, generator=generator, dtype=torch.float64)
    return tuple(torch.nn.functional.normalize(side, dim=1).to(dtype) for side in (image, text))


def own_rows(rows):
    return rows.chunk(dist.get_world_size())[dist.get_rank()].clone()


def shared_rows(pairs, surplus):
    """A rank's rows of some pairs, where the ranks need not divide them; surplus ones hold a value."""
    share = BatchShare(len(pairs), dist.get_rank(), dist.get_world_size())
    own = pairs[share.first : share.first + share.pairs]
    return torch.cat([own, own.new_full((share.surplus, *pairs.shape[1:]), surplus)])


def literal_direction(z, alpha, beta, differentiate_weights, negative):
    """-log e^{s_ii} / (alpha e^{s_ii} + sum_j w_ij e^{s_ij}) for anchors in rows, as the paper prints it."""
    tilted = torch.exp(beta * z) * negative
    weight = negative.sum(1, keepdim=True) * tilted / tilted.sum(1, keepdim=True)
    if not differentiate_weights:
        weight = weight.detach()
    positive = z.diagonal().exp()
    return -(positive / (alpha * positive + (weight * z.exp() * negative).sum(1))).log()


def literal_loss(image, text, scale, *, alpha=1.0, beta=0.25, differentiate_weights=True, negative=None):
    z = scale * image @ text.T
    negative = ~torch.eye(len(z), dtype=torch.bool) if negative is None else negative
    directions = [literal_direction(side, alpha, beta, differentiate_weights, negative) for side in (z, z.T)]
    return (directions[0].mean() + directions[1].mean()) / 2


def with_gradients(loss, *inputs):
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def largest_error(got, wanted):
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(got, wanted, strict=True))


def hn_nce(image, text, scale, ids, **settings):
    image, text, scale = own_rows(image).requires_grad_(), own_rows(text).requires_grad_(), scale.requires_grad_()
    ids = None if ids is None else own_rows(ids)
    loss = hn_nce_loss(image, text, scale, caption_ids_B=ids, group=dist.group.WORLD, **settings)
    return with_gradients(loss, image, text, scale)


def shared_hn_nce(image, text, scale, ids, **settings):
    """Surplus rows are longer than any feature and have a caption of a pair."""
    sides = [shared_rows(side, 3.0).requires_grad_() for side in (image, text)]
    scale, own_ids = scale.requires_grad_(), None if ids is None else shared_rows(ids, int(ids[0]))
    more = {"group": dist.group.WORLD, "num_pairs": len(image)}
    return with_gradients(hn_nce_loss(*sides, scale, caption_ids_B=own_ids, **settings, **more), *sides, scale)


def shared_statistics(image, text, scale, ids, **settings):
    sides, own_ids = [shared_rows(side, 3.0) for side in (image, text)], shared_rows(ids, int(ids[0]))
    full = HnNceSettings(**settings, group=dist.group.WORLD, num_pairs=len(image))
    found = hn_nce_loss_and_statistics(*sides, scale, full, own_ids)[1]
    return [*found, duplicate_share(own_ids, dist.group.WORLD, len(image))]


def shared_soft_label(logits, ids, probabilities, mask):
    logits = shared_rows(logits, 9.0).requires_grad_()
    rest = [shared_rows(part, value) for part, value in ((ids, 1), (probabilities, 0.5), (mask, False))]
    return with_gradients(soft_label_loss(logits, *rest, group=dist.group.WORLD), logits)


def shared_embedding(image, text, scale, teacher, **settings):
    sides = [shared_rows(side, 3.0).requires_grad_() for side in (image, text)]
    scale, own = scale.requires_grad_(), shared_rows(teacher, 0.0)
    return with_gradients(embedding_loss(*sides, scale, own, group=dist.group.WORLD, **settings), *sides, scale)


def unequal(image, text):
    rows = len(image) - dist.get_rank()
    try:
        hn_nce_loss(image[:rows], text[:rows], 1.0, group=dist.group.WORLD)
    except ValueError as error:
        return str(error)
    return "no error"


KINDS = {
    kind.__name__: kind
    for kind in (
        hn_nce,
        unequal,
        shared_hn_nce,
        shared_statistics,
        shared_soft_label,
        shared_embedding,
    )
}


def main(place: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, rank = Path(place), dist.get_rank()
    cases = torch.load(folder / "cases.pt")
    torch.save([KINDS[kind](*inputs, **settings) for kind, inputs, settings in cases], folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
