"""Conditional writes on each object store: the first one wins, and later ones learn of it."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
import pytest
import requests

from diht_k8s.api.errors import RetryableError, UserError
from diht_k8s.runtime.preflight import check_output
from tests.s3.faults import proxy_before

if TYPE_CHECKING:
    from tests.s3.server import S3

pytestmark = pytest.mark.s3


def test_one_of_many_creates_at_once_wins_and_all_others_know(store: S3) -> None:
    storage = store.storage()
    for number in range(5):
        uri = f"{store.base}/create/at-once-{number}"
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda each, uri=uri: storage.create(uri, b"%d" % each), range(16)))
        assert sum(won) == 1
        assert storage.read_bytes(uri) == b"%d" % won.index(True)


def test_folder_object_of_an_empty_folder_is_no_content_of_it(store: S3) -> None:
    storage, folder = store.storage(), f"{store.base}/empty/step-1"
    put_folder_object(store, "empty/step-1/")
    assert storage.names(folder) == storage.folders(folder) == []
    storage.write_bytes(f"{folder}/part", b"x")
    assert storage.names(folder) == ["part"]
    assert storage.folders(f"{store.base}/empty") == ["step-1"]
    assert storage.names(f"{store.base}/empty") == []
    assert storage.files(f"{store.base}/empty") == ["step-1/part"]


@pytest.mark.gs
def test_store_that_loses_the_condition_is_refused_by_its_name(gs: S3) -> None:
    with proxy_before(gs.endpoint) as proxy:
        storage = gs.storage(proxy.endpoint)
        assert check_output(storage, f"{gs.base}/checked", host="node-0") > 0
        proxy.set(unconditional=True)
        with pytest.raises(UserError, match=f"{gs.base}/checked/preflight-node-0: .* in spite of ifGenerationMatch=0"):
            check_output(storage, f"{gs.base}/checked", host="node-0")


def test_large_object_is_written_whole_by_one_of_many_writers(store: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, uri = store.storage(), f"{store.base}/create/large"
    if store.scheme == "az":
        monkeypatch.setattr("diht_k8s.data.shards.azure_store.PUT_BYTES", 1 << 20)
    contents = [bytes([number]) * (9 << 20) for number in range(3)]

    def write(content: bytes) -> None:
        with contextlib.suppress(RetryableError):  # Azure refuses the list of blocks that another writer's has replaced
            storage.write_bytes(uri, content)

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert storage.read_bytes(uri) in contents
    storage.write_bytes(uri, contents[1])
    assert storage.read_bytes(uri) == contents[1]


def put_folder_object(store: S3, key: str) -> None:
    if store.scheme == "s3":
        client = boto3.client("s3", endpoint_url=store.endpoint, region_name="us-east-1")
        client.put_object(Bucket=store.bucket, Key=key)
    elif store.scheme == "gs":
        query = {"uploadType": "media", "name": key}
        url = f"{store.endpoint}/upload/storage/v1/b/{store.bucket}/o"
        requests.post(url, params=query, data=b"", timeout=60).raise_for_status()
    else:
        from azure.storage.blob import BlobServiceClient

        from tests.s3.emulators import CONNECTION

        with BlobServiceClient.from_connection_string(f"{CONNECTION};BlobEndpoint={store.endpoint}") as client:
            client.get_blob_client(store.bucket, key).upload_blob(b"")
            marker = client.get_blob_client(
                store.bucket, key.rstrip("/")
            )  # hierarchical accounts list folders like this
            marker.upload_blob(b"", metadata={"hdi_isfolder": "true"})
