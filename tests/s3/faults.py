"""A proxy in front of an object store that disturbs what passes: refusals, cut and short answers, slowness, expired
credentials; and counts it.

It runs in a thread of the test, on asyncio, and hands each request on by a connection of its own. Signatures stay valid
because the Host header does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

HEAD_BYTES = 1 << 16
PAUSE_S = 0.02


def shorten_pauses(setting: Callable[[object, str, object], None] = setattr) -> None:
    """Have refused requests be repeated at once; each store's own pauses rise to 20 s."""
    for module, retries, name in (
        ("botocore.retries.standard", "ExponentialBackoff", "delay_amount"),
        ("urllib3.util", "Retry", "get_backoff_time"),
        ("diht_k8s.data.shards.azure_store", "_Retry", "get_backoff_time"),
        ("diht_k8s.data.shards.google_store", "RETRY", "_maximum"),
    ):
        with contextlib.suppress(ModuleNotFoundError):  # a machine may lack a store's package
            found = getattr(importlib.import_module(module), retries)
            pause = getattr(found, name)
            setting(found, name, _shortened(pause) if callable(pause) else PAUSE_S)


def _shortened(pause: Callable[..., float]) -> Callable[..., float]:
    return lambda *given: min(pause(*given), PAUSE_S)


@dataclass
class Faults:
    """What is disturbed from now on; a test changes it while requests pass."""

    refuse: float = 0.0
    """share of requests that get 503 SlowDown."""
    burst: tuple[int, int] = (0, 1)
    """(N, M): N consecutive requests of every M get 503 SlowDown."""
    cut: float = 0.0
    """share of answers with a body whose connection breaks in the middle."""
    short: float = 0.0
    """share of ranges that come shorter than asked for, and say so."""
    long: float = 0.0
    """share of ranges that come longer than asked for, and say so."""
    unversioned: float = 0.0
    """share of ranges that do not say which version of the object they are of."""
    slow_s: float = 0.0
    """pause before an answer."""
    expired: bool = False
    """whether credentials have expired."""
    unconditional: bool = False
    """whether the condition of Google's writes is lost."""
    forbidden: bool = False
    """whether the credentials lack rights."""
    seed: int = 0
    only: str = ""
    """pattern of the paths that are disturbed; all without one."""
    counts: Counter[str] = field(default_factory=Counter)
    """requests by what happened to them, `VERB /path`, and `as AUTHORIZATION` with its beginning."""


class Proxy:
    """Listens on the loopback until it is closed."""

    def __init__(self, upstream: str) -> None:
        address, slash, path = upstream.removeprefix("http://").partition("/")
        host, _, port = address.partition(":")
        self._upstream, self._path = (host, int(port)), slash + path
        self.set()
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(60)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._path}"

    def set(self, **faults: object) -> Faults:
        """Other faults, with counts of their own."""
        self.faults = Faults(**faults)  # type: ignore[arg-type]
        self._drawn: Counter[str] = Counter()
        return self.faults

    def _happens(self, fault: str) -> bool:
        """Whether a fault happens now: its n-th draw is the same however requests cross."""
        self._drawn[fault] += 1
        return random.Random(f"{fault} {self._drawn[fault]} {self.faults.seed}").random() < getattr(self.faults, fault)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES))
        self._port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(client, answer):
                pass
        answer.close()

    async def _one(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> bool:
        """One request; False when the connection is to end."""
        head = await client.readuntil(b"\r\n\r\n")
        verb, path = head.split(b" ", 2)[:2]
        faults = self.faults
        faults.counts["requests"] += 1
        faults.counts[f"as {(_field(head, b'authorization') or b'').decode()[:20]}"] += 1
        faults.counts[f"{verb.decode()} {path.decode().partition('?')[0]}"] += 1
        if _has(head, b"expect: 100-continue"):
            answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)expect: 100-continue\r\n", b"", head)
        if faults.unconditional:
            head = head.replace(b"ifGenerationMatch=0", b"prettyPrint=false")
        body = await _body(head, client)
        disturbed = re.search(faults.only, path.decode()) is not None
        if disturbed and faults.slow_s:
            await asyncio.sleep(faults.slow_s)
        in_burst = faults.counts["requests"] % faults.burst[1] < faults.burst[0]
        if disturbed and (faults.expired or faults.forbidden or in_burst or self._happens("refuse")):
            faults.counts["refused"] += 1
            error = (b"403 Forbidden", b"AccessDenied") if faults.forbidden else (b"503 Slow Down", b"SlowDown")
            error = _expired(head) if faults.expired else error
            answer.write(_refusal(*error, head=verb == b"HEAD"))
            await answer.drain()
            return True
        return await self._forward(verb, head, body, answer, disturbed=disturbed)

    async def _forward(
        self, verb: bytes, head: bytes, body: bytes, answer: asyncio.StreamWriter, *, disturbed: bool
    ) -> bool:
        faults = self.faults
        server, request = await asyncio.open_connection(*self._upstream, limit=HEAD_BYTES)
        try:
            request.write(head + body)
            reply = await server.readuntil(b"\r\n\r\n")
            content = (
                b""
                if verb == b"HEAD" or b" 304 " in reply[:20] or b" 204 " in reply[:20]
                else await _body(reply, server)
            )
        finally:
            request.close()
        if disturbed and len(content) > 10 and _field(reply, b"content-range") and self._happens("short"):
            faults.counts["short"] += 1
            content = content[: len(content) // 2]
            reply = _resized(reply, len(content))
        if disturbed and len(content) > 10 and _field(reply, b"content-range") and self._happens("long"):
            faults.counts["long"] += 1
            content += content[:7]
            reply = _resized(reply, len(content))
        if disturbed and _field(reply, b"content-range") and self._happens("unversioned"):
            faults.counts["unversioned"] += 1
            reply = re.sub(rb"(?im)^(etag|x-goog-generation):.*\r\n", b"", reply)
        answer.write(reply)
        if disturbed and verb == b"GET" and len(content) > 10 and self._happens("cut"):
            faults.counts["cut"] += 1
            answer.write(content[: len(content) // 3])
            await answer.drain()
            return False
        answer.write(content)
        await answer.drain()
        return not _has(reply, b"connection: close")


async def _body(head: bytes, source: asyncio.StreamReader) -> bytes:
    """The body behind a head, as it came."""
    if _has(head, b"transfer-encoding: chunked"):
        parts = []
        while True:
            line = await source.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            parts.append(line)
            if size == 0:
                while (line := await source.readuntil(b"\r\n")) != b"\r\n":
                    parts.append(line)
                return b"".join([*parts, b"\r\n"])
            parts.append(await source.readexactly(size + 2))
    return await source.readexactly(int(_field(head, b"content-length") or 0))


def _field(head: bytes, name: bytes) -> bytes | None:
    match = re.search(rb"(?im)^" + name + rb":\s*(.*?)\r$", head)
    return match[1] if match else None


def _expired(request: bytes) -> tuple[bytes, bytes]:
    """How each store says it, known by the request."""
    if _has(request, b"authorization: bearer") or _has(request, b"x-ms-version"):
        return b"401 Unauthorized", b"InvalidAuthenticationInfo"
    return b"400 Bad Request", b"ExpiredToken"


def _resized(reply: bytes, size: int) -> bytes:
    """The head of an answer that claims N bytes of its range."""
    begin = int(re.findall(rb"\d+", _field(reply, b"content-range") or b"0")[0])
    reply = re.sub(rb"(?i)(content-range: bytes )\d+-\d+", rb"\g<1>%d-%d" % (begin, begin + size - 1), reply)
    return re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % size, reply)


def _has(head: bytes, line: bytes) -> bool:
    return line in head.lower()


def _refusal(status: bytes, code: bytes, *, head: bool) -> bytes:
    body = (
        b"" if head else b"<?xml version='1.0'?><Error><Code>" + code + b"</Code><Message>by the test</Message></Error>"
    )
    return b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@contextlib.contextmanager
def proxy_before(upstream: str) -> Iterator[Proxy]:
    """A proxy while the block runs."""
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
