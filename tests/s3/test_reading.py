"""Reading from each object store through a proxy that disturbs it: whole, in order and once, or one clear error."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from typing import IO

import pytest

from diht_k8s.api.errors import DataError, DihtError, ExitCode
from diht_k8s.data.shards import range_reads
from diht_k8s.data.shards.storage import Storage
from tests.s3.faults import Proxy, proxy_before
from tests.s3.server import S3

pytestmark = pytest.mark.s3
CONTENT = random.Random(0).randbytes(500_000)


@pytest.fixture
def proxy(store: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr(range_reads, "BLOCK_BYTES", 64 << 10)
    monkeypatch.setattr(range_reads, "MIN_BLOCK_BYTES", 16 << 10)
    with proxy_before(store.endpoint) as proxy:
        yield proxy


@pytest.fixture
def storage(store: S3, proxy: Proxy) -> Storage:
    return store.storage(proxy.endpoint)


@pytest.fixture
def uri(store: S3, storage: Storage) -> str:
    uri = f"{store.base}/reading/object"
    storage.write_bytes(uri, CONTENT)
    return uri


def blocks(file: IO[bytes], size: int = 10_240) -> bytes:
    parts = []
    while part := file.read(size):
        parts.append(part)
    return b"".join(parts)


FAULTS = {
    "undisturbed": {},
    "refused for now": {"refuse": 0.3},
    "cut": {"cut": 0.5},
    "short": {"short": 0.5},
    "long": {"long": 0.3},
    "no version": {"unversioned": 0.3},
    "slow": {"slow_s": 0.02},
    "all": {"refuse": 0.1, "cut": 0.2, "short": 0.2, "long": 0.05, "unversioned": 0.05, "slow_s": 0.002},
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_object_when_disturbed_then_whole_with_few_requests_more(
    proxy: Proxy, storage: Storage, uri: str, faults: dict[str, float]
) -> None:
    counts = proxy.set(**faults, seed=1).counts
    with storage.open(uri) as file:
        assert blocks(file) == CONTENT
    needed = -(-len(CONTENT) // (64 << 10))
    if not {"cut", "short", "long", "unversioned"} & faults.keys():
        assert counts["requests"] - counts["refused"] <= needed + 1
    happened = sum(counts[name] for name in ("refused", "cut", "short", "long", "unversioned"))
    assert (happened > 0) == (not faults.keys() <= {"slow_s"})


@pytest.mark.parametrize("act", ["exists", "names", "read_bytes", "write_bytes", "create", "remove"])
def test_requests_when_refused_six_times_in_a_row_then_they_succeed(
    proxy: Proxy, storage: Storage, uri: str, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(asyncio, "sleep", lambda _seconds, *_: sleep(0))
    counts = proxy.set(burst=(7, 10_000)).counts
    content = [b"x"] if act in ("write_bytes", "create") else []
    getattr(storage, act)(f"{uri}-new" if act == "create" else uri, *content)
    assert counts["refused"] == 6


@pytest.mark.parametrize("size", [0, 1, 10, 64 << 10, (64 << 10) + 1])
def test_object_when_small_then_whole_with_one_request(proxy: Proxy, storage: Storage, store: S3, size: int) -> None:
    uri = f"{store.base}/reading/small"
    storage.write_bytes(uri, CONTENT[:size])
    counts = proxy.set().counts
    assert storage.read_bytes(uri) == CONTENT[:size]
    assert counts["requests"] <= 2


def test_object_when_replaced_while_it_is_read_then_an_error_and_no_mixture(storage: Storage, uri: str) -> None:
    with storage.open(uri) as file:
        assert file.read(1000) == CONTENT[:1000]
        storage.write_bytes(uri, CONTENT[::-1])
        with pytest.raises(DataError, match=f"{uri} was replaced while it was read"):
            blocks(file)


def test_credentials_when_they_expire_in_the_middle_then_retryable_and_said_so(
    proxy: Proxy, storage: Storage, uri: str
) -> None:
    def read() -> None:
        with storage.open(uri) as file:
            file.read(1000)
            proxy.set(expired=True)
            blocks(file)

    with pytest.raises(DihtError, match=f"cannot read {uri}: the credentials have expired") as raised:
        read()
    assert raised.value.exit_code == ExitCode.RETRYABLE
    for act in (lambda: storage.write_bytes(uri, b"x"), lambda: storage.create(uri, b"x"), lambda: storage.names(uri)):
        with pytest.raises(DihtError, match="the credentials have expired") as raised:
            act()
        assert raised.value.exit_code == ExitCode.RETRYABLE


@pytest.mark.parametrize("missing", ["reading/nothing", "reading"])
def test_object_when_missing_then_a_user_error(storage: Storage, store: S3, uri: str, missing: str) -> None:
    with pytest.raises(DihtError, match="it does not exist: check the path or bucket") as raised:
        storage.read_bytes(f"{store.base}/{missing}")
    assert raised.value.exit_code == ExitCode.USER_ERROR


def test_files_when_many_are_open_then_what_is_read_ahead_stays_bounded(
    storage: Storage, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_reads, "READ_AHEAD_BYTES", 512 << 10)
    with storage.open(uri) as first:
        reader = first._reader  # type: ignore[attr-defined]
        assert reader.block_bytes() == 64 << 10
        with storage.open(uri), storage.open(uri), storage.open(uri), storage.open(uri), storage.open(uri) as sixth:
            assert reader.block_bytes() == (512 << 10) // 12
            assert hashlib.sha256(blocks(sixth)).digest() == hashlib.sha256(CONTENT).digest()
        assert reader.block_bytes() == 64 << 10


def test_process_when_forked_from_one_that_has_read_then_it_reads(storage: Storage, uri: str) -> None:
    assert storage.read_bytes(uri) == CONTENT
    child = multiprocessing.get_context("fork").Process(target=storage.read_bytes, args=(uri,), daemon=True)
    child.start()
    child.join(120)
    ended = child.exitcode
    child.kill()
    assert ended == 0


def test_threads_when_they_read_at_once_then_each_its_own(storage: Storage, uri: str) -> None:
    found: list[bool] = []

    def read() -> None:
        with storage.open(uri) as file:
            found.append(blocks(file, 50_000) == CONTENT)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
