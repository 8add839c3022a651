"""Predicted share of HN-NCE and of the copies to the card in a training step on H100s. Nothing is measured.

Operations and bytes are counted at the data sheet's peaks (`estimate.loss_time`), layers at 45 % of bf16's. The slowest
of products, memory and L2 cache counts: a lower bound. Assumed: 5.5 TB/s of cache, 2 µs between kernels. Left out:
collectives. Tiles in plain torch: 4.8 % for B/32 at batch 32,768.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from benchmarks._arguments import make_parser
from diht_k8s.api.train import Train
from diht_k8s.stages.train.data.share import BatchShare
from diht_k8s.stages.train.estimate.gpus import gpu_of
from diht_k8s.stages.train.estimate.loss_time import contrastive_cost, contrastive_seconds
from diht_k8s.stages.train.flops import StepWork
from diht_k8s.stages.train.model.student import model_configuration

MODELS: Final = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
LINK_BYTES_PER_SECOND: Final = (50e9, 25e9)
"""From page-locked memory to a card over PCIe 5.0 with 16 lanes, at best and beside other cards; an assumption."""

Row = dict[str, Any]


def rows(gpu: str, ranks: list[int], batch: int, utilisation: float) -> list[Row]:
    """A row for each model and number of cards.

    Args:
        gpu: name of the card.
        ranks: numbers of cards.
        batch: pairs of the global batch.
        utilisation: share of the 16-bit peak at which the layers compute, nothing recomputed.
    """
    card, found = gpu_of(gpu), list[Row]()
    for model in MODELS:
        train = Train.model_validate({"model": model, "samples": 1, "batchSize": batch})
        work, config = StepWork(train, num_objects=0, num_attributes=0), model_configuration(train)
        layers = work.of_pair(work.context_length).layers
        for cards in ranks:
            pairs = BatchShare(batch, 0, cards).rows
            row: Row = {"model": model, "cards": cards, "batch": batch, "pairs": pairs}
            row["layers_ms"] = 1e3 * pairs * layers / (utilisation * card.peak("bf16"))
            for name, fused in (("tiles", False), ("fused", True)):
                cost = contrastive_cost(card, pairs, batch, config["embed_dim"], fused=fused)
                seconds = 1e3 * contrastive_seconds(card, cost)
                row[name] = {"gigabytes": cost.moved / 1e9, "kernels": cost.launches, "ms": seconds}
                row[name]["percent"] = 100 * seconds / (row["layers_ms"] + seconds)
            copied = pairs * (3 * work.image_size**2 + 8 * work.context_length)
            row["copies"] = {"megabytes": copied / 1e6, "ms": [1e3 * copied / link for link in LINK_BYTES_PER_SECOND]}
            # The copy of the next batch ends before the step does.
            row["copies"]["hidden"] = row["copies"]["ms"][-1] < row["layers_ms"]
            found.append(row)
    return found


def markdown(found: list[Row]) -> str:
    """A table of the rows."""
    lines = [
        "| model | cards | batch | layers | tiles: moved, kernels, time, share | fused | copies | exposed before | "
        "after |",
        "|" + "---|" * 9,
    ]
    for row in found:
        losses = (
            f"{part['gigabytes']:.1f} GB, {part['kernels']:,}, {part['ms']:.1f} ms, **{part['percent']:.1f} %**"
            for part in (row["tiles"], row["fused"])
        )
        copies = row["copies"]
        exposed = " to ".join(f"{ms:.0f}" for ms in copies["ms"])
        cells = (
            *(row["model"], row["cards"], f"{row['batch']:,}", f"{row['layers_ms']:,.0f} ms", *losses),
            *(f"{copies['megabytes']:.0f} MB", f"{exposed} ms", "0" if copies["hidden"] else f"{exposed} ms"),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print both."""
    parser = make_parser("loss_share", __doc__)
    parser.add_argument("--gpu", default="H100", help="a card of `diht estimate` (default: %(default)s)")
    parser.add_argument("--cards", type=int, action="append", help="numbers of cards (default: 8 and 16)")
    parser.add_argument("--batch", type=int, default=32768, help="pairs of the global batch (default: %(default)s)")
    parser.add_argument("--mfu", type=float, default=0.45, help="of the layers (default: %(default)s)")
    given = parser.parse_args()
    found = rows(given.gpu, given.cards or [8, 16], given.batch, given.mfu)
    print(markdown(found), file=sys.stderr)
    print(
        json.dumps({"benchmark": "loss_share", "gpu": given.gpu, "batch": given.batch, "mfu": given.mfu, "rows": found})
    )


if __name__ == "__main__":
    main()
