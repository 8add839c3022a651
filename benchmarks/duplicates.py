"""Near-duplicates among synthetic fingerprints: time an image, memory and recall by the size of the pool.

One worker of the filter, and 16 bands of 16 bits in memory, each in its own process. `--sizes 1000000 2000000 4000000
16000000`, CPU time; recall of 2,000 copies at a Jaccard similarity of 0.76 (limit 0.75). Weak: real images crowd
otherwise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._arguments import make_parser
from benchmarks._bands import Bands
from tests.unit.stages.filter.pools import Pool, copies, drawn, found_by

SHARD = 10_000
SIMILARITIES = (0.95, 0.9, 0.85, 0.8, 0.76)


def pool_of(folder: Path, size: int, planted: int, share: float) -> tuple[Pool, list[np.ndarray]]:
    """A pool on disk whose last shards are the copies, one for each similarity; and these."""
    rng, pool, first = np.random.default_rng(size), Pool(folder, "Near"), list[np.ndarray]()
    for start in range(0, size, SHARD):
        bits = drawn(rng, min(SHARD, size - start), share)
        pool.add(bits)
        first += [bits] if len(first) * SHARD < 40 * planted else []
    originals = np.concatenate(first)
    chosen = rng.choice(len(originals), (len(SIMILARITIES), planted))
    made = [copies(rng, originals[rows], value) for rows, value in zip(chosen, SIMILARITIES, strict=True)]
    for bits in made:
        pool.add(bits)
    return pool, made


def measured(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """What some work finds, with its CPU seconds, seconds and peak memory, in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        before = _peak_mib()
        found = work(*arguments)
        seconds = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
        sender.send({**seconds, "peak_mib": _peak_mib(), "mib_before": before, **found})

    process = context.Process(target=run)
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def search(pool: Pool) -> dict[str, Any]:
    """The repeats of a pool as the filter finds them: shares of the copies found, and hits among the others."""
    searches = [pool.search()]
    found = found_by(searches, len(pool.shards))
    split = len(pool.shards) - len(SIMILARITIES)
    return {"found": [len(places) for places in found[split:]], "others": sum(map(len, found[:split]))}


def bands(pool: Pool, sample: int) -> dict[str, Any]:
    """The way before: CPU seconds to make the bands and to ask for one image, and the copies found."""
    shards = [pool.search()._fingerprints(shard) for shard in pool.shards]
    split = len(shards) - len(SIMILARITIES)
    pieces = [piece for bits in shards[:split] for piece in np.array_split(bits, max(1, len(bits) // 1000))]
    known = Bands.of([*pieces, *shards[split:]])
    start = time.process_time()
    known.near_repeats(0)
    made = time.process_time() - start
    asked, start = np.linspace(1, len(pieces) - 1, sample // 1000).astype(int).tolist(), time.process_time()
    for piece in asked:
        known.near_repeats(piece)
    each = (time.process_time() - start) / sum(len(pieces[piece]) for piece in asked)
    found = [len(known.near_repeats(len(pieces) + place)) for place in range(len(SIMILARITIES))]
    size = known.starts[-1]
    return {"images": size, "make_s": made, "us_an_image": 1e6 * (each + made / size), "found": found}


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, ready for one JSON line."""
    rows, before = list[dict[str, Any]](), dict[str, Any]()
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            pool, _ = pool_of(Path(folder), size, arguments.planted, arguments.share)
            if size == arguments.compare:
                before = measured(bands, pool, arguments.sample)
            row = measured(search, pool)
        rows.append({"images": size, **row, "us_an_image": round(1e6 * row["cpu_s"] / size, 2)})
    result: dict[str, Any] = {"benchmark": "duplicates", "sizes": vars(arguments), "similarities": SIMILARITIES}
    result["pools"] = rows
    least, most = (choose(row["us_an_image"] for row in rows) for choose in (min, max))
    result["largest_to_smallest_time_an_image"] = round(most / least, 2)
    if before:
        same = next(row for row in rows if row["images"] == arguments.compare)
        result["before"] = before
        result["times_faster"] = round(before["us_an_image"] / same["us_an_image"], 1)
    return {**result, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}


def main() -> None:
    """Print the report."""
    parser = make_parser("duplicates", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 2_000_000, 4_000_000])
    parser.add_argument("--compare", type=int, default=4_000_000, help="the size that the way before is measured at")
    parser.add_argument("--planted", type=int, default=2_000, help="copies of each similarity")
    parser.add_argument("--sample", type=int, default=10_000, help="images that the way before is asked for")
    parser.add_argument("--share", type=float, default=0.35, help="of the steps that are set")
    parser.add_argument("--folder", help="where the pools are written; a temporary folder without it")
    print(json.dumps(report(parser.parse_args())))


if __name__ == "__main__":
    main()
