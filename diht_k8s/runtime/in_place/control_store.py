"""The control store of a gang: a small key-value server in launcher 0, apart from the store of the ranks, its client in
each launcher, and how they talk.

It lives as long as the Job, so that launchers can agree on the next round when all ranks are gone. All traffic is in
one thread: a store whose host hangs blocks that thread alone, and the launcher sees how long ago it last answered.

It takes the place of torch's TCPStore, which serves everybody who reaches its port and ends on bytes that it does not
know. Here nobody without the token of the attempt gets an answer, and no connection can keep another one waiting.

Whoever reaches the port may send anything. So the server speaks first: a random challenge. The client answers with one
of its own and an HMAC of both under the token; the server's HMAC of both comes back. Neither says more before, the
token is never sent, and an answer that was overheard fits no other challenge. What follows is neither encrypted nor
signed.

A frame is its length as four bytes, the highest first, then as many bytes of JSON.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from pydantic import ValidationError

from diht_k8s.runtime.in_place.rounds import LauncherAction, Register, StoreView

ANSWER_S: Final = 5.0
"""Time for a proof, a message or an answer to come."""
SILENCE_S: Final = 60.0
"""A client that says nothing for this long is gone; it asks ten times a second."""
MOST_STRANGERS: Final = 128
"""Connections that have not shown the token; the oldest gives way, so that a flood keeps no launcher out."""
MOST_KEYS: Final = 2**20


class StoreServer:
    """Serves in a thread of its own until it is closed."""

    def __init__(self, token: str, port: int, *, everywhere: bool, given: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            token: what clients must know.
            port: to listen on; 0 takes a free one.
            everywhere: on all addresses of this host, else on the loopback.
            given: what the store begins with.

        Raises:
            OSError: the port is not free.
        """
        self._token, self._values = token, dict(given or {})
        self._strangers: dict[asyncio.StreamWriter, None] = {}
        self._socket = _listening(port, everywhere=everywhere)
        self.port: int = self._socket.getsockname()[1]
        self._serving, self._end = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve()], name="store server", daemon=True)
        self._thread.start()
        self._serving.wait()

    def close(self) -> None:
        """End all connections."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(ANSWER_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda loop, context: None)  # a connection of anybody's is no news
        server = await asyncio.start_server(self._talk, sock=self._socket, backlog=1024)
        self._serving.set()
        await self._end.wait()
        server.close()  # without `wait_closed`, which since Python 3.12 waits for clients

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; whatever is wrong with it ends it and nothing else."""
        try:
            await self._admit(reader, writer)
            while not self._end.is_set():  # a message that comes with the cancellation hides it from `wait_for`
                header = await asyncio.wait_for(reader.readexactly(HEADER_BYTES), SILENCE_S)
                body = await asyncio.wait_for(reader.readexactly(body_length(header)), ANSWER_S)
                writer.write(frame(self._answer(message(body))))
                await asyncio.wait_for(writer.drain(), ANSWER_S)
        except (ProtocolError, OSError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self._strangers.pop(writer, None)
            writer.transport.abort()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._strangers[writer] = None
        if len(self._strangers) > MOST_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.transport.abort()
        mine = challenge()
        writer.write(mine)
        said = await asyncio.wait_for(reader.readexactly(CHALLENGE_BYTES + PROOF_BYTES), ANSWER_S)
        theirs, shown = said[:CHALLENGE_BYTES], said[CHALLENGE_BYTES:]
        check_proof(shown, self._token, b"client", mine, theirs)
        self._strangers.pop(writer, None)
        writer.write(proof(self._token, b"server", mine, theirs))
        await asyncio.wait_for(writer.drain(), ANSWER_S)

    def _answer(self, asked: Any) -> Any:
        match asked:
            case ["get", str(key)]:
                return self._values.get(key)
            case ["all", str(prefix), int(count), [*without]] if count <= MOST_KEYS:
                return all(f"{prefix}{number}" in self._values for number in range(count) if number not in without)
            case ["set", str(key), str(value)] if key in self._values or len(self._values) < MOST_KEYS:
                self._values[key] = value
                return None
            case ["replace", str(key), str(old), str(new)]:
                if self._values.get(key) == old:
                    self._values[key] = new
                return self._values.get(key)
            case _:
                raise ProtocolError("an unknown request")


def _listening(port: int, *, everywhere: bool) -> socket.socket:
    if everywhere and socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 may be turned off
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("" if everywhere else "127.0.0.1", port))


class StoreClient:
    """One connection. Every method raises `OSError` or `ProtocolError`; the connection is of no use afterwards."""

    def __init__(self, token: str, host: str, port: int) -> None:
        """Connect, and show each other that both sides know the token."""
        self._socket = socket.create_connection((host, port), timeout=ANSWER_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mine, theirs = challenge(), self._read(CHALLENGE_BYTES)
            self._socket.sendall(mine + proof(token, b"client", theirs, mine))
            check_proof(self._read(PROOF_BYTES), token, b"server", theirs, mine)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def get(self, key: str) -> str | None:
        """A value; None if there is none."""
        return self._ask(["get", key], lambda found: found is None or isinstance(found, str))

    def has_all(self, prefix: str, count: int, without: Collection[int] = ()) -> bool:
        """Whether there are values for the prefix with each number below `count`, except for some."""
        return self._ask(["all", prefix, count, list(without)], lambda found: isinstance(found, bool))

    def set(self, key: str, value: str) -> None:
        """Set a value."""
        self._ask(["set", key, value], lambda found: found is None)

    def replace(self, key: str, old: str, new: str) -> None:
        """Set a value if it is `old`."""
        self._ask(["replace", key, old, new], lambda found: isinstance(found, str))

    def _ask(self, request: list[Any], fits: Callable[[Any], bool]) -> Any:
        self._socket.sendall(frame(request))
        answer = message(self._read(body_length(self._read(HEADER_BYTES))))
        if not fits(answer):
            raise ProtocolError("an unknown answer")
        return answer

    def _read(self, length: int) -> bytes:
        read = bytearray()
        while len(read) < length:
            block = self._socket.recv(length - len(read))
            if not block:
                raise ConnectionResetError("the control store has closed the connection")
            read += block
        return bytes(read)


CHALLENGE_BYTES: Final = 32
PROOF_BYTES: Final = 32
HEADER_BYTES: Final = 4
MOST_FRAME_BYTES: Final = 2**18
"""A register with two messages of a failure has less than 64 KiB."""


class ProtocolError(Exception):
    """The other side does not know the token, or does not keep to the protocol."""


def challenge() -> bytes:
    """A new one."""
    return secrets.token_bytes(CHALLENGE_BYTES)


def proof(token: str, side: bytes, servers: bytes, clients: bytes) -> bytes:
    """What shows that a side, `client` or `server`, knows the token: of no use to the other side, or after another
    challenge.
    """
    return hmac.digest(token.encode(), b"diht control store " + side + servers + clients, "sha256")


def check_proof(given: bytes, token: str, side: bytes, servers: bytes, clients: bytes) -> None:
    """Compare in constant time.

    Raises:
        ProtocolError: it is another one.
    """
    if not hmac.compare_digest(given, proof(token, side, servers, clients)):
        raise ProtocolError(f"the {side.decode()} does not know the token of this attempt")


def frame(message: Any) -> bytes:
    """A message on the wire.

    Raises:
        ProtocolError: it is too large.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MOST_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes is too large")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes) -> int:
    """The bytes that follow a header.

    Raises:
        ProtocolError: more than a message may have.
    """
    length = int.from_bytes(header, "big")
    if length > MOST_FRAME_BYTES:
        raise ProtocolError(f"a message of {length} bytes is too large")
    return length


def message(body: bytes) -> Any:
    """A message from the bytes behind its header.

    Raises:
        ProtocolError: it is no JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("no JSON") from error


POLL_S: Final = 0.1
RECONNECT_S: Final = 1.0
_REGISTER: Final = "register"


class ControlStore:
    """One launcher's connection; launcher 0 hosts the store."""

    def __init__(
        self, *, node: int, nodes: int, host: str, port: int, token: str, elastic: bool = False, poll_s: float = POLL_S
    ) -> None:
        """Begin to connect.

        Args:
            node: rank of this launcher.
            nodes: number of launchers.
            host: of launcher 0.
            port: of the store; 0 takes a free one, which works for a single launcher only.
            token: of this attempt, which all its launchers know and nobody else.
            elastic: whether the gang goes on as nodes go and come.
            poll_s: seconds between two looks at the store.
        """
        self._node, self._nodes, self._host, self._port, self._poll_s = node, nodes, host, port, poll_s
        self._token, self._elastic = token, elastic
        self._name, self._named = secrets.token_hex(8), False
        """of this launcher, unlike that of one before it in its place, and whether the store has it."""
        self._server: StoreServer | None = None
        self.view: StoreView | None = None
        """what was read last; None before the first time."""
        self.contact_at = time.monotonic()
        """when the store last answered."""
        self._work: queue.SimpleQueue[Callable[[StoreClient], object]] = queue.SimpleQueue()
        self._told = threading.Event()
        self._closed = threading.Event()
        # A daemon: it may hang in a store that does not answer, and must not keep the launcher from ending.
        self._thread = threading.Thread(target=self._talk, name="control store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the connection, and on launcher 0 the store."""
        self._closed.set()
        self._told.set()
        self._thread.join(2 * self._poll_s + 1)

    def note(self, action: LauncherAction, round_: int) -> None:
        """Tell all launchers something of a round (`rounds.TOLD`)."""
        self._tell(lambda store: store.set(f"{action}/{round_}/{self._node}", "1"))

    def announce(self, round_: int, address: str) -> None:
        """Publish the address at which the ranks of a round meet."""
        self._tell(lambda store: store.set(f"address/{round_}", address))

    def propose(self, before: Register, new: Register) -> None:
        """Move the register, unless it has moved since `before` was read."""
        self._tell(lambda store: store.replace(_REGISTER, before.model_dump_json(), new.model_dump_json()))

    def _tell(self, work: Callable[[StoreClient], object]) -> None:
        self._work.put(work)
        self._told.set()

    def _talk(self) -> None:
        """Connect, write and read until the end; whatever fails is tried again, all writes may be repeated."""
        store, pending = None, None
        while not self._closed.is_set():
            try:
                if store is None:
                    store = self._connected()
                while pending is not None or not self._work.empty():
                    pending = pending or self._work.get()
                    pending(store)
                    pending = None
                self.view = self._read(store)
                self.contact_at = time.monotonic()
            except (OSError, ProtocolError, ValidationError):
                if store is not None:
                    store.close()
                store = None
                self._closed.wait(RECONNECT_S)
            else:
                self._told.wait(self._poll_s)
                self._told.clear()

        if store is not None:
            store.close()
        if self._server is not None:
            self._server.close()

    def _connected(self) -> StoreClient:
        if self._node != 0:
            return StoreClient(self._token, self._host, self._port)
        if self._server is None:
            begin = {_REGISTER: Register(elastic=self._elastic).model_dump_json()}
            self._server = StoreServer(self._token, self._port, everywhere=self._nodes > 1, given=begin)
        return StoreClient(self._token, "127.0.0.1", self._server.port)

    def _read(self, store: StoreClient) -> StoreView:
        if self._elastic and not self._named:
            store.set(f"launcher/{self._node}", self._name)
            self._named = True
        register = Register.model_validate_json(store.get(_REGISTER) or "")
        round_ = register.round
        address = store.get(f"address/{round_}")
        replaced = self._elastic and store.get(f"launcher/{self._node}") != self._name
        if self._node != 0:
            return StoreView(register, address=address, replaced=replaced)

        def all_told(action: LauncherAction, *also: int) -> bool:
            return store.has_all(f"{action}/{round_}/", self._nodes, (*also, *register.without))

        waits = LauncherAction.WAIT_OUTSIDE
        return StoreView(
            register,
            acknowledged=all_told(LauncherAction.ACKNOWLEDGE),
            address=address,
            done=all_told(LauncherAction.REPORT),
            all_left=all_told(LauncherAction.SHUTDOWN, 0),
            replaced=replaced,
            waiting=frozenset(node for node in register.without if store.get(f"{waits}/{round_}/{node}") is not None),
        )
