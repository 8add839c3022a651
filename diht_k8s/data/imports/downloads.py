"""Images from the web, each asked for once; a host that fails is given time, and left alone in the end.

A table of URLs is written by others. So an address that is not public is refused unless its host is allowed, after every
redirect; a site's wish not to be used (`X-Robots-Tag`) is respected.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ResponseError,
    SSLError,
    TimeoutError,
)

from diht_k8s.data.shards.images import BadImageError
from diht_k8s.data.shards.samples import MAX_MEMBER_BYTES

SOCKET_SECONDS: Final = 10.0
"""Without a byte of an answer."""
TOTAL_SECONDS: Final = 60.0
"""For a body."""
FIRST_DELAY: Final = 0.5
"""Seconds before the next request to a host that failed; each further fault doubles it."""
MAX_DELAY: Final = 30.0
GIVE_UP: Final = 8
"""Faults in a row after which a host is left alone: some two minutes of waiting."""
AGENT: Final = "diht-k8s"
ONCE: Final = urllib3.Retry(
    total=None, connect=0, read=0, other=0, status=0, redirect=5, respect_retry_after_header=False
)
"""Redirects are followed, nothing else is asked for again."""
DISALLOWED: Final = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
"""Directives of X-Robots-Tag by which a site refuses, as img2dataset takes them."""
CHUNK: Final = 1 << 16
OVERLOADED: Final = (429, 500, 502, 503, 504)
"""Statuses that speak of the host and not of the image."""


@dataclass
class _Host:
    faults: int = 0
    """in a row."""
    last_fault: float = 0.0
    not_before: float = 0.0


class HostPatience:
    """When which host may be asked."""

    def __init__(
        self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._now, self._sleep = now, sleep
        self._lock = threading.Lock()
        self._failing: dict[str, _Host] = {}

    def wait(self, host: str) -> float:
        """Wait until a host may be asked; the time at which it is. Those that wait for one host go one after another.

        Raises:
            BadImageError: the host is left alone.
        """
        with self._lock:
            now = start = self._now()
            if (state := self._failing.get(host)) is not None:
                start = max(now, state.not_before)
                state.not_before = start + _delay(state.faults)
        if start > now:
            self._sleep(start - now)
        state = self._failing.get(host)
        if state is not None and state.faults >= GIVE_UP:
            raise BadImageError("host_given_up")
        return self._now()

    def note(self, host: str, asked: float, *, fault: bool, retry_after: float = 0.0) -> None:
        """Say what came of a request.

        Args:
            host: that was asked.
            asked: what `wait` gave.
            fault: whether the host failed.
            retry_after: seconds that it wants to be left alone.
        """
        with self._lock:
            if not fault:
                self._failing.pop(host, None)
                return
            state, now = self._failing.setdefault(host, _Host()), self._now()
            if asked >= state.last_fault:  # requests that were on their way together are one fault
                state.faults += 1
                state.last_fault = now
            wanted = max(_delay(state.faults), min(retry_after, MAX_DELAY))
            state.not_before = max(state.not_before, now + wanted)


def _delay(faults: int) -> float:
    return min(FIRST_DELAY * 2 ** (faults - 1), MAX_DELAY)


class Web:
    """Asks for images."""

    def __init__(self, allowed: Collection[str] = (), patience: HostPatience | None = None) -> None:
        """Open no connection yet.

        Args:
            allowed: hosts whose addresses need not be public.
            patience: shared by all threads.
        """
        self._patience = patience or HostPatience()
        self._options: Mapping[str, Any] = {
            "timeout": urllib3.Timeout(connect=SOCKET_SECONDS, read=SOCKET_SECONDS),
            # a connection that is used again may be gone, and its image would count as failed without being asked for
            "headers": {"User-Agent": AGENT, "Accept": "image/*,*/*;q=0.1", "Connection": "close"},
            "num_pools": 64,
            "maxsize": 16,
        }
        self._direct = urllib3.PoolManager(**self._options)
        self._direct.pool_classes_by_scheme = _guarded_pools(frozenset(allowed))
        self._proxies = {
            scheme: urllib3.ProxyManager(uri, **self._options)
            for scheme, uri in urllib.request.getproxies().items()
            if scheme in ("http", "https") and uri.startswith("http")
        }

    def get(self, url: str, sha256: str | None = None) -> bytes:
        """The body of an image's URL, asked for once.

        Args:
            url: http or https.
            sha256: hexadecimal digest that the body must have; None takes any.

        Raises:
            BadImageError: it did not come; the reason is the cause.
        """
        try:
            parts = urlsplit(url)
            scheme, host = parts.scheme, parts.hostname or ""
        except ValueError:
            scheme, host = "", ""
        if scheme not in ("http", "https") or not host:
            raise BadImageError("url_invalid")
        asked = self._patience.wait(host)
        status, retry_after = 0, 0.0
        try:
            with _causes():
                response = self._manager(scheme, host).request("GET", url, preload_content=False, retries=ONCE)
                try:
                    status, retry_after = response.status, _seconds(response.headers.get("Retry-After"))
                    if status != 200:
                        raise BadImageError(f"http_{status}")
                    if _is_disallowed(response.headers.getlist("X-Robots-Tag")):
                        raise BadImageError("disallowed_by_robots_tag")
                    body = _body(response, asked_at=time.monotonic())
                finally:
                    response.close()
        except BadImageError as error:
            fault = status in OVERLOADED or error.reason in HOST_FAULTS
            self._patience.note(host, asked, fault=fault, retry_after=retry_after)
            raise
        self._patience.note(host, asked, fault=False)
        if sha256 is not None and hashlib.sha256(body).hexdigest() != sha256.lower():
            raise BadImageError("sha256_differs")
        return body

    def _manager(self, scheme: str, host: str) -> urllib3.PoolManager:
        proxy = self._proxies.get(scheme)
        return self._direct if proxy is None or urllib.request.proxy_bypass(host) else proxy


HOST_FAULTS: Final = ("timeout", "connection_reset", "connection_failed", "host_unknown", "tls_failed", "body_short")


@dataclass(frozen=True)
class Download:
    """An image that is asked for when its record is written."""

    web: Web
    url: str
    sha256: str | None = None

    def read(self) -> bytes:
        """Its bytes; raises what `Web.get` does."""
        return self.web.get(self.url, self.sha256)


class _PrivateAddressError(HTTPError):
    """A host's address is not public."""


_CAUSES: Final = (
    (_PrivateAddressError, "address_not_public"),
    (NameResolutionError, "host_unknown"),
    (NewConnectionError, "connection_failed"),
    (TimeoutError, "timeout"),
    (SSLError, "tls_failed"),
    (ResponseError, "too_many_redirects"),
    (ProtocolError, "connection_reset"),
    (ValueError, "url_invalid"),
)
"""Of urllib3's errors the cause; the first that fits."""


def _guarded_pools(allowed: Collection[str]) -> dict[str, Any]:
    """Pools whose connections end before they send a byte where the address is not public."""

    def guarded(connection: Any, host: str) -> Any:
        address = ipaddress.ip_address(connection.getpeername()[0].partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        if host not in allowed and not address.is_global:
            connection.close()
            raise _PrivateAddressError(f"{host} is {address}")
        return connection

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return guarded(super()._new_conn(), self.host)

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return guarded(super()._new_conn(), self.host)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain  # pyright: ignore[reportAssignmentType] # urllib3 annotates a protocol that its own classes break

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted  # pyright: ignore[reportAssignmentType]

    return {"http": PlainPool, "https": EncryptedPool}


def _body(response: urllib3.BaseHTTPResponse, asked_at: float) -> bytes:
    found = bytearray()
    while chunk := response.read1(CHUNK):
        found += chunk
        if len(found) > MAX_MEMBER_BYTES:
            raise BadImageError("picture_file_too_large")
        if time.monotonic() - asked_at > TOTAL_SECONDS:
            raise BadImageError("timeout")
    return bytes(found)


@contextmanager
def _causes() -> Iterator[None]:
    """Turn urllib3's errors into causes."""
    try:
        yield
    except BadImageError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        raise BadImageError(_cause(error)) from error


def _cause(error: BaseException) -> str:
    found = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
    if isinstance(found, ProtocolError) and "IncompleteRead" in str(found):
        return "body_short"
    return next((cause for kind, cause in _CAUSES if isinstance(found, kind)), "connection_failed")


def _is_disallowed(headers: Collection[str]) -> bool:
    for value in headers:
        agent, colon, directives = value.rpartition(":")
        if colon and agent.strip().lower() != AGENT:
            continue
        if DISALLOWED.intersection(word.strip().lower() for word in directives.split(",")):
            return True
    return False


def _seconds(retry_after: str | None) -> float:
    """The seconds of a `Retry-After`; 0 where it is a date or missing."""
    return float(retry_after) if retry_after is not None and retry_after.strip().isdigit() else 0.0
