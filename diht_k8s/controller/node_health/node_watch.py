"""The watch of nodes, which keeps those on which monitors report faults."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from diht_k8s.controller.cache.optional_kinds import OptionalWatch
from diht_k8s.controller.cache.watch import WATCH_S
from diht_k8s.controller.node_health.faults import NodeFault, WatchedFault, faults_of
from diht_k8s.kube.client import PAGE
from diht_k8s.kube.object_fields import Document, Unreadable, guarded


class NodeWatch(OptionalWatch):
    """Keeps the nodes that have faults; a node without any is not kept."""

    def __init__(
        self,
        listing: Callable[..., Any],
        watched: tuple[WatchedFault, ...],
        changed: Callable[[str], None],
        watch_s: int = WATCH_S,
    ) -> None:
        """Make one; `start` starts it.

        Args:
            listing: the list call, which returns a response that can be streamed.
            watched: faults that count.
            changed: called with the name of a node whose faults changed, from the watch's thread.
            watch_s: seconds after which the server is to end a watch.
        """
        super().__init__("Node", listing, page=PAGE, watch_s=watch_s)
        self._watched, self._changed = watched, changed
        self._lock = threading.Lock()
        self._faults: dict[str, tuple[NodeFault, ...]] = {}
        self._uids: dict[str, str] = {}

    def faults(self, node: str) -> tuple[NodeFault, ...]:
        """The faults of a node, urgent ones first; none if it is healthy."""
        with self._lock:
            return self._faults.get(node, ())

    def unhealthy(self) -> list[str]:
        """Names of the nodes that have faults."""
        with self._lock:
            return sorted(self._faults)

    def _add(self, document: Document) -> str | None:
        read = guarded(self._read, document)
        if isinstance(read, Unreadable):
            self._skip(read)
            return None
        assert read is not None, "every node is read"
        name, uid, found = read
        with self._lock:
            before = self._faults.get(name, ())
            if found:
                self._faults[name], self._uids[uid] = found, name
            else:
                self._faults.pop(name, None)
                self._uids.pop(uid, None)
        if found != before:
            self._changed(name)
        return uid

    def _read(self, document: Document) -> tuple[str, str, tuple[NodeFault, ...]]:
        metadata = document["metadata"]
        return metadata["name"], metadata["uid"], faults_of(document, self._watched)

    def _remove(self, metadata: Document) -> None:
        self._drop(metadata["uid"])

    def _retain(self, uids: set[str]) -> None:
        for uid in [uid for uid in self._uids if uid not in uids]:
            self._drop(uid)

    def _outdate(self) -> None:
        """Nothing to do: the newest answer always counts."""

    def _drop(self, uid: str) -> None:
        with self._lock:
            name = self._uids.pop(uid, None)
            found = self._faults.pop(name, None) if name is not None else None
        if name is not None and found:
            self._changed(name)
