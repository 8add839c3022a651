"""The control store of a gang: torch's TCPStore in launcher 0, apart from the store of the ranks.

It lives as long as the Job, so that launchers can agree on the next round when all ranks are gone. All traffic is in
one thread: a store whose host hangs blocks that thread alone, and the launcher sees how long ago it last answered.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from diht_k8s.recipe.runtime.in_place.rounds import FIRST_ROUND_S, Register, RoundFailure, StoreView, next_register

if TYPE_CHECKING:
    from torch.distributed import TCPStore

POLL_S: Final = 0.1
RECONNECT_S: Final = 1.0
_REGISTER: Final = "register"


class ControlStore:
    """One launcher's connection; launcher 0 hosts the store."""

    def __init__(self, *, node: int, nodes: int, host: str, port: int, poll_s: float = POLL_S) -> None:
        """Begin to connect.

        Args:
            node: rank of this launcher.
            nodes: number of launchers.
            host: of launcher 0.
            port: of the store; 0 takes a free one, which works for a single launcher only.
            poll_s: seconds between two looks at the store.
        """
        self._node, self._nodes, self._host, self._port, self._poll_s = node, nodes, host, port, poll_s
        self.view: StoreView | None = None
        """what was read last; None before the first time."""
        self.contact_at = time.monotonic()
        """when the store last answered."""
        self._work: queue.SimpleQueue[Callable[[TCPStore], object]] = queue.SimpleQueue()
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

    def propose(self, before: Register, failure: RoundFailure) -> None:
        """Move the register to what follows from a failure, unless it has moved since `before` was read."""
        new = next_register(before, failure)
        self._tell(lambda store: store.compare_set(_REGISTER, before.model_dump_json(), new.model_dump_json()))

    def _tell(self, work: Callable[[TCPStore], object]) -> None:
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
            except RuntimeError:  # torch's errors of a store are of this kind
                store = store if self._node == 0 else None
                self._closed.wait(RECONNECT_S)
            else:
                self._told.wait(self._poll_s)
                self._told.clear()

    def _connected(self) -> TCPStore:
        # Not at the top: torch takes seconds to import, and a launcher is asked for its arguments before.
        from torch.distributed import TCPStore

        hosts = self._node == 0
        store = TCPStore(
            self._host,
            self._port,
            is_master=hosts,
            timeout=timedelta(seconds=FIRST_ROUND_S),
            wait_for_workers=False,
        )
        if hosts:
            store.compare_set(_REGISTER, "", Register().model_dump_json())
        return store

    def _read(self, store: TCPStore) -> StoreView:
        register = Register.model_validate_json(store.get(_REGISTER))
        round_, key = register.round, f"address/{register.round}"
        address = store.get(key).decode() if store.check([key]) else None
        if self._node != 0:
            return StoreView(register, address=address)
        nodes = range(self._nodes)
        return StoreView(
            register,
            acknowledged=store.check([f"acknowledged/{round_}/{node}" for node in nodes]),
            address=address,
            done=store.check([f"done/{round_}/{node}" for node in nodes]),
            all_left=self._nodes == 1 or store.check([f"seen/{node}" for node in nodes[1:]]),
        )
