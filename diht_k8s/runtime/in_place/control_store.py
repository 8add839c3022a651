"""The control store of a gang: a small server in launcher 0, apart from the store of the ranks (see `store`).

It lives as long as the Job, so that launchers can agree on the next round when all ranks are gone. All traffic is in
one thread: a store whose host hangs blocks that thread alone, and the launcher sees how long ago it last answered.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from diht_k8s.runtime.in_place.rounds import Register, StoreView
from diht_k8s.runtime.in_place.store import ProtocolError, StoreClient, StoreServer

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

    def acknowledge(self, round_: int) -> None:
        """Say that the ranks of all earlier rounds have ended here."""
        self._tell(lambda store: store.set(f"acknowledged/{round_}/{self._node}", "1"))

    def announce(self, round_: int, address: str) -> None:
        """Publish the address at which the ranks of a round meet."""
        self._tell(lambda store: store.set(f"address/{round_}", address))

    def report(self, round_: int) -> None:
        """Say that the ranks of this node have ended well."""
        self._tell(lambda store: store.set(f"done/{round_}/{self._node}", "1"))

    def shutdown(self) -> None:
        """Say that this launcher has seen the end."""
        self._tell(lambda store: store.set(f"seen/{self._node}", "1"))

    def wait_outside(self, round_: int) -> None:
        """Say that this node, which is no part of the round, waits to be taken in."""
        self._tell(lambda store: store.set(f"waits/{round_}/{self._node}", "1"))

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
        return StoreView(
            register,
            acknowledged=store.has_all(f"acknowledged/{round_}/", self._nodes, register.without),
            address=address,
            done=store.has_all(f"done/{round_}/", self._nodes, register.without),
            all_left=store.has_all("seen/", self._nodes, (0, *register.without)),
            replaced=replaced,
            waiting=frozenset(node for node in register.without if store.get(f"waits/{round_}/{node}") is not None),
        )
