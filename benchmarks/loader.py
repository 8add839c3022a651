"""The training's loader beside open_clip's, on the same shards: images a second and core, pixels, scaling.

Both decode, crop to 224 px, normalise and tokenise on one thread. JPEGs of three sizes, noise with a photograph's
spectrum. CPU time, the best round, load average 12. Pixels differ by 0.004 of 255 levels on average.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import webdataset.compat
from open_clip.transform import AugmentationCfg, image_transform
from PIL import Image

from benchmarks._arguments import make_parser
from diht_k8s.data.shards.shard_index import ShardIndex, index_of
from diht_k8s.data.shards.sources import Shard
from diht_k8s.data.shards.storage import Storage
from diht_k8s.data.shards.tar_writer import write_samples
from diht_k8s.stages.train.data import collate
from diht_k8s.stages.train.data.augment import train_view
from diht_k8s.stages.train.data.batch import BatchShare
from diht_k8s.stages.train.data.collate import CollateSettings, Collator, ImageSizes
from diht_k8s.stages.train.data.dataset import ShardDataset
from diht_k8s.stages.train.data.sampler import sampler_over

SIZES = ((512, 512), (512, 384), (1024, 768))
CAPTIONS = ("a man riding a brown horse on the beach", "two small dogs are chasing a red ball in the park, photo {}")


def photo(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Noise whose amplitude falls with the frequency, as in photographs."""
    spectrum = np.fft.rfft2(rng.standard_normal((height, width, 3)), axes=(0, 1))
    rows, columns = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[None, :, None]
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(width, height))
    pixels = np.fft.irfft2(spectrum / frequency**1.1, s=(height, width), axes=(0, 1))
    scaled = (pixels - pixels.mean()) / pixels.std() * 45 + 120
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))


def write_shards(folder: Path, images: int, shards: int, sizes: tuple[tuple[int, int], ...]) -> list[Shard]:
    """Shards with images of the sizes in turn."""
    rng, made = np.random.default_rng(0), []
    distinct = [photo(*sizes[index % len(sizes)], rng) for index in range(12)]
    for number in range(shards):
        samples = []
        for index in range(images // shards):
            buffer = io.BytesIO()
            distinct[(number + index) % 12].save(buffer, "JPEG", quality=75)
            text = CAPTIONS[index % 2].format(number * 10_000 + index).encode()
            samples.append((f"{number:03}{index:05}", {"jpg": buffer.getvalue(), "txt": text}))
        uri = str(folder / f"{number:05}.tar")
        write_samples(Storage(), uri, samples)
        made.append(Shard(f"made-{number:05}", uri, "made", samples=len(samples)))
    return made


def job_over(shards: list[Shard], batch_size: int, image_size: int) -> CollateSettings:
    """What our side makes batches of; every image is new to it."""
    collate.IMAGE_CACHE_BYTES = 0
    order = sampler_over([shard.samples or 0 for shard in shards], batch_size, 0)
    source = ShardDataset(
        Storage(), shards, indexes=Indexed({shard.name: index_of(Storage(), shard.uri) for shard in shards})
    )
    return CollateSettings(source, order, batch_size, ImageSizes(image_size), context_length=77, seed=0)


class Indexed(dict[str, ShardIndex]):
    """The indexes of the shards."""

    def of(self, name: str) -> ShardIndex | None:
        """The index of a shard."""
        return self.get(name)


def ours(job: CollateSettings, *, rank: int = 0, world: int = 1, position: int = 0) -> Iterator[int]:
    """Number of images of each batch, normalised pixels included."""
    collator = Collator(job, rows=BatchShare(job.batch_size, rank, world).part(0, 1))
    for start in itertools.count(position, job.batch_size):
        yield len(collator.batch(start).images_BCHW)


def open_clips(shards: list[Shard], batch_size: int, image_size: int) -> Iterator[int]:
    """The same by the pipeline of open_clip's trainer."""
    preprocess = image_transform(
        image_size,
        is_train=True,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        aug_cfg=AugmentationCfg(scale=(0.9, 1.0)),
    )
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=77)
    while True:
        data: Any = webdataset.compat.WebDataset([shard.uri for shard in shards], shardshuffle=False).shuffle(1000)
        pipeline = (
            data.decode("pilrgb")
            .rename(image="jpg;png;jpeg;webp", text="txt")
            .map_dict(image=preprocess, text=lambda text: tokenizer(text)[0])
            .to_tuple("image", "text")
            .batched(batch_size, partial=False)
        )
        for images, _ in pipeline:
            yield len(images)


def cpu_s(batches: Iterator[int], number: int) -> float:
    """CPU seconds for one image, over a number of batches."""
    before, count = time.process_time(), 0
    for size in itertools.islice(batches, number):
        count += size
    return (time.process_time() - before) / count


def compare(shards: list[Shard], arguments: argparse.Namespace) -> dict[str, Any]:
    """Best CPU time of both sides, in turn."""
    sides: dict[str, Callable[[], Iterator[int]]] = {
        "ours": lambda: ours(job_over(shards, arguments.batch, arguments.size)),
        "open_clip": lambda: open_clips(shards, arguments.batch, arguments.size),
    }
    running = {name: make() for name, make in sides.items()}
    for batches in running.values():  # files into the page cache, code into memory
        next(batches)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, batches in running.items():
            times[name].append(cpu_s(batches, arguments.steps))
    best = {name: min(values) for name, values in times.items()}
    return {
        "images_per_s_and_core": {name: round(1 / value, 1) for name, value in best.items()},
        "speedup": round(best["open_clip"] / best["ours"], 2),
    }


def by_size(folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The comparison over the mix, and for each size alone."""
    kinds = {"mix": SIZES, **{f"{width}x{height}": ((width, height),) for width, height in SIZES}}
    found = {}
    for name, sizes in kinds.items():
        place = folder / name
        place.mkdir()
        shards = write_shards(place, arguments.images, 4, sizes)
        found[name] = {
            **compare(shards, arguments),
            "kb_per_picture": round(_bytes(shards) / arguments.images / 1000),
        }
    return found


def _bytes(shards: list[Shard]) -> int:
    return sum(Path(shard.uri).stat().st_size for shard in shards)


def largest_mean_difference(shards: list[Shard], image_size: int) -> float:
    """Of our views from PIL's, in levels of 255, over the images of a shard; decoding included."""
    from diht_k8s.data.shards.images import decode, decode_pixels
    from diht_k8s.data.shards.samples import read_samples
    from diht_k8s.stages.train.data.augment import crop_box
    from diht_k8s.stages.train.data.sampler import generator

    worst = 0.0
    for sample in itertools.islice(read_samples(Storage(), shards[0].uri), 24):
        view = train_view(decode_pixels(sample.image), image_size, seed=0, epoch=0, uid=sample.uid)
        image = decode(sample.image)
        box = crop_box(*image.size, generator(0, "crop", 0, sample.uid))
        pil = np.asarray(image.crop(box).resize((image_size, image_size), Image.Resampling.BICUBIC)).astype(int)
        worst = max(worst, float(np.abs(view.permute(1, 2, 0).numpy() - pil).mean()))
    return round(worst, 4)


def images_per_second(job: CollateSettings, world: int, seconds: float) -> tuple[float, float]:
    """Rates of `world` single-threaded processes side by side, one rank each: by CPU time and by the clock."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(world), context.Queue()

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        batches = ours(job, rank=rank, world=world)
        next(batches)
        start.wait()
        began, cpu, count = time.monotonic(), time.process_time(), 0
        while time.monotonic() - began < seconds:
            count += next(batches)
        results.put((count / (time.process_time() - cpu), count / (time.monotonic() - began)))

    processes = [context.Process(target=work, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    rates = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(cpu for cpu, _ in rates), sum(wall for _, wall in rates)


def scaling(job: CollateSettings, rounds: int, seconds: float) -> dict[str, float]:
    """Two processes against one, in turn; the best of each. By the clock it says something on an idle machine only."""
    rates: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(rounds):
        for world in rates:
            rates[world].append(images_per_second(job, world, seconds))
    best = {world: [max(column) for column in zip(*found, strict=True)] for world, found in rates.items()}
    return {name: round(best[2][place] / best[1][place], 2) for place, name in enumerate(("cpu_time", "wall_time"))}


def memory_by_epoch(job: CollateSettings, epochs: int) -> list[float]:
    """Resident MiB after each epoch."""
    batches, found = ours(job), []
    for _ in range(epochs):
        for _ in range(job.sampler.total // job.batch_size):
            next(batches)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(round(pages * resource.getpagesize() / 2**20, 1))
    return found


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, ready for one JSON line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"benchmark": "loader", "sizes": vars(arguments), **by_size(folder, arguments)}
        shards = [Shard(path.stem, str(path), "made", samples=arguments.images // 4) for path in folder.glob("mix/*")]
        result["largest_mean_pixel_difference"] = largest_mean_difference(shards, arguments.size)
        small = job_over(shards, arguments.batch, arguments.size)
        result["two_processes_against_one"] = scaling(small, arguments.rounds, arguments.seconds)
        result["resident_mib_after_each_epoch"] = memory_by_epoch(
            job_over(shards, arguments.batch, arguments.size), arguments.epochs
        )
    return {**result, "torch": torch.__version__, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}


def main() -> None:
    """Print the report."""
    parser = make_parser("loader", __doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=384, help="in all shards together")
    parser.add_argument("--steps", type=int, default=2, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round of the scaling measurement")
    parser.add_argument("--epochs", type=int, default=10)
    torch.set_num_threads(1)
    print(json.dumps(report(parser.parse_args())))


if __name__ == "__main__":
    main()
