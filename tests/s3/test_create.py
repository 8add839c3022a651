"""Conditional writes on a real S3 server: the first one wins, and later ones learn of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
import pytest

from diht_k8s.api.data import StorageRule
from diht_k8s.recipe.shards.storage import Storage

if TYPE_CHECKING:
    from tests.s3.server import S3

pytestmark = pytest.mark.s3


def test_second_create_of_an_object_is_refused_and_changes_nothing(s3: S3) -> None:
    storage, uri = Storage([StorageRule.model_validate(s3.rule)]), f"s3://{s3.bucket}/create/STARTED.json"
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"


def test_folder_object_of_an_empty_folder_is_no_content_of_it(s3: S3) -> None:
    storage, folder = Storage([StorageRule.model_validate(s3.rule)]), f"s3://{s3.bucket}/empty/step-1"
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
    client.put_object(Bucket=s3.bucket, Key="empty/step-1/")
    assert storage.names(folder) == storage.folders(folder) == []
    storage.write_bytes(f"{folder}/part", b"x")
    assert storage.names(folder) == ["part"]
    assert storage.folders(f"s3://{s3.bucket}/empty") == ["step-1"]
