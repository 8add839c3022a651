"""The order of training samples: repeated reads, shuffle quality beside a full shuffle, a resume. Counts, not times.

- `amplification`: reads of all readers (ranks x loader workers) over what there is.
- `shuffle`: `together` is the chance that neighbours (within 63 places) share a batch; `again` how many pairs of a
  batch meet in one of the next epoch. Computed at 438 million pairs: 3.03 with a window of 65,536, 1.06 with
  the default's 524,288.
- `resume`: bytes read from the middle of an epoch; more than 1 % again below some 10 million pairs.
- `state`: a checkpoint read by as many processes as it has parts; by fewer, up to 3 x.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks._arguments import make_parser
from diht_k8s.api.layout import Layout
from diht_k8s.api.run import Stage
from diht_k8s.data.shards.shard_index import ShardIndex, index_of
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.train.checkpoint import checkpoint
from diht_k8s.stages.train.checkpoint.checkpoint import Cursor, CursorOrder
from diht_k8s.stages.train.checkpoint.fencing import Fence
from diht_k8s.stages.train.data import dataset
from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.data.collate import LaneReader
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.sampler import LaneSampler, OrderSizes, order_sizes, sampler_over

PAPER = 438_000_000
NEAR = 63
VIT_L_PARAMETERS = 427_616_513
"""Of open_clip's ViT-L-14, towers and scale; a checkpoint holds weight and both moments in fp32."""


def read_amplification(order: OrderSizes, batch_size: int, readers: int) -> float:
    """Samples that all readers together read, over those that there are; readers without a pair read none."""
    each, shares = batch_size // order.lanes, [BatchShare(batch_size, rank, readers) for rank in range(readers)]
    parts = [share.part(0, 1) for share in shares if share.pairs]
    return sum(part[-1] // each - part[0] // each + 1 for part in parts) / order.lanes


def amplification(batch_size: int, shards: int, size: int) -> dict[str, Any]:
    """Reads by number of readers."""
    order = order_sizes(shards * size, batch_size)
    table = []
    for readers in range(1, min(256, batch_size) + 1):
        table.append(
            {
                "readers": readers,
                "lanes": round(read_amplification(order, batch_size, readers), 4),
                "bound": round(1 + (readers - 1) / order.lanes, 4),
            }
        )
    return {"batch": batch_size, "lanes": order.lanes, "table": table}


def batches_of(sampler: LaneSampler, sizes: Sequence[int], batch_size: int, epoch: int) -> list[np.ndarray]:
    """For each shard the batch in which each of its samples is, in an epoch."""
    found, begins = np.full(sum(sizes), -1, np.int64), np.concatenate([[0], np.cumsum(sizes)])
    first = epoch * sampler.total
    lanes = sampler.order.lanes
    for lane in range(lanes):
        blocks = sampler.blocks(epoch, lane)
        numbers = np.concatenate(list(sampler.lane(epoch, lane).elements()))
        block = np.searchsorted(blocks.begins, numbers, side="right") - 1
        places = begins[blocks.shards[block]] + blocks.firsts[block] + numbers - blocks.begins[block]
        turns = np.arange(len(numbers)) - ((lane - first) // lanes)
        found[places] = (turns * lanes + lane) // batch_size
    return np.split(found, begins[1:-1])


def full_shuffle(sizes: Sequence[int], batch_size: int, epoch: int) -> list[np.ndarray]:
    """The same of a full shuffle."""
    total = sum(sizes)
    positions = np.random.default_rng(epoch).permutation(total) + epoch * total
    return np.split(positions // batch_size, np.cumsum(sizes)[:-1])


def quality(epochs: Sequence[Sequence[np.ndarray]], batch_size: int) -> dict[str, float]:
    """How often neighbours share a batch, and how often pairs of one batch share one in the next epoch."""
    near = shared = again = 0
    for distance in range(1, NEAR + 1):
        for first, second in zip(*epochs, strict=True):
            if len(first) <= distance:
                continue
            one, other = (batch[distance:] == batch[:-distance] for batch in (first, second))
            near += len(one)
            shared += int(one.sum())
            again += int((one & other).sum())
    total = sum(map(len, epochs[0]))
    chance = batch_size / total
    # Pairs of a batch: those of neighbours are counted; all others meet again by chance.
    pairs = total * (batch_size - 1) / 2
    repeated = again + (pairs - shared) * chance
    return {
        "together": round(shared / near, 4),
        "neighbours_in_a_batch": round(2 * shared / total, 2),
        "again": round(repeated / (pairs * chance), 4),
        # Neighbours meet again as often whatever the size of the epoch, and all others by its chance.
        "again_at_438_million": round(1 + (again - shared * chance) / pairs / (batch_size / PAPER), 2),
    }


def shuffle(batch_size: int, shards: int, size: int) -> dict[str, Any]:
    """Lanes by size of their window, and a full shuffle."""
    sizes = [size] * shards
    windows = (1 << 16, 1 << 17, 1 << 18, 1 << 19)
    kinds = {f"lanes, window {window}": sampler_over(sizes, batch_size, 0, window=window) for window in windows}
    kinds["lanes, window as chosen"] = sampler_over(sizes, batch_size, 0)
    found = {
        name: quality([batches_of(sampler, sizes, batch_size, epoch) for epoch in (0, 1)], batch_size)
        for name, sampler in kinds.items()
    }
    found["full shuffle"] = quality([full_shuffle(sizes, batch_size, epoch) for epoch in (0, 1)], batch_size)
    return {"batch": batch_size, "pairs": shards * size, "orders": found}


class Counting(Storage):
    """Counts the bytes of shards and of states."""

    read = 0
    requests = 0

    def read_range(self, uri: str, begin: int, end: int, *rest: Any, **more: Any) -> bytes:
        """Read, and count the bytes."""
        data = super().read_range(uri, begin, end, *rest, **more)
        self.read, self.requests = self.read + len(data), self.requests + 1
        return data

    def read_bytes(self, uri: str) -> bytes:
        """Read, and count the bytes of a state."""
        data = super().read_bytes(uri)
        self.read += len(data) * uri.endswith(".safetensors")
        return data


class Indexed(dict[str, ShardIndex]):
    """Indexes by name."""

    def of(self, name: str) -> ShardIndex | None:
        """The index of a shard."""
        return self.get(name)


def read_epoch(source: ShardDataset, sampler: LaneSampler, batch_size: int, positions: range) -> None:
    """Read the rows of some batches, as one reader."""
    readers: dict[int, tuple[int, LaneReader]] = {}
    for start in positions:
        for position in sampler.positions(start, batch_size, range(batch_size)):
            epoch, lane, element = sampler.locate(position)
            if lane not in readers or readers[lane][0] != epoch:
                readers[lane] = epoch, LaneReader(source, sampler, epoch, lane, element)
            readers[lane][1].take(element)


def resume(batch_size: int, shards: int, size: int) -> dict[str, Any]:
    """Bytes of shards for the second half of an epoch, undisturbed and in two pieces, relative to the epoch."""
    rng = np.random.default_rng(0)
    dataset.SHARD_CACHE_BYTES = 0  # as of a large set: nothing is kept for the next epoch
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for number in range(shards):
            samples = (
                (f"{number:04}{index:05}", {"jpg": rng.bytes(int(rng.integers(400, 1600))), "txt": b"a dog"})
                for index in range(size)
            )
            uri = f"{folder}/{number:05}.tar"
            write_samples(Storage(), uri, samples)
            made.append(Shard(f"s-{number:05}", uri, "s", samples=size))
        indexes = Indexed({shard.name: index_of(Storage(), shard.uri) for shard in made})
        total_bytes = sum(Path(shard.uri).stat().st_size for shard in made)
        # What is chosen for 12.8 million pairs, scaled down: lanes x block and window are as large parts of the epoch.
        window = int(62_464 / 12_800_000 * shards * size)
        sampler = sampler_over([size] * shards, batch_size, 0, lanes=32, window=window)
        steps = sampler.total // batch_size
        half = steps // 2
        counted = {}
        for name, spans in {
            "whole": [range(0, steps)],
            "in two pieces": [range(0, half), range(half, steps)],
        }.items():
            storage = Counting()
            for span in spans:
                source = ShardDataset(storage, made, indexes=indexes)
                read_epoch(
                    source, sampler, batch_size, range(span.start * batch_size, span.stop * batch_size, batch_size)
                )
            counted[name] = storage.read
    return {
        "pairs": sampler.total,
        "order": sampler.order._asdict(),
        "whole_epoch_read": round(counted["whole"] / total_bytes, 4),
        "extra_of_a_resume": round((counted["in two pieces"] - counted["whole"]) / total_bytes, 4),
    }


def resume_rank(folder: str, rank: int, world: int) -> None:
    """Read the newest checkpoint as one of many ranks."""
    torch.set_num_threads(1)
    storage = Counting()
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world), rank=rank, world_size=world)
    saved = checkpoint.newest(storage, f"{folder}/saved", "ours", rank=rank, world=world)
    assert saved is not None
    for wanted in (False, True):  # weights, then moments
        for key in saved.state:
            if ("|" in key) == wanted:
                _ = saved.state[key]
    dist.barrier()
    Path(f"{folder}/read-{rank}").write_text(str(storage.read))
    dist.destroy_process_group()


def parts_of(ranks: int, scale: int) -> Iterator[dict[str, torch.Tensor]]:
    """Each rank's part of a state of ViT-L/14's size, scaled down."""
    own = VIT_L_PARAMETERS // ranks // scale
    for rank in range(ranks):
        weight = torch.full((own,), rank / 7)
        yield {f"{rank}": weight, f"{rank}|exp_avg": weight + 1, f"{rank}|exp_avg_sq": weight + 2}


def state(ranks: int, scale: int) -> dict[str, Any]:
    """Bytes that all ranks together read of a checkpoint, relative to it."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage()
        order = CursorOrder(lanes=1024, block=64, window=1 << 19, epoch=PAPER)
        cursor = Cursor(step=1, position=32768, order=order, config_sha256="ours", seconds=1.0)
        saved = f"{folder}/saved"
        parts = [
            checkpoint.write_part(storage, saved, cursor, part, rank=rank, attempt=1)
            for rank, part in enumerate(parts_of(ranks, scale))
        ]
        checkpoint.commit(
            storage,
            saved,
            cursor,
            parts,
            keep=1,
            fence=Fence(storage, Layout(f"{folder}/run").at(Stage.TRAIN, "0" * 64)),
        )
        whole = sum(part.size for part in parts)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=resume_rank, args=(folder, rank, ranks)) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        read = sum(int(Path(f"{folder}/read-{rank}").read_text()) for rank in range(ranks))
    return {"ranks": ranks, "state_bytes": whole, "scale": scale, "read": round(read / whole, 3)}


def main() -> None:
    """Print the report."""
    parser = make_parser("order", __doc__)
    parser.add_argument("--batch", type=int, default=30720, help="of the table of repeated reads")
    parser.add_argument("--shards", type=int, default=2048, help="of the table of repeated reads, of 1,000 pairs")
    parser.add_argument("--pairs", type=int, default=2_600_000, help="of the simulated shuffle")
    parser.add_argument("--resume-shards", type=int, default=40, help="of 10,000 small pairs each")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--scale", type=int, default=64, help="of ViT-L/14's state")
    parts = ("state", "amplification", "shuffle", "resume")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    measures = {
        "state": lambda: state(arguments.ranks, arguments.scale),
        "amplification": lambda: amplification(arguments.batch, arguments.shards, 1000),
        "shuffle": lambda: shuffle(32768, arguments.pairs // 10_000, 10_000),
        "resume": lambda: resume(512, arguments.resume_shards, 10_000),
    }
    print(json.dumps({"benchmark": "order", **{name: measures[name]() for name in arguments.only}}))


if __name__ == "__main__":
    main()
