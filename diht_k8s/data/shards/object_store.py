"""What a store of objects must do for `Storage`, and its reading by plain HTTP, in the form that `range_reads` knows.

In: names and bytes. Out: lists, objects, and botocore's `ClientError` with S3's codes for whatever a server refuses, so
that one place (`storage`) says what each means.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final, NamedTuple

import requests
from botocore.exceptions import ClientError
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

TIMEOUTS_S: Final = (10, 60)
"""Of a connection, and between two pieces of an answer."""
RETRY: Final = Retry(
    total=8,
    status_forcelist=(408, 429, 500, 502, 503, 504),
    allowed_methods=None,
    backoff_factor=0.25,
    backoff_jitter=0.25,
    backoff_max=20,
    raise_on_status=False,
)
"""Temporary refusals, as botocore repeats those of S3."""
LIST_SIZE: Final = 1000
"""Objects that one request lists."""


class Listed(NamedTuple):
    """An object, or what is a folder to a person."""

    key: str
    """a folder's ends with a slash."""
    size: int | None
    """in bytes; None for a folder."""
    version: str = ""
    """changes with the content."""


class ObjectStore(ABC):
    """The buckets of one account."""

    def __init__(self, session: requests.Session) -> None:
        """Make a store that reads by a session, which may add credentials of its own."""
        adapter = HTTPAdapter(max_retries=RETRY, pool_maxsize=32)
        for scheme in ("http://", "https://"):
            session.mount(scheme, adapter)
        self._session = session

    @abstractmethod
    def listed(self, bucket: str, prefix: str, *, deep: bool) -> Iterator[Listed]:
        """What begins with a prefix, in pages of `LIST_SIZE`; up to the next slash unless `deep`."""

    @abstractmethod
    def about(self, bucket: str, key: str) -> Listed | None:
        """An object; None if there is none."""

    @abstractmethod
    def put(self, bucket: str, key: str, file: IO[bytes], size: int, *, create: bool) -> None:
        """Write an object at once: readers see the old one or the whole new one.

        Args:
            bucket: of the object.
            key: of the object.
            file: its content.
            size: in bytes.
            create: only where there is none.

        Raises:
            FileExistsError: there is one, and `create` is set.
        """

    @abstractmethod
    def remove(self, bucket: str, key: str) -> None:
        """Remove an object; raises FileNotFoundError if there is none."""

    @abstractmethod
    def _request(self, bucket: str, key: str, version: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """URL, query and headers that ask for an object, only in one version if that is not empty."""

    @abstractmethod
    def _version(self, headers: Mapping[str, str]) -> str:
        """The version that an answer's headers name; empty if they name none."""

    def get_object(self, *, Bucket: str, Key: str, Range: str, IfMatch: str = "") -> dict[str, Any]:
        """Botocore's call of this name: a range of an object.

        Raises:
            ClientError: the server refuses it.
        """
        url, query, headers = self._request(Bucket, Key, IfMatch.strip('"'))
        answer = self._session.get(
            url, params=query, headers={**headers, "Range": Range}, stream=True, timeout=TIMEOUTS_S
        )
        if answer.status_code >= 300:
            with answer:
                raise refusal(answer.status_code, answer.text, "GetObject")
        found, version = answer.headers, self._version(answer.headers)
        size = {"ContentLength": int(found["Content-Length"])} if "Content-Length" in found else {}
        return {
            "ContentRange": found.get("Content-Range", ""),
            "ETag": f'"{version}"' if version else "",
            "Body": answer.raw,
            **size,
        }

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Botocore's call of this name: size and version of an object.

        Raises:
            ClientError: there is none, or the server refuses it.
        """
        found = self.about(Bucket, Key)
        if found is None:
            raise refusal(404, "", "HeadObject")
        return {"ContentLength": found.size, "ETag": f'"{found.version}"' if found.version else ""}


def refusal(status: int, says: str, operation: str) -> ClientError:
    """A server's refusal as S3 would say it.

    Args:
        status: of the answer, of HTTP.
        says: its text.
        operation: S3's name of what was asked for.
    """
    expired = status == 401 or (status == 403 and "time frame" in says)  # Azure's word for a token that is too old
    return ClientError(
        {"Error": {"Code": "ExpiredToken" if expired else str(status), "Message": says[:500]}}, operation
    )
