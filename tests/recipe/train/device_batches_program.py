"""Batches that a computation takes from `DeviceBatches` on the stand-in accelerator; prints what it saw as JSON.

Nothing here waits for the device, so that each order between streams has to be asked for.
"""

from __future__ import annotations

import json

import torch

from tests.recipe.train import stand_in, stand_in_streams

stand_in.install()

from diht_k8s.stages.train.data.batch import Batch  # noqa: E402  # after the device is there
from diht_k8s.stages.train.data.loader import DeviceBatches  # noqa: E402

DEVICE = torch.device("acc", 0)


class Read:
    """A reader that is late with its fourth batch."""

    def __init__(self) -> None:
        self.number = 0

    def __next__(self) -> Batch:
        self.number += 1
        tokens = torch.zeros(2, 4, dtype=torch.long)
        tokens[:, self.number % 4] = 9
        pixels = torch.full((2, 8, 8, 3), self.number, dtype=torch.uint8)
        return Batch(pixels, tokens, torch.tensor([1, 2]), None, ["a", "b"], {})

    def next_if_ready(self) -> Batch | None:
        return None if self.number == 3 else next(self)

    def close(self) -> None:
        pass


def main() -> None:
    sums, copies, lengths = [], [], []
    with stand_in.Strict():
        batches = DeviceBatches(Read(), DEVICE)  # pyright: ignore[reportArgumentType]
        for _ in range(6):
            stand_in_streams.trace.clear()
            batch = next(batches)
            copies.append([stream for stream, what in stand_in_streams.trace if what == "copies in"])
            sums.append(batch.seen_B.float().mean())
            lengths.append(batch.caption_lengths)
            del batch
    means = [float(each.host) for each in sums]
    print(json.dumps({"means": means, "copies": copies, "lengths": lengths, "races": stand_in_streams.races}))


if __name__ == "__main__":
    main()
