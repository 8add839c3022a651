"""A real S3 server on the loopback for tests and benchmarks: SeaweedFS from its wheel, with one bucket."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from diht_k8s.api.data import StorageRule
from diht_k8s.data.shards.storage import Storage
from tests.ports import is_ours

KEY, SECRET, BUCKET = "testkey", "testsecret", "test-runs"
START_SECONDS = 300


@dataclass(frozen=True)
class S3:
    """A running server."""

    endpoint: str
    bucket: str
    filer: str = ""
    """address of the server's own interface to files, by which many are loaded at once."""
    scheme: str = "s3"

    @property
    def base(self) -> str:
        """URI of the bucket."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def rule(self) -> dict[str, Any]:
        """The entry of `spec.storage` for the bucket."""
        region = {"region": "us-east-1"} if self.scheme == "s3" else {}
        return {"prefix": self.base, "endpointURL": self.endpoint, **region}

    def storage(self, endpoint: str | None = None) -> Storage:
        """Reads and writes the bucket, by another endpoint if one is given."""
        return Storage([StorageRule.model_validate({**self.rule, "endpointURL": endpoint or self.endpoint})])


def weed() -> str | None:
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextlib.contextmanager
def serving(program: str, folder: Path) -> Iterator[S3]:
    """A server with its data in a folder; its credentials are in the environment meanwhile, as in a pod."""
    port, *others = free_ports(4)
    command = [program, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}"]
    command += [f"-{name}.port={other}" for name, other in zip(("master", "volume", "filer"), others, strict=True)]
    command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    # Without these the number of volumes is the free disk in GiB, and writes fail on a disk that is nearly full.
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=100", "-master.telemetry=false"]
    credentials = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("wb") as log:
        for name, value in credentials.items():
            patch.setenv(name, value)
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _make_bucket(f"http://127.0.0.1:{port}", server, folder / "log")
            yield S3(f"http://127.0.0.1:{port}", BUCKET, f"http://127.0.0.1:{others[2]}")
        finally:
            end(server)


def end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def free_ports(number: int) -> list[int]:
    """Ports below 32768 less 10000, since the server adds 10000 to each for gRPC.

    Each process looks from a place of its own: the workers of one call have neighbouring ids and start their servers at
    the same time.
    """
    found: list[int] = []
    for port in range(14000 + 8 * os.getpid() % 6000, 21000):
        if len(found) == number:
            break
        if is_ours(port, port + 10000):
            found.append(port)
    return found


def _make_bucket(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    config = Config(connect_timeout=2, read_timeout=5, retries={"max_attempts": 0})
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except client.exceptions.BucketAlreadyOwnedByYou:  # an answer came too late
            return
        except (BotoCoreError, ClientError) as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start: {log.read_text()[-2000:]}") from error
            time.sleep(0.2)
