# pyright: reportMissingImports=false
"""Azure Blob Storage, by its own client: lists and writes; it is read by plain HTTP (see `object_store`).

A bucket is a container, and the version of a blob its ETag. Credentials are a storage rule's own connection string,
else what Azure's own programs read: AZURE_STORAGE_CONNECTION_STRING; or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or
AZURE_STORAGE_SAS_TOKEN, or with the usual chain: a service principal in the environment, the identity of the pod,
`az login`.
"""

from __future__ import annotations

import contextlib
import os
import random
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final
from urllib.parse import quote

import requests
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import (
    BlobBlock,
    BlobPrefix,
    BlobSasPermissions,
    BlobServiceClient,
    ExponentialRetry,
    generate_blob_sas,
)

from diht_k8s.api.errors import UserError
from diht_k8s.data.shards.object_store import LIST_SIZE, TIMEOUTS_S, Listed, ObjectStore, refusal

SCOPE: Final = "https://storage.azure.com/.default"
VERSION: Final = "2023-11-03"
"""Of the protocol, which a token must name."""
PUT_BYTES: Final = 64 << 20
"""A larger blob is put in blocks of this size and appears with the list of them."""
RETRIES: Final[dict[str, Any]] = {f"retry_{kind}": 8 for kind in ("total", "connect", "read", "status")}
"""Azure's own limits are 3 of each kind, below any total."""
SIGNED: Final = timedelta(hours=1)
_EXISTS: Final = ("BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite")


class _Retry(ExponentialRetry):
    """Of temporary refusals; Azure's own first pause is 15 s."""

    def get_backoff_time(self, settings: dict[str, Any]) -> float:
        """Full jitter, as botocore repeats those of S3."""
        return random.uniform(0, min(20, 0.5 * 2 ** settings["count"]))


class AzureStore(ObjectStore):
    """The containers of an account."""

    def __init__(self, endpoint: str | None, connection: str | None) -> None:
        """Make a store.

        Args:
            endpoint: URL of the account; None for that which the credentials name.
            connection: Azure's connection string; None for the environment.

        Raises:
            UserError: no account is named.
        """
        super().__init__(requests.Session())
        given = _connection(connection)
        self._account, self._key, self._sas = (
            given.get("AccountName"),
            given.get("AccountKey"),
            given.get("SharedAccessSignature"),
        )
        self._endpoint = (endpoint or _endpoint(given)).rstrip("/")
        credential: Any = self._sas
        if self._key:
            credential = {"account_name": self._account, "account_key": self._key}
        if not credential and not self._endpoint.startswith("https://"):
            raise UserError(f"{self._endpoint}: an identity is shown by https only: change endpointURL, or give a key")
        self._token = None if credential else DefaultAzureCredential()
        self._service = BlobServiceClient(
            self._endpoint,
            credential=credential or self._token,
            retry_policy=_Retry(**RETRIES),
            max_single_put_size=PUT_BYTES,
            connection_timeout=TIMEOUTS_S[0],
            read_timeout=TIMEOUTS_S[1],
        )

    def listed(self, bucket: str, prefix: str, *, deep: bool) -> Iterator[Listed]:
        """See `ObjectStore`."""
        container = self._service.get_container_client(bucket)
        look = container.list_blobs if deep else container.walk_blobs
        with _refusals("ListObjects"):
            for found in look(name_starts_with=prefix, include=["metadata"], results_per_page=LIST_SIZE):
                if isinstance(found, BlobPrefix):
                    yield Listed(found.name, None)
                elif not _is_folder(found):
                    yield Listed(found.name, found.size, str(found.etag or "").strip('"'))

    def about(self, bucket: str, key: str) -> Listed | None:
        """See `ObjectStore`."""
        with _refusals("HeadObject"):
            try:
                found = self._service.get_blob_client(bucket, key).get_blob_properties()
            except ResourceNotFoundError:
                return None
        return None if _is_folder(found) else Listed(key, found.size, str(found.etag or "").strip('"'))

    def write_object(self, bucket: str, key: str, file: IO[bytes], size: int, *, create: bool) -> None:
        """See `ObjectStore`.

        Blocks have names of their own: those of two writers, which are numbers in Azure's client, would mix.
        """
        blob = self._service.get_blob_client(bucket, key)
        with _refusals("PutObject"):
            try:
                if size <= PUT_BYTES:
                    blob.upload_blob(file, length=size, overwrite=not create)
                    return
                names = list[str]()
                while block := file.read(PUT_BYTES):
                    names.append(uuid.uuid4().hex)
                    blob.stage_block(names[-1], block)
                condition: dict[str, Any] = {"match_condition": MatchConditions.IfMissing} if create else {}
                blob.commit_block_list([BlobBlock(name) for name in names], **condition)
            except ResourceExistsError as error:
                if not create or getattr(error, "error_code", "") not in _EXISTS:
                    raise
                raise FileExistsError(f"{bucket}/{key}") from error
            except HttpResponseError as error:
                if getattr(error, "error_code", "") != "InvalidBlockList":
                    raise
                raise OSError("another writer's object has taken the place of its blocks") from error

    def remove_object(self, bucket: str, key: str) -> None:
        """See `ObjectStore`."""
        with _refusals("DeleteObject"):
            try:
                self._service.get_blob_client(bucket, key).delete_blob()
            except ResourceNotFoundError as error:
                raise FileNotFoundError(f"{bucket}/{key}") from error

    def _request(self, bucket: str, key: str, version: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """The account's key itself never leaves: it signs a URL that reads this blob for some time."""
        url, headers = (
            f"{self._endpoint}/{bucket}/{quote(key)}",
            {"x-ms-version": VERSION, "Accept-Encoding": "identity"},
        )
        if version:
            headers["If-Match"] = f'"{version}"'
        signature = self._sas
        if self._key:
            signature = generate_blob_sas(
                str(self._account),
                bucket,
                key,
                account_key=self._key,
                permission=BlobSasPermissions(read=True),
                expiry=datetime.now(UTC) + SIGNED,
            )
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_token(SCOPE).token}"
        return f"{url}?{signature.lstrip('?')}" if signature else url, {}, headers

    def _version(self, headers: Mapping[str, str]) -> str:
        return headers.get("ETag", "").strip('"')


def _connection(text: str | None) -> dict[str, str]:
    """The parts of a connection string, or what the environment names in place of one."""
    text = text or os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    if text:
        parts = (part.partition("=") for part in text.split(";") if part)
        return {name: value for name, _, value in parts}
    names = {"AccountName": "ACCOUNT", "AccountKey": "KEY", "SharedAccessSignature": "SAS_TOKEN"}
    return {key: value for key, name in names.items() if (value := os.environ.get(f"AZURE_STORAGE_{name}"))}


def _endpoint(given: Mapping[str, str]) -> str:
    if "BlobEndpoint" in given:
        return given["BlobEndpoint"]
    if "AccountName" not in given:
        raise UserError(
            "az:// names no account: set AZURE_STORAGE_ACCOUNT, or endpointURL: "
            "https://ACCOUNT.blob.core.windows.net in the rule of spec.storage"
        )
    suffix = given.get("EndpointSuffix", "core.windows.net")
    return f"{given.get('DefaultEndpointsProtocol', 'https')}://{given['AccountName']}.blob.{suffix}"


def _is_folder(blob: Any) -> bool:
    """Whether a blob stands for a folder, as accounts with hierarchical names and Hadoop have them."""
    return (blob.metadata or {}).get("hdi_isfolder", "").lower() == "true"


@contextlib.contextmanager
def _refusals(operation: str) -> Iterator[None]:
    try:
        yield
    except HttpResponseError as error:
        if error.status_code is None:
            raise
        raise refusal(error.status_code, error.message or "", operation) from error
