"""A SeaweedFS server on the loopback with one bucket, for benchmarks; its credentials are in the environment while it runs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "bench"
START_SECONDS = 60


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """The server's endpoint."""
    credentials = {"AWS_ACCESS_KEY_ID": "benchkey", "AWS_SECRET_ACCESS_KEY": "benchsecret"}
    os.environ.update(credentials)
    port, *others = _ports(4)
    command = [
        str(Path(sys.executable).parent / "weed"),
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    command += [f"-{name}.port={number}" for name, number in zip(("master", "volume", "filer"), others, strict=True)]
    command += [f"-s3.port={port}", "-admin.ui=false", "-webdav=false"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _make_bucket(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _ports(number: int) -> list[int]:
    """Free ports to which the server can add its 10,000 for gRPC."""
    found: list[int] = []
    for port in range(21_000 + os.getpid() % 4000, 30_000):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            found.append(port)
        if len(found) == number:
            break
    return found


def _make_bucket(endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
