# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Google Cloud Storage, by its own client: lists and writes; it is read by plain HTTP (see `object_store`).

The version of an object is its generation. Credentials are a storage rule's own (`GOOGLE_CREDENTIALS`, the JSON of a
file of credentials), else Google's usual chain: GOOGLE_APPLICATION_CREDENTIALS, gcloud's, the identity of the pod.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final
from urllib.parse import quote

import google.auth
from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from diht_k8s.api.errors import UserError
from diht_k8s.data.shards.object_store import LIST_SIZE, TIMEOUTS_S, Listed, ObjectStore, refusal

ENDPOINT: Final = "https://storage.googleapis.com"
SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
RETRY: Final = DEFAULT_RETRY.with_delay(initial=0.5, maximum=20.0, multiplier=2.0).with_timeout(120.0)
NO_BUCKET_METADATA: Final = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
"""Else the client asks in a thread of its own for a bucket's place, for traces, which takes a right of its own."""
_SENT: Final[dict[str, Any]] = {"timeout": TIMEOUTS_S, "retry": RETRY}
_FIELDS: Final = "items(name,size,generation),prefixes,nextPageToken"


class GoogleStore(ObjectStore):
    """The buckets that some credentials reach."""

    def __init__(self, endpoint: str | None, credentials: str | None) -> None:
        """Make a store.

        Args:
            endpoint: URL of the server; None for Google's own.
            credentials: JSON of credentials; None for the usual chain.

        Raises:
            UserError: the JSON is none of credentials.
        """
        os.environ.setdefault(NO_BUCKET_METADATA, "true")
        found = _credentials(credentials)
        super().__init__(AuthorizedSession(found))
        self._endpoint = (endpoint or ENDPOINT).rstrip("/")
        self._client = Client(project=None, credentials=found, client_options={"api_endpoint": self._endpoint})

    def listed(self, bucket: str, prefix: str, *, deep: bool) -> Iterator[Listed]:
        """See `ObjectStore`."""
        with _refusals("ListObjects"):
            found: Any = self._client.list_blobs(
                bucket,
                prefix=prefix,
                delimiter=None if deep else "/",
                fields=_FIELDS,
                page_size=LIST_SIZE,
                **_SENT,
            )
            for blob in found:
                yield Listed(blob.name, blob.size, _version_of(blob.generation))
            for folder in sorted(found.prefixes):
                yield Listed(folder, None)

    def about(self, bucket: str, key: str) -> Listed | None:
        """See `ObjectStore`."""
        with _refusals("HeadObject"):
            blob = self._client.bucket(bucket).get_blob(key, **_SENT)
        return None if blob is None else Listed(key, blob.size, _version_of(blob.generation))

    def write_object(self, bucket: str, key: str, file: IO[bytes], size: int, *, create: bool) -> None:
        """See `ObjectStore`."""
        blob = self._client.bucket(bucket).blob(key)
        condition: dict[str, Any] = {"if_generation_match": 0} if create else {}
        with _refusals("PutObject"):
            try:
                blob.upload_from_file(file, size=size, **condition, **_SENT)
            except PreconditionFailed as error:
                raise FileExistsError(f"{bucket}/{key}") from error

    def remove_object(self, bucket: str, key: str) -> None:
        """See `ObjectStore`."""
        with _refusals("DeleteObject"):
            try:
                self._client.bucket(bucket).blob(key).delete(**_SENT)
            except NotFound as error:
                raise FileNotFoundError(f"{bucket}/{key}") from error

    def _request(self, bucket: str, key: str, version: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """Stored as it is read: a server that unpacks gzip of itself would send other bytes than the size says."""
        url = f"{self._endpoint}/storage/v1/b/{quote(bucket, safe='')}/o/{quote(key, safe='')}"
        condition = {"ifGenerationMatch": version.removeprefix("g")} if version else {}
        return url, {"alt": "media", **condition}, {"Accept-Encoding": "gzip"}

    def _version(self, headers: Mapping[str, str]) -> str:
        return _version_of(headers.get("x-goog-generation"))


def _version_of(generation: Any) -> str:
    """Not a bare number: times of files on a disk are such (see `replaced`)."""
    return f"g{generation}" if generation else ""


def _credentials(text: str | None) -> Any:
    if text is None:
        return google.auth.default(scopes=SCOPES)[0]
    try:
        return google.auth.load_credentials_from_dict(json.loads(text), scopes=SCOPES)[0]
    except (ValueError, GoogleAuthError) as error:
        raise UserError(
            "GOOGLE_CREDENTIALS holds no JSON of credentials: put the content of the key's file in it"
        ) from error


@contextlib.contextmanager
def _refusals(operation: str) -> Iterator[None]:
    try:
        yield
    except GoogleAPICallError as error:
        raise refusal(int(error.code or 0), str(error), operation) from error
