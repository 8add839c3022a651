"""Parts of `benchmarks/scale.py`: shards, run documents, made-up summaries, counted requests."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from diht_k8s.api.documents import load
from diht_k8s.api.reports import Artefact
from diht_k8s.api.run import DihtRun
from diht_k8s.data.shards.shard_index import IndexRow
from diht_k8s.data.shards.sources import ShardGroup
from diht_k8s.stages.filter.group_summaries import GroupSummary
from diht_k8s.stages.filter.summary import NAME_KINDS, Summary
from tests.s3.faults import Proxy
from tests.s3.server import BUCKET, S3

PAIRS = 2
"""Pairs of a shard."""
THREADS = 8
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def shard_of(number: int) -> bytes:
    """A tar of two pairs; those of all numbers have the same size."""
    buffer, image = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, number // 256 % 256, 90)).save(image, "BMP")
    picture = io.BytesIO()
    Image.open(image).save(picture, "PNG")
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for pair in range(PAIRS):
            caption = f"a small dog chases red ball {number:06} on the beach {pair}".encode()
            for suffix, data in (("png", picture.getvalue().ljust(200, b"\0")), ("txt", caption)):
                info = tarfile.TarInfo(f"{number:06}-{pair}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()[: PAIRS * 4 * 512 + 1024]


def load_objects(s3: S3, names: Iterator[str], content: Callable[[int], bytes]) -> None:
    """Put many objects into the bucket by the server's own interface, which asks for no signatures."""
    every = list(enumerate(names))

    def work(part: int) -> None:
        connection = http.client.HTTPConnection(s3.filer.removeprefix("http://"))
        for number, name in every[part::THREADS]:
            connection.request("PUT", f"/buckets/{BUCKET}/{name}", content(number))
            answer = connection.getresponse()
            answer.read()
            assert answer.status < 300, answer.status

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


def filter_run(rule: Mapping[str, Any], shards: int, output: str) -> DihtRun:
    """A run that filters the first shards."""
    rules = {"minActions": 0, "textSpotting": {"mode": "Disabled"}}
    return _run(rule, shards, output, {"filter": rules})


def train_run(rule: Mapping[str, Any], shards: int, output: str) -> DihtRun:
    """A run that trains a tiny model on the first shards, without filter."""
    train = {
        "modelConfig": MODEL,
        "samples": 64 * 1000,
        "batchSize": 64,
        "precision": "fp32",
        "zeroStage": 0,
        "loaderWorkers": 0,
        "distillation": {"mode": "Disabled"},
        "checkpoint": {"everySamples": 64 * 4},
    }
    return _run(rule, shards, output, {"train": train})


def _run(rule: Mapping[str, Any], shards: int, output: str, stage: Mapping[str, Any]) -> DihtRun:
    sources = [{"name": "web", "shards": [f"s3://{BUCKET}/raw/{{000000..{shards - 1:06}}}.tar"]}]
    spec = {"data": {"sources": sources, "output": output}, "storage": [dict(rule)], **stage}
    run = {"apiVersion": "diht.dev/v1alpha1", "kind": "DihtRun", "metadata": {"name": "scale"}, "spec": spec}
    return load(json.dumps(run), name="scale.yaml")


def synthetic_total(seed: int, shards: int, samples: int) -> Summary:
    """The summed counts of a group of shards with many samples, of which each has 500 frequent names of each kind."""
    total, rng = Summary(), random.Random(seed)
    for _ in range(shards):
        summary = Summary(input=samples, kept=samples // 2)
        summary.dropped["complexity"] = samples - samples // 2
        for kind in NAME_KINDS:
            names = {f"{kind} {int(rng.paretovariate(0.4)) % 100_000}": rng.randint(1, 900) for _ in range(500)}
            summary.names[kind].update(names)
        summary.cells = {(c, a): [samples // 12, 0, 0] for c in range(4) for a in range(3)}
        total.merge(summary)
    return total


def synthetic_summary(group: ShardGroup, total: Summary, samples: int) -> GroupSummary:
    """What a group of shards with these counts would leave, whose files have a byte each."""
    kept = samples // 2
    found = GroupSummary(total=total, rows=samples * len(group.shards), pairs=kept * len(group.shards))
    for shard in group.shards:
        digest = hashlib.sha256(shard.name.encode()).hexdigest()
        counts = {"input": samples, "kept": kept, "bad": {}, "dropped": {"complexity": samples - kept}}
        found.shards.append({"name": shard.name, "source": shard.source, **counts})
        found.artefacts.append(Artefact(path=f"scores/{shard.name}.parquet", size=1, sha256=digest))
        found.artefacts.append(Artefact(path=f"kept/{shard.name}.tar", size=1, sha256=digest))
        found.raw.append(IndexRow(shard.name, shard.identity or "", samples, group.number, 0, 20_000))
        found.kept.append(IndexRow(shard.name, "", kept, group.number, 0, 10_000))
    return found


class Counted:
    """Requests through a proxy between two moments, those that read shards apart."""

    def __init__(self, proxy: Proxy, delay_s: float) -> None:
        self._proxy = proxy
        self._proxy.set(slow_s=delay_s)

    def found(self) -> dict[str, Any]:
        """Counts by verb and place."""
        counts = Counter[str](self._proxy.faults.counts)
        raw = {key: count for key, count in counts.items() if key.startswith(f"GET /{BUCKET}/raw/")}
        verbs, written = Counter[str](), {key for key in counts if key.startswith("PUT ")}
        for key, count in counts.items():
            verb, space, _ = key.partition(" ")
            if space and key not in raw:
                verbs[verb] += count
        return {
            "control_requests": counts["requests"] - sum(raw.values()),
            "by_verb": dict(sorted(verbs.items())),
            "shard_reads": sum(raw.values()),
            "most_reads_of_a_shard": max(raw.values(), default=0),
            "objects_written": len(written),
            "objects_of_the_index": sum("/index/" in key for key in written),
        }
